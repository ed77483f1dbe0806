#!/usr/bin/env python3
r"""Watch a network: replay a small capture over a cable of its own, and show the alerts as the edge finds them.

Run:
    python offload/demo-live.py --output-folder demo-output/live

First, if it is not there from an earlier run, a network is trained, calibrated, and its thresholds are chosen, on the
records of two other runs of the same small network (dataset/sample/network). The cable lies in a network namespace
that is made for it, so nothing reaches any other network; where only root may make one, run it as root. The edge client
observes one end of it, and a cloud worker answers over a private RabbitMQ node; without RabbitMQ the client runs exit 2
itself.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from utils import cli
from utils.errors import CloudUnavailableError, ToolkitError
from utils.files import make_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

    from tqdm import tqdm

    from offload.alerts.eve import Event
    from utils.schema import Thresholds

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "dataset" / "sample" / "network"
CLIENT = "offload/ee-processor-client.py"
MODEL = "alexnet"
SENDS, LISTENS = "cable0", "cable1"
INSIDE = "EE_DEMO_NETWORK"  # environment variable that is set inside the namespace


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--output-folder", type=Path, default=Path("demo-output/live"), metavar="D", help="(default: %(default)s)")
    add(
        "--capture",
        type=Path,
        default=SAMPLE / "capture.pcap.gz",
        metavar="PCAP",
        help="small Ethernet capture to replay (default: the bundled one)",
    )
    add("--epochs", type=cli.whole_number(1), default=3, metavar="N", help="of the training (default: %(default)s)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Show it as the arguments say."""
    from dataset.packets.replay import read_frames

    frames = list(read_frames(args.capture))
    make_folder(args.output_folder)
    calibrated, front = args.output_folder / "calibrated.pth", args.output_folder / "front.sav"
    if INSIDE not in os.environ:
        _check_namespaces()
        if not (calibrated.exists() and front.exists()):
            _prepare(args.output_folder, calibrated, front, args.epochs)
        sys.stdout.flush()
        command = [*_unshare(), sys.executable, __file__, *sys.argv[1:]]
        os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})  # one process, which signals reach
    _lay_cable()
    with contextlib.ExitStack() as stack:
        link, environment = stack.enter_context(_cloud(calibrated))
        client = [
            "--trained-network-file", calibrated, "--network", MODEL, *_options(_thresholds(front)), *link,
            "--interface", LISTENS, "--clamp-size", "--alerts", "-",
        ]  # fmt: skip
        log = stack.enter_context((args.output_folder / "client.log").open("w", encoding="utf-8"))
        print(f"\n{args.capture.name}, {frames[-1][0]:.0f} s, in windows of 15 s:", flush=True)
        _watch(frames, client, environment, log)
    print(f"what the client said besides: {args.output_folder / 'client.log'}")


def _prepare(folder: Path, calibrated: Path, front: Path, epochs: int) -> None:
    from utils.script_runner import run_script

    choose, evaluation = SAMPLE / "choose.csv.gz", folder / "evaluation.csv"
    with tempfile.TemporaryDirectory(dir=folder) as saves:
        run_script(
            "dnn/train-early-exit-network.py",
            ["--dataset-folder", SAMPLE, "--glob", "train", "--model", MODEL, "--epochs", epochs, "--keep", 1,
             "--output-folder", saves],
        )  # fmt: skip
        (trained,) = Path(saves).glob("*.pth")
        run_script(
            "calibration/Calibrate2exits.py",
            ["--trained-model", trained, "--calibrated-model-savefile", calibrated, "--dataset", choose,
             "--savefolder", folder],
        )  # fmt: skip
    run_script(
        "evaluations/generate-model-evaluation-csv.py",
        ["--trained-model", calibrated, "--dataset", choose, "--savefile", evaluation],
    )
    run_script("nsga2/nsga2_2variables.py", ["--eval-file", evaluation, "--savefile", front, "--solver", "exact"])


def _unshare() -> list[str]:
    return ["unshare", "--net", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]


def _check_namespaces() -> None:
    try:
        subprocess.run([*_unshare(), "ip", "link"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as problem:
        raise ToolkitError(
            "a network namespace cannot be made here; run it as root, and with iproute2 and util-linux installed"
        ) from problem


def _lay_cable() -> None:
    for words in (
        ("lo", "up"),
        ("add", SENDS, "type", "veth", "peer", "name", LISTENS),
        (SENDS, "up"),
        (LISTENS, "up"),
    ):
        command = ["ip", "link", *(words if words[0] == "add" else ("set", *words))]
        subprocess.run(command, check=True)


@contextlib.contextmanager
def _cloud(calibrated: Path) -> "Iterator[tuple[list[object], dict[str, str]]]":
    """Yield the options, and the variables of the environment, with which a client reaches a worker."""
    from offload.broker_options import PASSWORD_VARIABLE
    from offload.link.private_broker import PrivateBroker
    from utils.script_runner import serving

    try:
        broker = PrivateBroker()
    except CloudUnavailableError as problem:
        print(f"no RabbitMQ, so the edge runs exit 2 itself: {problem}")
        yield ["--process-exit2-locally"], {}
        return
    with broker:
        link = ["--mq-hostname", "127.0.0.1", "--mq-port", broker.port, "--mq-username", broker.username]
        worker = (*link, "--trained-network-file", calibrated, "--network", MODEL, "--quiet")
        password = {PASSWORD_VARIABLE: broker.password}
        with serving("offload/ee-processor-server.py", worker, password):
            yield link, password


def _thresholds(front_file: Path) -> "Thresholds":
    from nsga2.defaults import KNEE
    from nsga2.operating_point import front_table, marks, thresholds_of
    from utils.results import read_front

    table = front_table(read_front(front_file))
    return thresholds_of(table, marks(table)[KNEE])


def _options(thresholds: "Thresholds") -> list[object]:
    names = ("normal-exit1", "attack-exit1", "normal-exit2", "attack-exit2")
    limits = (
        thresholds.normal_exit_1, thresholds.attack_exit_1, thresholds.normal_exit_2, thresholds.attack_exit_2,
    )  # fmt: skip
    return [word for name, limit in zip(names, limits, strict=True) for word in (f"--{name}-min-certainty", limit)]


def _watch(
    frames: "list[tuple[float, bytes]]", client: list[object], environment: dict[str, str], log: IO[str]
) -> None:
    """Replay frames while a client observes it, and show what the client tells."""
    import json

    from tqdm import tqdm

    from offload.alerts.eve_view import format_alert, format_summary
    from utils.script_runner import format_command

    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(f"$ {format_command(CLIENT, client)}\n", flush=True)
    last: Event | None = None
    with (
        subprocess.Popen(
            [sys.executable, str(ROOT / CLIENT), *map(str, client)],
            env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
        ) as process,
        tqdm(total=len(frames), desc="replayed", unit=" frames", disable=None) as bar,
    ):  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                event = json.loads(line)
                if event["event_type"] == "alert":
                    with tqdm.external_write_mode(sys.stdout):
                        print(format_alert(event, colour=colour), flush=True)
                elif last is None:  # the client is there
                    threading.Thread(target=_replay, args=(frames, bar, process), daemon=True).start()
                last = event if event["event_type"] == "stats" else last
        finally:
            process.terminate()
    if process.returncode or last is None:
        raise ToolkitError(f"the client ended with exit code {process.returncode}; see {log.name}")
    print(format_summary(last, colour=colour))


def _replay(frames: "list[tuple[float, bytes]]", bar: "tqdm[NoReturn]", client: "subprocess.Popen[str]") -> None:
    """Send frames over the cable, and then end the client, which flushes its open window."""
    import socket

    from dataset.packets.replay import replay

    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as cable:
        cable.bind((SENDS, 0))

        def send(frame: bytes) -> None:
            cable.send(frame)
            bar.update()

        try:
            replay(iter(frames), send)
        finally:
            client.terminate()


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
