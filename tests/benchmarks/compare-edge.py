#!/usr/bin/env python3
"""Compare what a live edge costs in this working tree and in another revision: start, memory, and each further record.

Run:
    python tests/benchmarks/compare-edge.py --reference 9e5e11c

In turns, the client of either revision decides a capture with an exported network, computing exit 2 itself: once a
capture of a few records, once one of hundreds, record by record. The measure is processor time, so that other work
on the machine matters less.
"""

import argparse
import gzip
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # repo root

from tests.compare_revisions import CLIENT, LOCAL, ROOT, check_out, check_revision, execute, make_network
from utils import cli

FEW = 20
"""Frames of the small capture."""
PROGRAM = """
import os, resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    assert not ended.code
used = resource.getrusage(resource.RUSAGE_SELF)
print(f"used {used.ru_utime + used.ru_stime} {used.ru_maxrss}", file=sys.stderr)
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument("--reference", required=True, metavar="REVISION", help="what git calls the other revision")
    parser.add_argument("--rounds", type=cli.whole_number(1), default=9, metavar="N", help="(default: %(default)s)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure both revisions in turns and print the ratios."""
    check_revision(args.reference)
    with tempfile.TemporaryDirectory() as name, check_out(args.reference, Path(name) / "reference") as reference:
        folder = Path(name)
        network = make_network(reference, folder)
        content = gzip.decompress((ROOT / "dataset/sample/network/capture.pcap.gz").read_bytes())
        captures = [folder / "few.pcap", folder / "all.pcap"]
        captures[0].write_bytes(take_frames(content, FEW))
        captures[1].write_bytes(content)
        trees = {"before": reference, "now": ROOT}
        for side, tree in trees.items():
            (folder / side).mkdir()
            execute(
                tree, "dnn/export-edge-model.py", "--trained-model", network, "--output",
                folder / side / "edge.onnx", "--second-exit-output", folder / side / "second.onnx",
            )  # fmt: skip
        used = [
            {side: [measure(tree, folder / side, capture) for capture in captures] for side, tree in trees.items()}
            for _ in range(args.rounds)
        ]
    records = used[0]["now"][1][2] - used[0]["now"][0][2]
    print_ratio("start to the first verdict, s", [{side: of[side][0][0] for side in trees} for of in used])
    print_ratio("memory, MB", [{side: of[side][0][1] / 1024 for side in trees} for of in used])
    each = [{side: 1e6 * (of[side][1][0] - of[side][0][0]) / records for side in trees} for of in used]
    print_ratio("each further record, from packets to alert, µs", each)


def take_frames(capture: bytes, count: int) -> bytes:
    """Return the first frames of a pcap in little-endian order."""
    end = 24
    for _ in range(count):
        end += 16 + int.from_bytes(capture[end + 8 : end + 12], "little")
    return capture[:end]


def measure(tree: Path, folder: Path, capture: Path) -> tuple[float, int, int]:
    """Return the processor seconds and the KB that a run of the client takes, and the rows that it writes."""
    rows = folder / "verdicts.csv"
    options = ("--pcap", capture, "--batch-size", 1, "--savefile", rows, "--alerts", folder / "eve.json", *LOCAL)
    files = ("--trained-network-file", folder / "edge.onnx", "--second-exit-file", folder / "second.onnx")
    command = [sys.executable, "-c", PROGRAM, tree / CLIENT, *options, *files]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), cwd=tree, env=environment, capture_output=True, text=True, check=True
    )
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("used ")]
    seconds, kilobytes = line.split()[1:]
    return float(seconds), int(kilobytes), rows.read_text().count("\n") - 1


def print_ratio(what: str, costs: list[dict[str, float]]) -> None:
    """Print the medians of both revisions, and the median and range of their ratios."""
    ratios = [cost["now"] / cost["before"] for cost in costs]
    before, now = (statistics.median(cost[side] for cost in costs) for side in ("before", "now"))
    print(f"{what}: {before:.4g} before, {now:.4g} now, ratio {statistics.median(ratios):.2f} "
          f"({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
