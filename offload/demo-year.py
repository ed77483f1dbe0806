#!/usr/bin/env python3
"""Let ten simulated months pass: traffic drifts, an alarm fires, a network is renewed, and changes over under load.

Run:
    python offload/demo-year.py --output-folder demo-output/year

The months are synthetic: in June, labels change, which no watch without labels can see; from September on, the shares
of the traffic change. Each stage runs a script that users call themselves, and prints its command line. The last table
compares the frozen network with the renewed one on October. Without RabbitMQ, the client computes exit 2 itself, and
the change-over happens in the client alone.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

import models
from utils import cli
from utils.errors import CloudUnavailableError, ToolkitError
from utils.files import make_folder
from utils.script_runner import format_command, run_script, run_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
CLIENT = "offload/ee-processor-client.py"
RENEW = "dnn/renew-network.py"
REPEATS = 20  # copies of October that are decided while the network changes over
ROWS_BEFORE = 1000  # rows that are decided before the network changes over


class Link(NamedTuple):
    """How a client reaches exit 2: options and environment variables."""

    options: tuple[object, ...]
    environment: "Mapping[str, str]"


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--output-folder", type=Path, default=Path("demo-output/year"), metavar="D", help="(default: %(default)s)")
    add(
        "--model",
        type=cli.one_of(models.FAMILIES),
        default="mobilenet",
        metavar="{" + ",".join(models.FAMILIES) + "}",
        help="(default: %(default)s)",
    )
    rows = "records of a month (default: %(default)s)"
    add("--rows", type=cli.whole_number(300, 100_000), default=800, metavar="N", help=rows)
    add("--epochs", type=cli.whole_number(1), default=6, metavar="N", help="of the first training (default: "
        "%(default)s)")  # fmt: skip
    return parser


def run(args: argparse.Namespace) -> None:
    """Let the months pass."""
    start = time.monotonic()
    # A new folder for each run, because a folder of releases goes on where it was.
    output = make_folder(args.output_folder / time.strftime("run-%Y%m%d-%H%M%S"))
    months, releases = output / "months", output / "releases"
    _run_stage(
        "simulate ten months, in which labels and shares drift", "dataset/make-sample-dataset.py", "--output-folder",
        months, "--rows", args.rows, "--months", 10, "--drift", "shares", "labels",
    )  # fmt: skip
    _make_first_release(args, output, months, releases)
    with _run_worker(releases, args.model) as link:
        print("\n== months pass")
        for number in range(3, 10):
            decided = _decide(releases / "current", months / f"2016_{number:02}.csv", output, link)
            _print_month(f"2016_{number:02}", decided)
        print("\n== the labels of September are known: train a challenger, and judge it")
        command = (
            "--champion", releases, "--dataset-folder", months, "--glob", "2016_0[1-9]", "--output-folder", releases,
            "--hold-back", args.rows // 2,
        )  # fmt: skip
        print(f"$ {format_command(RENEW, command)}", flush=True)
        code = subprocess.run([sys.executable, str(ROOT / RENEW), *map(str, command)]).returncode
        if code > 1:
            raise ToolkitError(f"{RENEW} ended with exit code {code}; see its message above")
        if code == 1:
            print("the demo ends here: the challenger is no better on these months")
            return
        _run_stage("go back to the first release", RENEW, "--rollback", "--output-folder", releases)
        _change_over(releases, months / "2016_10.csv", output, link)
        print("\n== October, decided by each release (synthetic months)")
        for name, options in (("release-0001", ()), ("release-0001", ("--on-drift", "tighten")), ("release-0002", ())):
            decided = _decide(releases / name, months / "2016_10.csv", output, link, *options)
            _print_month(" ".join((name, *map(str, options))), decided)
    print(f"\nwritten to {output} in {time.monotonic() - start:.0f} s")


def _make_first_release(args: argparse.Namespace, output: Path, months: Path, releases: Path) -> None:
    calibrated = output / "calibrated.pth"
    _run_stage(
        "train both exits on January", "dnn/train-early-exit-network.py", "--dataset-folder", months, "--glob",
        "2016_01", "--model", args.model, "--epochs", args.epochs, "--keep", 1, "--output-folder", output / "training",
    )  # fmt: skip
    (trained,) = (output / "training").glob("*.pth")
    _run_stage(
        "calibrate on February", "calibration/Calibrate2exits.py", "--trained-model", trained,
        "--calibrated-model-savefile", calibrated, "--dataset", months / "2016_02.csv", "--savefolder", output,
    )  # fmt: skip
    _run_stage(
        "choose thresholds on February, and make the first release", RENEW, "--first", "--champion", calibrated,
        "--dataset-folder", months, "--glob", "2016_02", "--output-folder", releases,
    )  # fmt: skip


@contextlib.contextmanager
def _run_worker(releases: Path, model: str) -> "Iterator[Link]":
    """Run a worker of the releases; without RabbitMQ, the client computes exit 2 itself."""
    from offload.link.private_broker import PrivateBroker

    try:
        broker = PrivateBroker()
    except CloudUnavailableError as problem:
        print(f"\nno RabbitMQ, so the edge computes exit 2 itself: {problem}")
        yield Link(("--process-exit2-locally",), {})
        return
    with broker:
        print("\n== start a cloud worker")
        served = ("--release", releases, "--network", model, "--quiet", *broker.options)
        with run_server("offload/ee-processor-server.py", served, broker.environment):
            yield Link(tuple(broker.options), broker.environment)


def _make_client_command(release: Path, dataset: Path, savefile: Path, link: Link, *options: object) -> list[str]:
    words = (
        "--release", release, "--dataset", dataset, "--batch-size", 100, "--savefile", savefile, "--show-decider",
        "--log-format", "json", *options, *link.options,
    )  # fmt: skip
    return [sys.executable, str(ROOT / CLIENT), *map(str, words)]


class Decided(NamedTuple):
    """Rows that a client decided: the offload CSV, and the sentence about its first alarm, if there was one."""

    rows: "pd.DataFrame"
    alarm: str | None


def _decide(release: Path, dataset: Path, output: Path, link: Link, *options: object) -> Decided:
    """Decide a dataset with a release."""
    import pandas as pd

    savefile = output / f"verdicts-{dataset.stem}.csv"
    command = _make_client_command(release, dataset, savefile, link, *options)
    environment = {**os.environ, **link.environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ToolkitError(f"{CLIENT} ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    events = [json.loads(line) for line in (done.stdout + done.stderr).splitlines() if line.startswith("{")]
    alarm = next((event["message"] for event in events if event.get("event") == "drift"), None)
    return Decided(pd.read_csv(savefile, keep_default_na=False), alarm)


def _print_month(name: str, decided: Decided) -> None:
    print(f"{name:32}{_format_counts(decided.rows)}", flush=True)
    if decided.alarm is not None:
        print(f"{'':32}{decided.alarm}", flush=True)


def _format_counts(rows: "pd.DataFrame") -> str:
    """Return how many rows were accepted, and how many of these wrongly."""
    from utils.schema import CLASS, NOT_ASKED, REJECTED

    is_accepted = rows["final_prediction"] != REJECTED
    is_wrong = rows["final_prediction"].astype(str) != rows[CLASS].astype(str)
    offloaded = 100 * (rows["exit_2_prediction"].astype(str) != NOT_ASKED).mean()
    wrong = 100 * is_wrong[is_accepted].mean() if is_accepted.any() else 0.0
    return (
        f"{len(rows):6d} events: {100 * is_accepted.mean():5.1f} % accepted, {wrong:5.2f} % of these wrong, "
        f"{offloaded:5.1f} % offloaded"
    )


def _change_over(releases: Path, october: Path, output: Path, link: Link) -> None:
    """Decide October again and again, and make the second release the current one in between."""
    import pandas as pd

    from utils.release import point_to

    print("\n== change over to the second release while a client is busy", flush=True)
    dataset, savefile = output / "october-repeated.csv", output / "verdicts-change-over.csv"
    pd.concat([pd.read_csv(october)] * REPEATS).to_csv(dataset, index=False)
    command = _make_client_command(releases, dataset, savefile, link, "--cache-size", 0)
    with (output / "change-over.log").open("w", encoding="utf-8") as log:
        client = subprocess.Popen(command, env={**os.environ, **link.environment}, stdout=log, stderr=log)
        try:
            while client.poll() is None and _count_lines(savefile) < ROWS_BEFORE:
                time.sleep(0.05)
            point_to(releases, "release-0002")
            if client.wait():
                raise ToolkitError(f"the client ended with exit code {client.returncode}; see {log.name}")
        finally:
            client.terminate()
            client.wait()
    rows = pd.read_csv(savefile, keep_default_na=False)
    expected = REPEATS * len(pd.read_csv(october))
    print(f"{expected} events, {len(rows)} verdicts")
    for name, of_release in rows.groupby("release", sort=False):
        print(f"{name!s:32}{_format_counts(of_release)}")


def _count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _run_stage(title: str, script: str, *options: object) -> None:
    print(f"\n== {title}")
    run_script(script, options)


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
