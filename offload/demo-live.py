#!/usr/bin/env python3
r"""Watch a network: replay a small capture over a virtual cable, and show the alerts as the edge finds them.

Run:
    python offload/demo-live.py --output-folder demo-output/live

The first run trains and calibrates a network and chooses its thresholds, on the records of two other runs of the same
network (dataset/sample/network). The cable is in a network namespace of its own, so no packet reaches another network;
run the demo as root if only root may create namespaces. The edge client observes one end of the cable, and a cloud
worker answers over a private RabbitMQ node; without RabbitMQ the client computes exit 2 itself.
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
from utils.script_runner import run_script

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
INSIDE = "EE_DEMO_NETWORK"  # environment variable that is set in the namespace


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
    add("--epochs", type=cli.whole_number(1), default=3, metavar="N", help="epochs of training (default: %(default)s)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Prepare the network, and show the replay."""
    from dataset.packets.replay import read_frames

    frames = list(read_frames(args.capture))
    make_folder(args.output_folder)
    calibrated, front = args.output_folder / "calibrated.pth", args.output_folder / "front.sav"
    if INSIDE not in os.environ:
        _check_namespaces()
        if not (calibrated.exists() and front.exists()):
            _prepare(args.output_folder, calibrated, front, args.epochs)
        sys.stdout.flush()
        command = [*_make_unshare_command(), sys.executable, __file__, *sys.argv[1:]]
        os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})  # not a child, so that signals reach it
    _add_cable()
    with contextlib.ExitStack() as stack:
        link, environment = stack.enter_context(_run_worker(calibrated))
        client = [
            "--trained-network-file", calibrated, "--network", MODEL, *_choose_thresholds(front).make_options(), *link,
            "--interface", LISTENS, "--clamp-size", "--alerts", "-",
        ]  # fmt: skip
        log = stack.enter_context((args.output_folder / "client.log").open("w", encoding="utf-8"))
        print(f"\n{args.capture.name}, {frames[-1][0]:.0f} s, in windows of 15 s:", flush=True)
        _watch(frames, client, environment, log)
    print(f"log of the client: {args.output_folder / 'client.log'}")


def _prepare(folder: Path, calibrated: Path, front: Path, epochs: int) -> None:

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


def _make_unshare_command() -> list[str]:
    return ["unshare", "--net", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]


def _check_namespaces() -> None:
    try:
        subprocess.run([*_make_unshare_command(), "ip", "link"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as problem:
        raise ToolkitError(
            "cannot create a network namespace; run the demo as root, and install iproute2 and util-linux"
        ) from problem


def _add_cable() -> None:
    for words in (
        ("lo", "up"),
        ("add", SENDS, "type", "veth", "peer", "name", LISTENS),
        (SENDS, "up"),
        (LISTENS, "up"),
    ):
        command = ["ip", "link", *(words if words[0] == "add" else ("set", *words))]
        subprocess.run(command, check=True)


@contextlib.contextmanager
def _run_worker(calibrated: Path) -> "Iterator[tuple[tuple[object, ...], dict[str, str]]]":
    """Run a worker; yield the options and environment variables with which a client reaches it."""
    from offload.link.private_broker import PrivateBroker

    try:
        broker = PrivateBroker()
    except CloudUnavailableError as problem:
        print(f"no RabbitMQ, so the edge computes exit 2 itself: {problem}")
        yield ("--process-exit2-locally",), {}
        return
    with broker, broker.run_worker(calibrated, MODEL):
        yield broker.options, broker.environment


def _choose_thresholds(front_file: Path) -> "Thresholds":
    from nsga2.defaults import KNEE
    from nsga2.operating_point import build_front_table, find_named_points, get_thresholds
    from utils.results import read_front

    table = build_front_table(read_front(front_file))
    return get_thresholds(table, find_named_points(table)[KNEE])


def _watch(
    frames: "list[tuple[float, bytes]]", client: list[object], environment: dict[str, str], log: IO[str]
) -> None:
    """Replay frames while a client observes them, and print its alerts and a summary."""
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
                elif last is None:  # the client's first stats event: it observes now
                    threading.Thread(target=_replay, args=(frames, bar, process), daemon=True).start()
                last = event if event["event_type"] == "stats" else last
        finally:
            process.terminate()
    if process.returncode or last is None:
        raise ToolkitError(f"the client ended with exit code {process.returncode}; see {log.name}")
    print(format_summary(last, colour=colour))


def _replay(frames: "list[tuple[float, bytes]]", bar: "tqdm[NoReturn]", client: "subprocess.Popen[str]") -> None:
    """Send frames over the cable, then stop the client, which decides its open window."""
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
