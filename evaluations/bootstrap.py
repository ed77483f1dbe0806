"""Paired bootstrap of errors: intervals for the difference of two systems, given the rows and seeds at hand.

A resample draws the same units of a month and the same networks for every system. Units are distinct vectors, because
all rows of a vector get the same answer; or rows, as if they were independent, which makes intervals too narrow where
vectors repeat. A network stands for its training seed.

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
_CELLS: Final = 500_000  # weights drawn at once, to limit memory

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """The counts of K systems with S networks on the U units of a month.

    Attributes:
        accepted, wrong: (K, S, U) float64, rows of each unit.
    """

    accepted: FloatArray
    wrong: FloatArray


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its interval; NaN: unknown."""

    estimate: float
    low: float
    high: float


def count(decided: Sequence[Sequence[Decisions]], units: NDArray[np.intp], of: int) -> Counts:
    """Count rows of a month by unit.

    Args:
        decided: for each system (K) and network (S), its decisions about the rows (N).
        units: (N,) the unit of each row.
        of: U, all units of the month.
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
    """Return wrong / accepted of each system (K,), the mean over the networks; NaN if a network accepts nothing."""
    mean: FloatArray = _divide(counts.wrong.sum(axis=2), counts.accepted.sum(axis=2)).mean(axis=1)
    return mean


def resample_errors(
    months: Sequence[Counts], resamples: int, seed: int, progress: Progress = no_progress
) -> FloatArray:
    """Return the errors (B, M, K) of B resamples.

    Units are drawn within each month with replacement, as many as there are; networks too, the same in all months.
    Months are not drawn.

    Args:
        months: of the same K systems and S networks.
        resamples: B.
        seed: the same seed repeats the result.
        progress: called with the number of resamples of a month that are done.
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


def find_interval(estimate: float, resampled: FloatArray) -> Interval:
    """Return the percentile interval of resampled values (B,); unknown if one value is NaN."""
    if not np.isfinite(resampled).all():
        return Interval(estimate, float("nan"), float("nan"))
    low, high = np.quantile(resampled, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(estimate, float(low), float(high))


def _draw(generator: np.random.Generator, resamples: int, units: int) -> FloatArray:
    """Return how often each unit is drawn (resamples, units)."""
    drawn = generator.integers(units, size=(resamples, units))
    drawn += units * np.arange(resamples)[:, np.newaxis]
    return np.bincount(drawn.ravel(), minlength=resamples * units).reshape(resamples, units).astype(np.float64)


def _divide(wrong: FloatArray, accepted: FloatArray) -> FloatArray:
    return np.divide(wrong, accepted, out=np.full_like(wrong, np.nan), where=accepted > 0)
