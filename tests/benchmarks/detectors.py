#!/usr/bin/env python3
"""Compare detectors of drift that need no labels: which stay silent while thresholds hold, and which fires first.

Run:
    python tests/benchmarks/detectors.py --trained-model saves/calibrated.pth --dataset-folder dataset/sample

The reference is the month of the choice. The last month is the one in which thresholds no longer hold. Each later month
is divided into windows, and each detector gives a number for each window. The table says how many windows alarm at the
detector's usual level, of the months in between and of the last one. It also says after how many events the detector
would fire in the last month with the lowest level that is silent in between, which nobody can know beforehand. The
watch of the toolkit has no windows: each month is watched from its first event, with a tolerance that is set before.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # repo root

import torch

from models.checkpoint import read_two_exits
from models.cpu_network import compute_logits
from nsga2.defaults import TOLERANCE
from utils import cli
from utils.classification_metrics import classify
from utils.dataset import find_datasets
from utils.drift_watch import watch_rows
from utils.labelled_rows import LabelledRows, read_rows
from utils.traffic_reference import compute_scores, make_reference

LEVEL = 0.01
"""Usual level of the tests."""
PSI_LIMIT = 0.2
"""Population stability above this is usually called a significant change."""
ERROR_LIMIT = 0.02
"""Rise of the estimated error that alarms."""
MMD_ROWS = 500
SEED = 1

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """Rows as a detector sees them: no labels.

    Attributes:
        features: (N, 58) float32.
        scores: (N,) probability of an attack by exit 1.
        certainties: (N,) of the predicted class.
        predictions: (N,) int64.
    """

    features: NDArray[np.float32]
    scores: FloatArray
    certainties: FloatArray
    predictions: NDArray[np.int64]

    def take(self, rows: NDArray[np.intp]) -> "Seen":
        return Seen(self.features[rows], self.scores[rows], self.certainties[rows], self.predictions[rows])


Detector = Callable[[Seen], tuple[float, bool]]
"""Returns a number that grows with the distance from the reference, and whether the usual level alarms."""


def make_kolmogorov_smirnov(reference: Seen) -> Detector:
    """Return the two-sample test of the scores."""

    def detect(window: Seen) -> tuple[float, bool]:
        found = stats.ks_2samp(reference.scores, window.scores)
        return float(found.statistic), bool(found.pvalue < LEVEL)

    return detect


def make_chi_squared(reference: Seen) -> Detector:
    """Return the test of homogeneity of the shares of frequent vectors, and of ranges of scores for the others."""
    kept = make_reference(reference.features, reference.scores, TOLERANCE)
    before = np.bincount(kept.find_categories(reference.features, reference.scores), minlength=len(kept.shares))

    def detect(window: Seen) -> tuple[float, bool]:
        now = np.bincount(kept.find_categories(window.features, window.scores), minlength=len(kept.shares))
        table = np.stack((before, now))
        found = stats.chi2_contingency(table[:, table.sum(axis=0) > 0])
        return float(found.statistic), bool(found.pvalue < LEVEL)

    return detect


def make_population_stability(reference: Seen, bins: int = 10) -> Detector:
    """Return the population stability index of the scores in the deciles of the reference."""
    limits = np.unique(np.quantile(reference.scores, np.linspace(0, 1, bins + 1)[1:-1]))

    def find_shares(scores: FloatArray) -> FloatArray:
        counts = np.bincount(np.searchsorted(limits, scores, side="right"), minlength=len(limits) + 1)
        return np.asarray((counts + 0.5) / (len(scores) + 0.5 * (len(limits) + 1)), dtype=np.float64)

    expected = find_shares(reference.scores)

    def detect(window: Seen) -> tuple[float, bool]:
        found = find_shares(window.scores)
        index = float(((found - expected) * np.log(found / expected)).sum())
        return index, index > PSI_LIMIT

    return detect


def make_black_box_shift(reference: Seen) -> Detector:
    """Return the test of the shares of the predicted classes (Lipton, Wang and Smola, 2018)."""
    before = np.bincount(reference.predictions, minlength=2)

    def detect(window: Seen) -> tuple[float, bool]:
        found = stats.fisher_exact(np.stack((before, np.bincount(window.predictions, minlength=2))))
        return float(abs(window.predictions.mean() - reference.predictions.mean())), bool(found.pvalue < LEVEL)

    return detect


def make_maximum_mean_discrepancy(reference: Seen, permutations: int = 100) -> Detector:
    """Return the kernel two-sample test of the features (Gretton and others, 2012), with the median as the width."""
    random = np.random.default_rng(SEED)
    sample = reference.features[random.choice(len(reference.features), MMD_ROWS, replace=False)].astype(np.float64)
    distances = ((sample[:, np.newaxis] - sample) ** 2).sum(axis=2)
    width = float(np.median(distances[distances > 0]))

    def detect(window: Seen) -> tuple[float, bool]:
        rows = np.concatenate((sample, window.features[:MMD_ROWS].astype(np.float64)))
        kernel = np.exp(-((rows[:, np.newaxis] - rows) ** 2).sum(axis=2) / width)
        signs = np.where(np.arange(len(rows)) < MMD_ROWS, 1 / MMD_ROWS, -1 / (len(rows) - MMD_ROWS))
        found = float(signs @ kernel @ signs)
        shuffled = [order @ kernel @ order for order in (random.permutation(signs) for _ in range(permutations))]
        return found, bool(np.mean(np.array(shuffled) >= found) < LEVEL)

    return detect


def make_confidence_based_estimate(reference: Seen) -> Detector:
    """Return the rise of the error that the certainties themselves estimate (CBPE)."""
    before = float(1 - reference.certainties.mean())

    def detect(window: Seen) -> tuple[float, bool]:
        rise = float(1 - window.certainties.mean()) - before
        return rise, rise > ERROR_LIMIT

    return detect


MAKERS: dict[str, Callable[[Seen], Detector]] = {
    "Kolmogorov-Smirnov, scores": make_kolmogorov_smirnov,
    "chi-squared, frequent vectors": make_chi_squared,
    "MMD, features": make_maximum_mean_discrepancy,
    "BBSE, predicted classes": make_black_box_shift,
    "population stability, scores": make_population_stability,
    "CBPE, certainties": make_confidence_based_estimate,
}


def see(network: torch.nn.Module, rows: LabelledRows) -> Seen:
    """Return what exit 1 says about rows."""
    logits, _ = compute_logits(network, rows.features, 1000, torch.device("cpu"))  # type: ignore[arg-type]
    predictions, certainties = classify(logits)
    scores = np.asarray(compute_scores(predictions, certainties), dtype=np.float64)
    return Seen(rows.features, scores, certainties.astype(np.float64), predictions)


def compare(reference: Seen, between: Sequence[Seen], last: Seen, size: int) -> pd.DataFrame:
    """Return a row for each detector."""
    rows = []
    for name, make in MAKERS.items():
        detect = make(reference)
        quiet = [detect(window) for month in between for window in divide(month, size)]
        changed = [detect(window) for window in divide(last, size)]
        highest = max(value for value, _ in quiet)
        fired = [number for number, (value, _) in enumerate(changed, 1) if value > highest]
        rows.append(
            {
                "detector": name,
                "alarms between": f"{sum(alarm for _, alarm in quiet)} of {len(quiet)}",
                "in the last month": f"{sum(alarm for _, alarm in changed)} of {len(changed)}",
                "events with hindsight": str(fired[0] * size) if fired else "never",
            }
        )
    kept = make_reference(reference.features, reference.scores, TOLERANCE)
    alarms = [watch_rows(kept, month.features, month.scores, 100)[1] for month in (*between, last)]
    rows.append(
        {
            "detector": f"the watch, tolerance {TOLERANCE:g}",
            "alarms between": f"{sum(alarm > 0 for alarm in alarms[:-1])} of {len(between)} months",
            "in the last month": f"after {alarms[-1]} events" if alarms[-1] else "none",
            "events with hindsight": "-",
        }
    )
    return pd.DataFrame(rows)


def divide(month: Seen, size: int) -> list[Seen]:
    """Return the whole windows of a month."""
    return [month.take(np.arange(start, start + size)) for start in range(0, len(month.scores) - size + 1, size)]


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--trained-model", required=True, nargs="+", type=Path, metavar="FILE", help="calibrated checkpoints")
    add("--dataset-folder", required=True, type=Path, metavar="D", help="folder of months")
    add("--choice", type=cli.whole_number(1), default=2, metavar="N", help="number of the month (default: %(default)s)")
    add("--last", type=cli.whole_number(3), default=10, metavar="N", help="last month's number (default: %(default)s)")
    add("--window", type=cli.whole_number(50), default=500, metavar="N", help="events (default: %(default)s)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Print a table for each network."""
    months = [read_rows(path) for path in find_datasets(args.dataset_folder, "*")[args.choice - 1 : args.last]]
    for path in args.trained_model:
        network, _ = read_two_exits(path)
        reference, *between, last = (see(network, month) for month in months)
        print(f"{path.name}, windows of {args.window} events, reference {months[0].name}, last {months[-1].name}")
        print(compare(reference, between, last, args.window).to_string(index=False), flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
