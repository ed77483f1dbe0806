"""Compare the error of the two exits with that of every other system, with confidence intervals."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from evaluations.baselines import MATCHED, REJECT
from evaluations.bootstrap import ConfidenceInterval, Counts, compute_errors, count, find_interval, resample_errors
from evaluations.conclusion import Findings, System
from evaluations.later_months import BOUND, BY_CLASS, EXIT_1, EXIT_2, SYSTEM, Decided
from evaluations.monthly_rates import AREA, MEAN, find_rate, make_area_weights, to_long_form
from evaluations.months import ALL_ROWS, SUBSETS, Month, subsets
from models.prediction import Progress, no_progress

COLUMNS: Final = ("month", "subset", "system", "estimate", "low", "high")


def compare(
    months: Sequence[Month],
    decided: Sequence[Sequence[Decided]],
    by_vector: bool,
    resamples: int,
    seed: int,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Return the error of the two exits minus that of each other system, with confidence intervals.

    Args:
        months: the later months (M), in order of time.
        decided: for each month and network, the decisions of all systems.
        by_vector: whether to resample distinct vectors; otherwise, rows are resampled.
        resamples: number of resamples.
        seed: of the resampling.
        progress: see ``bootstrap.resample_errors``.

    Returns:
        columns ``COLUMNS``; for each other system and subset, a row for each month, for their mean and for the area
        under time.
    """
    systems = [SYSTEM, *(name for name in decided[0][0][ALL_ROWS] if name not in (SYSTEM, BOUND))]
    counts = [
        _count_all_subsets(month, by_vector, of_month, systems) for month, of_month in zip(months, decided, strict=True)
    ]
    shape = (len(SUBSETS), len(systems))
    found = np.stack([compute_errors(of_month) for of_month in counts]).reshape(-1, *shape)
    drawn = resample_errors(counts, resamples, seed, progress).reshape(resamples, len(months), *shape)
    names = [*(month.name for month in months), MEAN, AREA]
    weights = np.vstack((np.eye(len(months)), np.full(len(months), 1 / len(months)), make_area_weights(len(months))))
    rows = []
    for at, subset in enumerate(SUBSETS):
        for other, system in enumerate(systems[1:], 1):
            estimate = found[:, at, 0] - found[:, at, other]
            samples = drawn[:, :, at, 0] - drawn[:, :, at, other]
            for name, weight in zip(names, weights, strict=True):
                of = weight > 0  # a month of weight 0 may have an unknown error
                difference = find_interval(float(estimate[of] @ weight[of]), samples[:, of] @ weight[of])
                rows.append((name, subset, system, difference.estimate, difference.low, difference.high))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def find_difference(comparisons: pd.DataFrame, month: str, subset: str, system: str) -> ConfidenceInterval:
    """Return the difference and its interval from one row of the table that ``compare`` returns."""
    is_row = (comparisons["month"] == month) & (comparisons["subset"] == subset) & (comparisons["system"] == system)
    return ConfidenceInterval(*(float(value) for value in comparisons.loc[is_row, list(COLUMNS[3:])].to_numpy()[0]))


def collect_findings(table: pd.DataFrame, comparisons: pd.DataFrame, networks: int) -> Findings:
    """Return what the conclusion is based on: means over the later months and networks, on all rows.

    Args:
        table: the result of ``monthly_rates.average_months``.
        comparisons: the result of ``compare``.
        networks: the number of networks.
    """

    def collect(name: str, system: str, offloaded: float = math.nan) -> System:
        error, acceptance, cost = (
            find_rate(table, MEAN, ALL_ROWS, system, rate) for rate in ("error", "acceptance", "cost_share")
        )
        is_rival = system != SYSTEM
        difference = find_difference(comparisons, MEAN, ALL_ROWS, system) if is_rival else None
        return System(name, error, acceptance, offloaded, cost, difference)

    systems = list(dict.fromkeys(comparisons["system"]))
    plain = [name for name in systems if name not in (EXIT_1, EXIT_2, BY_CLASS) and " + " not in name]
    return Findings(
        networks=networks,
        two_exits=collect("two exits", SYSTEM, find_rate(table, MEAN, ALL_ROWS, SYSTEM, "offloaded")),
        exit_1=(
            collect("exit 1 alone", EXIT_1 + MATCHED, 0.0),
            collect("exit 1 alone (thresholds by class)", BY_CLASS, 0.0),
            collect("exit 1 alone (one threshold)", EXIT_1 + REJECT, 0.0),
        ),
        exit_2=collect("exit 2 alone", EXIT_2 + MATCHED, 1.0),
        baselines=[collect(name, name + MATCHED if name + MATCHED in systems else name) for name in plain],
        exit_1_elsewhere={
            subset: find_difference(comparisons, MEAN, subset, EXIT_1 + MATCHED)
            for subset in SUBSETS
            if subset != ALL_ROWS
        },
    )


def build_year_table(rates: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """Return rates and differences in long form: a row for each month, subset, system and metric.

    Args:
        rates: by month, subset, system and network.
        comparisons: the result of ``compare``; its rows get the metric ``error_difference``, and have bounds.

    Returns:
        columns month, subset, system, metric, mean, low, high, network_1, …
    """
    long = to_long_form(rates)
    differences = comparisons.rename(columns={"estimate": "mean"}).assign(metric="error_difference")
    differences["system"] = f"{SYSTEM} - " + differences["system"]
    together = pd.concat((long, differences), ignore_index=True)
    keys = ["month", "subset", "system", "metric", "mean", "low", "high"]
    return together[[*keys, *(name for name in long.columns if name not in keys)]]


def _count_all_subsets(month: Month, by_vector: bool, decided: Sequence[Decided], systems: Sequence[str]) -> Counts:
    """Count the rows of all subsets of a month by the same units; each subset adds K systems to the first axis."""
    units = month.vector_index if by_vector else np.arange(len(month))
    parts = [
        count(
            [[of_network[subset.name][system] for of_network in decided] for system in systems],
            units[subset.rows],
            int(units.max()) + 1,
        )
        for subset in subsets(month)
    ]
    return Counts(np.concatenate([part.accepted for part in parts]), np.concatenate([part.wrong for part in parts]))
