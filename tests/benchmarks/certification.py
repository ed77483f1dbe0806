#!/usr/bin/env python3
"""Check certificates on random splits: how often the error exceeds the limit, and what MAPIE certifies on these rows.

Run:
    python tests/benchmarks/certification.py --eval-file "saves/*.csv" [--others-python VENV/bin/python]

Half of the rows of each split certify thresholds. On the other half, the error of the accepted events is compared with
the limit. MAPIE is not among the project's requirements: install it into a virtual environment of its own and name its
python. Its Learn-then-Test gets all rows that ours gets for proposals and tests, and N^4 thresholds: the N quantiles of
the certainties of each class at each exit; it computes Hoeffding-Bentkus p-values and corrects them by Holm's method,
its default. Both are timed from the rows to the thresholds, in turns, without their imports.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # repo root

from nsga2.certification import Goal, certify, split_rows
from nsga2.objectives import Objectives
from utils import cli
from utils.errors import InfeasibleError
from utils.files import expand_pattern
from utils.results import Evaluation, read_evaluation
from utils.schema import Thresholds

LIMITS = (0.05, 0.08, 0.1)

MAPIE = f"""
import sys, time, warnings
sys.path.insert(0, {str(ROOT)!r})
import numpy as np
from mapie.risk_control import BinaryClassificationController, BinaryRisk, abstention_rate
warnings.simplefilter("ignore")
rows = np.load(sys.argv[1])
limit, confidence, each = float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
start = time.perf_counter()

def decide(rows, *limits):
    _, p1, c1, p2, c2 = rows.T
    at_1 = c1 >= np.where(p1 == 1, limits[1], limits[0])
    at_2 = c2 >= np.where(p2 == 1, limits[3], limits[2])
    return np.where(at_1, p1, np.where(at_2, p2, np.nan))

def quantiles(prediction, certainty):
    return [np.quantile(certainty[prediction == kind], np.linspace(0, 1, each)) for kind in (0, 1)]

_, p1, c1, p2, c2 = rows.T
grids = [*quantiles(p1, c1), *quantiles(p2, c2)]
params = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1).reshape(-1, 4)
error = BinaryRisk(lambda y, p: p != y, lambda y, p: ~np.isnan(p), higher_is_better=False)
found = BinaryClassificationController(
    decide, error, target_level=limit, confidence_level=confidence, best_predict_param_choice=abstention_rate,
    list_predict_params=params,
).calibrate(rows, rows[:, 0].astype(int))
best = found.best_predict_param
print(time.perf_counter() - start, *(best if best is not None else ()))
"""


@dataclass
class Found:
    """What a method found on the splits.

    Attributes:
        acceptances: on the other half of each split; 0 where nothing was certified.
        errors: of the accepted events there; NaN where nothing was certified.
        seconds: from the rows to the thresholds.
    """

    acceptances: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, rest: Evaluation, thresholds: Thresholds | None, seconds: float) -> None:
        """Add what thresholds do on the other half of a split."""
        counts = None if thresholds is None else rest.decide(thresholds).count()
        self.acceptances.append(0.0 if counts is None else counts.acceptance)
        self.errors.append(float("nan") if counts is None else counts.error)
        self.seconds.append(seconds)

    def describe(self, limit: float) -> str:
        """Return a sentence about the splits."""
        errors = np.array(self.errors)
        exceeded = int((errors > limit).sum())
        return (
            f"error above the limit in {exceeded} of {len(errors)} splits ({100 * exceeded / len(errors):.1f} %), "
            f"nothing certified in {int(np.isnan(errors).sum())}; accepted {100 * np.mean(self.acceptances):.2f} %; "
            f"{statistics.median(self.seconds):.3f} s"
        )


def certify_ours(rows: Evaluation, goal: Goal, seed: int) -> tuple[Thresholds | None, float]:
    """Return certified thresholds, None if there are none, and the seconds that they took."""
    start = time.perf_counter()
    proposing, testing = split_rows(len(rows), seed)
    try:
        found = certify(Objectives(rows.take(proposing)), Objectives(rows.take(testing)), goal).thresholds
    except InfeasibleError:
        found = None
    return found, time.perf_counter() - start


def certify_by_mapie(python: str, rows: Evaluation, goal: Goal, each: int) -> tuple[Thresholds | None, float]:
    """Return the same by MAPIE, in the given environment."""
    columns = (rows.labels, rows.prediction_1, rows.certainty_1, rows.prediction_2, rows.certainty_2)
    with tempfile.TemporaryDirectory() as folder:
        program, data = Path(folder) / "program.py", Path(folder) / "rows.npy"
        program.write_text(MAPIE)
        np.save(data, np.column_stack(columns))
        command = [python, str(program), str(data), str(goal.max_error), str(goal.confidence), str(each)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return (Thresholds(*map(float, output[1:])) if len(output) == 5 else None), float(output[0])


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--eval-file", required=True, action="append", type=Path, metavar="CSV", help="evaluation CSV, or a pattern")
    add("--splits", type=cli.whole_number(1), default=1000, metavar="N", help="(default: %(default)s)")
    add("--confidence", type=cli.real_number(0.5, 1, open_ends=True), default=0.95, help="(default: %(default)s)")
    add("--others-python", metavar="PYTHON", help="of an environment with MAPIE; without it, MAPIE is left out")
    add("--others-splits", type=cli.whole_number(1), default=3, metavar="N", help="for MAPIE (default: %(default)s)")
    add("--each", type=cli.whole_number(2), default=10, metavar="N", help="MAPIE's thresholds of a class at an exit")
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure, and print a line for each limit and method."""
    rows = read_evaluation([path for pattern in args.eval_file for path in expand_pattern(pattern)])
    print(f"{len(rows)} rows, half of them for each certificate; confidence {args.confidence:g}")
    for limit in LIMITS:
        goal, ours, compared, others = Goal(limit, args.confidence), Found(), Found(), Found()
        for split in tqdm(range(args.splits), f"limit {limit:g}", disable=None):
            shuffled = np.random.default_rng(split).permutation(len(rows))
            given, rest = (rows.take(half) for half in np.array_split(shuffled, 2))
            found, seconds = certify_ours(given, goal, split)
            ours.add(rest, found, seconds)
            if args.others_python is not None and split < args.others_splits:
                compared.add(rest, found, seconds)
                others.add(rest, *certify_by_mapie(args.others_python, given, goal, args.each))
        print(f"limit {limit:g}: {ours.describe(limit)}")
        if others.seconds:
            print(f"  MAPIE, {args.each}^4 thresholds: {others.describe(limit)}")
            ratios = [theirs / mine for theirs, mine in zip(others.seconds, compared.seconds, strict=True)]
            print(
                f"  ours on these splits: {compared.describe(limit)}; {statistics.median(ratios):.0f} times as fast "
                f"(from {min(ratios):.0f} to {max(ratios):.0f})"
            )


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
