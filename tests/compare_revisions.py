#!/usr/bin/env python3
"""Compare the verdicts and alerts of this working tree with those of another revision, byte by byte.

Run:
    python tests/compare_revisions.py --reference 9e5e11c

Both revisions decide the same events in twelve runs of the edge client (datasets, captures, a capture that grows; with
features and activations; with a worker, alone and without an answer; with and without the cache; resumed). Each
run prints a line. A restructuring must leave all files as they were. Only the times of EVE's statistics are masked. It
needs RabbitMQ and git. Exit code 0: all files are equal; 1: some differ; their folder is printed and kept.
"""

import argparse
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # repo root

import pandas as pd

from offload.link.private_broker import PrivateBroker, find_free_port
from utils import cli
from utils.errors import InputFileError
from utils.schema import NOT_ASKED, REJECTED

CLIENT, WORKER = "offload/ee-processor-client.py", "offload/ee-processor-server.py"
LOCAL = ("--process-exit2-locally",)
THRESHOLDS = tuple(
    word
    for exit_number, least in ((1, 0.8), (2, 0.9))
    for name in ("normal", "attack")
    for word in (f"--{name}-exit{exit_number}-min-certainty", str(least))
)
"""With these, the network below accepts, offloads and rejects some of everything."""
MASKED = re.compile(r'"(timestamp|uptime)":("[^"]*"|\d+)')
LONGEST = 600.0
"""Seconds that one process may take, also on a busy machine."""


@dataclass(frozen=True)
class Run:
    """One run of the client.

    Attributes:
        name: of its files.
        options: beside the network's file, the thresholds and the output.
        worker: whether a worker answers; else no one does.
        alerts: whether there are alerts beside the verdicts.
        is_stopped: stop it once rows are written, and go on with ``--resume``.
        is_followed: the capture grows while the client reads it.
    """

    name: str
    options: tuple[str, ...]
    worker: bool = False
    alerts: bool = False
    is_stopped: bool = False
    is_followed: bool = False


def list_runs(dataset: Path, capture: Path) -> list[Run]:
    """Return the twelve runs; within each, nothing depends on how requests and batches meet in time."""
    rows, packets = ("--dataset", str(dataset)), ("--pcap", str(capture))
    activations = ("--payload", "activations")
    small, one_by_one = ("--batch-size", "100", "--show-decider"), ("--window", "1")
    none_answers = ("--request-timeout", "0.5", "--retries", "0", "--on-cloud-failure")
    return [
        Run("features-cloud", (*rows, *small, *one_by_one), worker=True),
        Run("features-cloud-no-cache", (*rows, *small, "--cache-size", "0"), worker=True),
        Run("activations-cloud", (*rows, *small, *activations, *one_by_one), worker=True),
        Run("half-activations-cloud-no-cache", (*rows, *small, *activations, "--half-precision", "--cache-size", "0"),
            worker=True),
        Run("local", (*rows, *small, *LOCAL)),
        Run("local-no-cache-single-events", (*rows, "--batch-size", "1", *LOCAL, "--cache-size", "0")),
        Run("no-cloud-reject", (*rows, *small, *none_answers, "reject")),
        Run("no-cloud-local-activations", (*rows, *small, *activations, *none_answers, "local")),
        Run("resumed", (*rows, "--batch-size", "20", *one_by_one, "--cache-size", "0"), worker=True, is_stopped=True),
        Run("capture-cloud", (*packets, *one_by_one), worker=True, alerts=True),
        Run("capture-local-limited-alerts", (*packets, *LOCAL, "--max-alerts-per-source", "2", "--max-rejected-alerts",
            "1", "--clamp-size"), alerts=True),
        Run("live-replay", ("--follow", *LOCAL, "--show-decider"), alerts=True, is_followed=True),
    ]  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument("--reference", required=True, metavar="REVISION", help="what git calls the other revision")
    names = [one.name for one in list_runs(Path(), Path())]
    parser.add_argument("--only", choices=names, metavar="NAME", help=f"one run alone: {', '.join(names)}")
    return parser


def run(args: argparse.Namespace) -> int:
    """Run both revisions and compare their files; return the exit code."""
    check_revision(args.reference)
    folder = Path(tempfile.mkdtemp(prefix="compare-revisions-"))
    with check_out(args.reference, folder / "reference") as reference, PrivateBroker() as broker:
        network = make_network(reference, folder)
        capture = folder / "capture.pcap"
        capture.write_bytes(gzip.decompress((ROOT / "dataset/sample/network/capture.pcap.gz").read_bytes()))
        runs = [one for one in list_runs(ROOT / "dataset/sample/2016_03.csv", capture) if args.only in (None, one.name)]
        for name, tree in (("before", reference), ("after", ROOT)):
            (folder / name).mkdir()
            decide_all(tree, runs, network, capture, folder / name, broker)
    different = [one.name for one in runs if not print_comparison(one, folder)]
    if different:
        print(f"{len(different)} of {len(runs)} runs differ: {', '.join(different)}; the files are in {folder}")
        return 1
    shutil.rmtree(folder)
    print(f"all files of {len(runs)} runs are equal")
    return 0


def check_revision(revision: str) -> None:
    """Check that git knows a revision.

    Raises:
        InputFileError: it does not.
    """
    command = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise InputFileError(f"--reference {revision}: git knows no such revision. Name a commit of this repository.")


@contextmanager
def check_out(revision: str, folder: Path) -> Iterator[Path]:
    """Yield a working tree of a revision, which is removed afterwards."""
    git = ("git", "-C", str(ROOT), "worktree")
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), revision], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def make_network(tree: Path, folder: Path) -> Path:
    """Train a network for two epochs, calibrate it, and return its file."""
    execute(
        tree, "dnn/train-early-exit-network.py", "--dataset-folder", tree / "dataset/sample", "--glob", "2016_01",
        "--model", "mobilenet", "--epochs", 2, "--keep", 1, "--output-folder", folder / "saves", "--device", "cpu",
    )  # fmt: skip
    (trained,) = (folder / "saves").glob("*.pth")
    calibrated = folder / "calibrated.pth"
    execute(
        tree, "calibration/Calibrate2exits.py", "--trained-model", trained, "--calibrated-model-savefile", calibrated,
        "--dataset", tree / "dataset/sample/2016_02.csv", "--savefolder", folder,
    )  # fmt: skip
    return calibrated


def decide_all(
    tree: Path, runs: Sequence[Run], network: Path, capture: Path, output: Path, broker: PrivateBroker
) -> None:
    """Have a revision's client, and its worker where one is asked, make the files of all runs."""
    environment = {"EE_MQ_PASSWORD": broker.password}
    link = ["--mq-hostname", "127.0.0.1", "--mq-username", broker.username, "--mq-queue", output.name]
    file = ["--trained-network-file", str(network)]
    # With a prefetch of one, a forward pass holds one request, and its last bits do not depend on time.
    worker = start(
        tree, environment, WORKER, *file, *link, "--mq-port", broker.port, "--prefetch", 1, "--cache-size", 0, "--quiet"
    )
    try:
        for one in runs:
            port = broker.port if one.worker else find_free_port()
            broker_options = [] if LOCAL[0] in one.options else [*link, "--mq-port", port]
            files = ["--savefile", output / f"{one.name}.csv"]
            files += ["--alerts", output / f"{one.name}.json"] if one.alerts else []
            decide(tree, environment, one, [*file, *THRESHOLDS, *one.options, *broker_options, *files], capture)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(LONGEST)


def decide(tree: Path, environment: Mapping[str, str], one: Run, command: list[object], capture: Path) -> None:
    """Run the client once; stop and resume it, or let its capture grow, where the run says so."""
    if one.is_stopped:
        client = start(tree, environment, CLIENT, *command)
        verdicts = Path(str(command[command.index("--savefile") + 1]))
        wait_for(lambda: verdicts.exists() and verdicts.stat().st_size > 2000, client)
        client.send_signal(signal.SIGTERM)
        client.wait(LONGEST)
        command.append("--resume")
    if not one.is_followed:
        execute(tree, CLIENT, *command, environment=environment)
        return
    growing = capture.with_name("growing.pcap")
    growing.write_bytes(b"")
    client = start(tree, environment, CLIENT, *command, "--pcap", growing)
    content, alerts = capture.read_bytes(), Path(str(command[command.index("--alerts") + 1]))
    wait_for(alerts.exists, client)
    with growing.open("ab") as stream:
        for begin in range(0, len(content), len(content) // 20):
            stream.write(content[begin : begin + len(content) // 20])
            stream.flush()
            time.sleep(0.05)
    time.sleep(5.0)
    client.send_signal(signal.SIGTERM)
    client.wait(LONGEST)


def start(tree: Path, environment: Mapping[str, str], script: str, *options: object) -> "subprocess.Popen[bytes]":
    """Start a script of a revision; its output is discarded, its complaints are shown."""
    command = [sys.executable, str(tree / script), *map(str, options)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.Popen(command, cwd=tree, env=settings, stdout=subprocess.DEVNULL)


def execute(tree: Path, script: str, *options: object, environment: Mapping[str, str] | None = None) -> None:
    """Run a script of a revision to its end; one that fails ends the comparison."""
    process = start(tree, environment or {}, script, *options)
    if process.wait(LONGEST):
        raise SystemExit(f"{tree / script} failed")


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    """Wait until a condition holds, or the process has ended."""
    end = time.monotonic() + LONGEST
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)


def print_comparison(one: Run, folder: Path) -> bool:
    """Print how the files of a run compare; return whether they are equal."""
    equal = True
    counts = []
    for ending in ("csv", *(("json",) if one.alerts else ())):
        before, after = (mask((folder / side / f"{one.name}.{ending}").read_text()) for side in ("before", "after"))
        equal &= before == after
        counts.append(f"{len(after.splitlines())} lines of {ending}")
    verdicts = pd.read_csv(folder / "after" / f"{one.name}.csv", keep_default_na=False)
    counts.append(f"{(verdicts['exit_2_prediction'].astype(str) != NOT_ASKED).sum()} decided by exit 2")
    counts.append(f"{(verdicts['final_prediction'].astype(str) == REJECTED).sum()} rejected")
    print(f"{one.name:34} {'equal' if equal else 'DIFFERENT':10} {', '.join(counts)}")
    return equal


def mask(text: str) -> str:
    """Return a file's text without the times of EVE's statistics, of which each run has its own."""
    lines = text.splitlines()
    return "\n".join(
        MASKED.sub(r'"\1":0', line) if line.startswith("{") and json.loads(line)["event_type"] == "stats" else line
        for line in lines
    )


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
