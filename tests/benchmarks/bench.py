#!/usr/bin/env python3
"""How fast the toolkit is against plain versions of the same work, in turns, in one table.

Run:
    python tests/benchmarks/bench.py [--only STEP] [--rounds N] [--json bench.json]

The plain versions (plain_*.py beside this file) are written from the description of the published system. They are
oracles, too: before a step is timed, ours must give their results. A ratio is the median over rounds, with the least
and the greatest of them; "of ceiling" is the part of this machine's measured matrix product that ours comes to,
counting the operations of the network as it is, whatever is folded or left out of them, so that it may be over 100 %.
Exit code 0, also where a goal is missed; 1 where a result differs or a step fails.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the programs that are started; here, each step sets its own
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # repo root

if TYPE_CHECKING:
    from tests.benchmarks.material import Bench
    from tests.benchmarks.table import Row

STEPS = ("month", "distinct", "event", "start", "worker", "training", "calibration", "link")


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", action="append", choices=STEPS, help="measure this step alone; may be repeated")
    add("--family", action="append", choices=("alexnet", "mobilenet"), help="of networks (default: both)")
    add(
        "--rounds",
        type=int,
        default=3,
        metavar="N",
        help="of each comparison; quick ones take several times as many (default: %(default)s)",
    )
    add("--rows", type=int, metavar="N", help="of a month that are used (default: all)")
    add("--events", type=int, default=1000, metavar="N", help="single ones in a round (default: %(default)s)")
    add("--training-rows", type=int, default=1250, metavar="N", help="of January, about (default: %(default)s)")
    add(
        "--edge-python",
        default=sys.executable,
        metavar="PYTHON",
        help="that runs our edge client: one with the packages of requirements-edge.txt (default: this one)",
    )
    add("--json", type=Path, metavar="FILE", help="write all figures there, too")
    return parser


def steps() -> "dict[str, Callable[[Bench], Iterator[Row]]]":
    """Return what measures each step."""
    from tests.benchmarks import steps_edge, steps_link, steps_start, steps_training, steps_worker

    measures = (
        steps_edge.month, steps_edge.distinct, steps_edge.one_event, steps_start.start, steps_worker.worker,
        steps_training.training, steps_training.calibration, steps_link.link,
    )  # fmt: skip
    return dict(zip(STEPS, measures, strict=True))


def measured(bench: "Bench", names: list[str]) -> "tuple[list[Row], list[str]]":
    """Measure the steps and print each row as it is there; return the rows, and in a line each what failed."""
    rows, failures = [], []
    for name in names:
        try:
            for row in steps()[name](bench):
                rows.append(row)
                print("  ".join(filter(None, row.cells())), f"    {row.note}", sep="\n", flush=True)
        except Exception as problem:  # the other steps are worth measuring all the same
            failures.append(f"{name}: {type(problem).__name__}: {problem}")
            print(f"FAILED: {failures[-1]}", flush=True)
    return rows, failures


def main(argv: list[str] | None = None) -> int:
    """Measure; return 0, or 1 where something failed."""
    args = make_parser().parse_args(argv)
    import onnxruntime
    import torch

    from tests.benchmarks.ceiling import measure_ceiling, processor
    from tests.benchmarks.material import CLASSES, Bench, Budget, month_path
    from tests.benchmarks.table import goals, in_words, write_json

    begun = time.monotonic()
    ceiling = measure_ceiling()
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": f"{os.getloadavg()[0]:.1f} processes ran on average in the minute before",
        "ceiling": ceiling.in_words(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "months": str(month_path(3).parent),
        "rounds": args.rounds,
    }
    print(*(f"{name}: {value}" for name, value in machine.items()), "", sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        budget = Budget(
            args.rounds, args.rows, args.events, args.training_rows, tuple(args.family or CLASSES), args.edge_python
        )
        rows, failures = measured(Bench(Path(folder), budget, ceiling), args.only or list(STEPS))
    print("", in_words(rows), "", goals(rows), *(f"FAILED: {line}" for line in failures), sep="\n")
    print(f"{time.monotonic() - begun:.0f} s in all")
    if args.json is not None:
        write_json(args.json, machine, rows, failures)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
