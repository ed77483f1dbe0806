"""Compare the two exits with every other system: differences of errors with their intervals."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from evaluations.baselines import MATCHED, REJECT
from evaluations.bootstrap import Counts, Interval, compute_errors, count, find_interval, resample_errors
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
    """Return the differences of errors of accepted events: two exits - another system.

    Args:
        months: the later ones (M), in order.
        decided: for each month and network, the decisions of all systems.
        by_vector: whether to resample distinct vectors; else rows.
        resamples: number of resamples.
        seed: of the resampling.
        progress: called with the number of resamples of a month that are done.

    Returns:
        columns ``COLUMNS``: for each other system and subset: each month, their mean and the area under time.
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
                of = weight > 0  # a month without weight may be unknown
                difference = find_interval(float(estimate[of] @ weight[of]), samples[:, of] @ weight[of])
                rows.append((name, subset, system, difference.estimate, difference.low, difference.high))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def find_difference(comparisons: pd.DataFrame, month: str, subset: str, system: str) -> Interval:
    """Return one row of ``compare``."""
    is_row = (comparisons["month"] == month) & (comparisons["subset"] == subset) & (comparisons["system"] == system)
    return Interval(*(float(value) for value in comparisons.loc[is_row, list(COLUMNS[3:])].to_numpy()[0]))


def collect_findings(table: pd.DataFrame, comparisons: pd.DataFrame, networks: int) -> Findings:
    """Return what the conclusion rests on: means over the later months and networks, of all rows.

    Args:
        table: of ``monthly_rates.average_months``.
        comparisons: of ``compare``.
        networks: how many.
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
        comparisons: of ``compare``; their rows have the metric ``error_difference`` and bounds.

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
    """Count all subsets of a month by the same units: K systems for each subset, one after the other."""
    units = month.place if by_vector else np.arange(len(month))
    parts = [
        count(
            [[of_network[subset.name][system] for of_network in decided] for system in systems],
            units[subset.rows],
            int(units.max()) + 1,
        )
        for subset in subsets(month)
    ]
    return Counts(np.concatenate([part.accepted for part in parts]), np.concatenate([part.wrong for part in parts]))
