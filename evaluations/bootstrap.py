"""Compute confidence intervals for the difference of two systems' errors by a paired bootstrap.

A resample draws the same units of a month and the same networks for every system. A unit is a distinct vector with all
its rows, because these get the same answer; or it is a single row, as if rows were independent, which makes intervals
too narrow where vectors repeat. Each network represents its training seed. Months, training rows and thresholds are not
resampled, so the intervals do not say how results vary between them.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 and 13 (percentile intervals); of
clusters: Field and Welsh, "Bootstrapping clustered data", JRSS B 69(3), 2007.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.prediction import Progress, no_progress
from utils.decision import Decisions

LEVEL: Final = 0.95
_CELLS: Final = 500_000  # most weights drawn at once, to limit memory

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """The counts of K systems with S networks on the U units of a month.

    Attributes:
        accepted: (K, S, U) float64, the accepted rows of each unit.
        wrong: (K, S, U) float64, those of them whose answer is wrong.
    """

    accepted: FloatArray
    wrong: FloatArray


@dataclass(frozen=True)
class ConfidenceInterval:
    """An estimate and the bounds of its confidence interval; NaN where unknown."""

    estimate: float
    low: float
    high: float


def count(decided: Sequence[Sequence[Decisions]], units: NDArray[np.intp], of: int) -> Counts:
    """Count the accepted rows of each unit of a month, and those of them whose answer is wrong.

    Args:
        decided: for each system (K) and network (S), its decisions about the rows (N).
        units: (N,) the unit of each row.
        of: U, the number of units in the month.
    """
    shape = (len(decided), len(decided[0]), of)
    counts = Counts(np.zeros(shape), np.zeros(shape))
    for system, by_network in enumerate(decided):
        for network, rows in enumerate(by_network):
            accepted = rows.at_1 | rows.at_2
            counts.accepted[system, network] = np.bincount(units, accepted, of)
            counts.wrong[system, network] = np.bincount(units, accepted & (rows.predictions != rows.labels), of)
    return counts


def compute_errors(counts: Counts) -> FloatArray:
    """Return each system's mean of wrong / accepted over the networks (K,); NaN if a network accepts nothing."""
    mean: FloatArray = _divide(counts.wrong.sum(axis=2), counts.accepted.sum(axis=2)).mean(axis=1)
    return mean


def resample_errors(
    months: Sequence[Counts], resamples: int, seed: int, progress: Progress = no_progress
) -> FloatArray:
    """Return the errors (B, M, K) of K systems in M months, for B resamples.

    A resample draws, with replacement, as many units from each month as the month has, and as many networks as there
    are. It draws the networks once for all months.

    Args:
        months: the counts of each month (M), for the same K systems and S networks.
        resamples: B.
        seed: of the random numbers; the same seed gives the same result.
        progress: called repeatedly, with the number of resamples of one month that were computed since the last call.
    """
    generator = np.random.default_rng(seed)
    systems, networks = months[0].accepted.shape[:2]
    drawn = generator.multinomial(networks, np.full(networks, 1 / networks), size=resamples)
    result = np.empty((resamples, len(months), systems))
    for number, counts in enumerate(months):
        units = counts.accepted.shape[2]
        columns = np.concatenate((counts.wrong, counts.accepted)).reshape(-1, units).T
        step = max(1, _CELLS // units)
        for start in range(0, resamples, step):
            stop = min(start + step, resamples)
            sums = (_draw(generator, stop - start, units) @ columns).reshape(-1, 2, systems, networks)
            weights = drawn[start:stop, np.newaxis]
            share = np.where(weights > 0, _divide(sums[:, 0], sums[:, 1]), 0.0)
            result[start:stop, number] = (share * weights).sum(axis=2) / networks
            progress(stop - start)
    return result


def find_interval(estimate: float, resampled: FloatArray) -> ConfidenceInterval:
    """Return the percentile interval of resampled values (B,); its bounds are NaN if one value is not finite."""
    if not np.isfinite(resampled).all():
        return ConfidenceInterval(estimate, float("nan"), float("nan"))
    low, high = np.quantile(resampled, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return ConfidenceInterval(estimate, float(low), float(high))


def _draw(generator: np.random.Generator, resamples: int, units: int) -> FloatArray:
    """Return how often each resample draws each unit, (resamples, units)."""
    drawn = generator.integers(units, size=(resamples, units))
    drawn += units * np.arange(resamples)[:, np.newaxis]
    return np.bincount(drawn.ravel(), minlength=resamples * units).reshape(resamples, units).astype(np.float64)


def _divide(wrong: FloatArray, accepted: FloatArray) -> FloatArray:
    return np.divide(wrong, accepted, out=np.full_like(wrong, np.nan), where=accepted > 0)
