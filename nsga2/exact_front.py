"""Compute the exact Pareto front of the thresholds, without a heuristic search.

The thresholds at exit 1 determine the time. For each pair of them, it remains to find the thresholds at exit 2 with the
lowest error, which is the fraction wrong / accepted. Dinkelbach's method minimises such a fraction in steps. Each step
looks for thresholds whose wrong answers are fewer than the current fraction of the answers that they accept. If there
are some, their fraction is the next one; otherwise, the current fraction is the lowest. The numbers of accepted and
wrong answers are sums over the classes at exit 2, so a step scans the thresholds of one class and then those of the
other.

Source: W. Dinkelbach, "On nonlinear fractional programming", Management Science 13(7), 1967.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsga2.defaults import GRID_SIZE
from nsga2.objectives import Objectives
from nsga2.threshold_grid import Grid, make_grids
from utils.results import Front
from utils.schema import ATTACK, NORMAL

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# wrong - fraction * accepted is 0, or differs from 0 by at least 1 / rows; anything below this is a rounding error.
_EQUAL: Final = 1e-9


@dataclass(frozen=True)
class ExactFront:
    """A front, and how exact it is.

    Attributes:
        front: its points, fastest first.
        gap: for any thresholds, the front has a point that is no slower and whose error is higher by ``gap`` at most;
            0: the front is exact.
        time_gap: by how much normalised time that point may be slower nevertheless; it is above 0 only if offloading
            makes some events cheaper.
    """

    front: Front
    gap: float
    time_gap: float


@dataclass(frozen=True)
class ClassSums:
    """The results of the thresholds (m,) of one class at exit 1.

    Attributes:
        accepted, wrong: (m,) numbers of accepted answers, and of wrong ones among them, at exit 1.
        time: (m,) normalised time that offloading adds.
        accepted_2, wrong_2: the same numbers for the offloaded events, for each class at exit 2: (m, n), for n
            thresholds of that class.
    """

    accepted: IntArray
    wrong: IntArray
    time: FloatArray
    accepted_2: tuple[IntArray, IntArray]
    wrong_2: tuple[IntArray, IntArray]


def find_exact_front(
    objectives: Objectives,
    min_acceptance: float,
    grid_size: int = GRID_SIZE,
    progress: Callable[[int, int], object] = lambda _done, _all: None,
) -> ExactFront:
    """Return the exact front over all thresholds within [0.5, 1].

    Args:
        objectives: evaluates thresholds.
        min_acceptance: least share of events that must be accepted.
        grid_size: most thresholds of a class at an exit that are tried; see ``threshold_grid.make_grid``.
        progress: called with the number of pairs of exit-1 thresholds that are done, and of all pairs.

    Raises:
        InfeasibleError: no thresholds reach that acceptance.
    """
    least = objectives.find_least_accepted(min_acceptance)
    sides = make_grids(objectives, grid_size)
    normal, attack = (sum_class(objectives, sides, kind) for kind in (NORMAL, ATTACK))
    fraction, places = _find_best_fractions(normal, attack, least, progress)
    time = normal.time[:, np.newaxis] + attack.time
    first, second = find_undominated(fraction, time)
    chosen = (first, second, *(place[first, second] for place in places))
    thresholds = np.column_stack(
        [sides[side].thresholds[place] for side, place in zip(product((1, 2), (NORMAL, ATTACK)), chosen, strict=True)]
    )
    wrong, dearer = (sum(side.slack[harm] for side in sides.values()) for harm in range(2))
    return ExactFront(find_front(objectives, thresholds), wrong / least, dearer)


def find_front(objectives: Objectives, thresholds: FloatArray) -> Front:
    """Return the Pareto front among given thresholds (k, 4), fastest first."""
    scores = objectives.score(thresholds)
    time = objectives.normalise(scores.time)
    (kept,) = find_undominated(scores.error, time)
    points = np.column_stack((scores.error, time))[kept]
    return Front(
        thresholds[kept], points, objectives.min_time, objectives.max_time, objectives.accuracies[0], 1.0,
        objectives.accuracies[1], 1.0,
    )  # fmt: skip


def sum_class(objectives: Objectives, sides: dict[tuple[int, int], Grid], kind: int) -> ClassSums:
    """Return the results of the thresholds of one class at exit 1."""
    rows = objectives.evaluation
    of_class = rows.prediction_1 == kind
    labels, prediction_2 = rows.labels[of_class], rows.prediction_2[of_class]
    level_1 = sides[1, kind].find_levels(rows.certainty_1[of_class])
    count = len(sides[1, kind])

    def sum_below(amounts: FloatArray) -> FloatArray:
        """Return the sum of the amounts of the rows below each threshold (m,)."""
        sums: FloatArray = np.cumsum(np.bincount(level_1 + 1, amounts, count + 1).astype(np.float64))[:-1]
        return sums

    def count_offloaded(kind_2: int, counted: NDArray[np.bool_]) -> IntArray:
        """Return how many offloaded rows among ``counted`` each threshold at exit 2 accepts as ``kind_2`` (m, n)."""
        width = len(sides[2, kind_2])
        chosen = (prediction_2 == kind_2) & counted
        level_2 = sides[2, kind_2].find_levels(rows.certainty_2[of_class][chosen])
        flat = (level_1[chosen] + 1) * (width + 1) + level_2 + 1
        table = np.bincount(flat, minlength=(count + 1) * (width + 1)).reshape(count + 1, width + 1)
        sums: IntArray = table.cumsum(axis=0)[:-1, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
        return sums

    all_rows, wrong_2 = np.ones(len(labels), dtype=np.bool_), prediction_2 != labels
    wrong_1 = (labels != kind).astype(np.float64)
    return ClassSums(
        accepted=(len(labels) - sum_below(np.ones(len(labels)))).astype(np.int64),
        wrong=(wrong_1.sum() - sum_below(wrong_1)).astype(np.int64),
        time=sum_below(objectives.shares[of_class]),
        accepted_2=(count_offloaded(NORMAL, all_rows), count_offloaded(ATTACK, all_rows)),
        wrong_2=(count_offloaded(NORMAL, wrong_2), count_offloaded(ATTACK, wrong_2)),
    )


def _find_best_fractions(
    normal: ClassSums, attack: ClassSums, least: int, progress: Callable[[int, int], object]
) -> tuple[FloatArray, tuple[IntArray, IntArray]]:
    """Return the least error for each pair of exit-1 thresholds (m, n), and the thresholds at exit 2 that reach it.

    The error is infinite for a pair with which too few events can be accepted.
    """
    shape = len(normal.time), len(attack.time)
    fraction = np.full(shape, np.inf)
    places = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row in range(shape[0]):
        accepted = tuple(normal.accepted_2[kind][row] + attack.accepted_2[kind] for kind in (NORMAL, ATTACK))
        wrong = tuple(normal.wrong_2[kind][row] + attack.wrong_2[kind] for kind in (NORMAL, ATTACK))
        fraction[row], places[0][row], places[1][row] = _find_best_fraction(
            normal.accepted[row] + attack.accepted, normal.wrong[row] + attack.wrong, accepted, wrong, least
        )
        progress((row + 1) * shape[1], shape[0] * shape[1])
    return fraction, places


def _find_best_fraction(
    accepted_1: IntArray, wrong_1: IntArray, accepted_2: tuple[IntArray, ...], wrong_2: tuple[IntArray, ...], least: int
) -> tuple[FloatArray, IntArray, IntArray]:
    """Return the least error for each of J pairs of exit-1 thresholds, and the places of the thresholds at exit 2 (J,).

    The counts are (J,) at exit 1, and (J, m) and (J, n) for the thresholds of the two classes at exit 2.
    """
    problems = np.arange(len(accepted_1))
    # For each threshold of the first class, the strictest of the second that accepts enough; -1: none does.
    needed = least - accepted_1[:, np.newaxis] - accepted_2[0]
    strictest = _count_at_least(accepted_2[1], needed) - 1
    feasible = strictest >= 0
    place = np.zeros_like(problems), np.zeros_like(problems)
    fraction = np.where(feasible.any(axis=1), 1.0 + _EQUAL, np.inf)
    improving = np.asarray(feasible.any(axis=1))
    while improving.any():
        now = problems[improving]
        first, second = (w[now] - fraction[now, np.newaxis] * a[now] for w, a in zip(wrong_2, accepted_2, strict=True))
        least_so_far = np.minimum.accumulate(second, axis=1)
        together = first + np.take_along_axis(least_so_far, np.maximum(strictest[now], 0), axis=1)
        together[~feasible[now]] = np.inf
        best = together.argmin(axis=1)
        value = together[np.arange(len(now)), best] + wrong_1[now] - fraction[now] * accepted_1[now]
        better = value < -_EQUAL
        improving[now[~better]] = False
        now, best = now[better], best[better]
        bound = strictest[now, best]
        within = np.arange(second.shape[1]) <= bound[:, np.newaxis]
        place[0][now] = best
        place[1][now] = np.where(within, second[better], np.inf).argmin(axis=1)
        taken = [(table[now, at[now]]) for table, at in zip(accepted_2, place, strict=True)]
        wrong = [(table[now, at[now]]) for table, at in zip(wrong_2, place, strict=True)]
        fraction[now] = (wrong_1[now] + sum(wrong)) / (accepted_1[now] + sum(taken))
    return fraction, *place


def _count_at_least(falling: IntArray, limits: IntArray) -> IntArray:
    """Return how many numbers of each row (J, n), sorted in descending order, reach each of its limits (J, m)."""
    highest = int(falling.max(initial=0)) + 1
    rows = np.arange(len(falling))[:, np.newaxis] * (highest + 1)
    # Each row is reversed and shifted to a range of values of its own, so that all rows form one sorted array.
    ascending = (rows + falling[:, ::-1]).ravel()
    under = np.searchsorted(ascending, rows + np.clip(limits, 0, highest))
    ends = (np.arange(len(falling)) + 1)[:, np.newaxis] * falling.shape[1]
    count: IntArray = ends - under
    return count


def find_undominated(errors: FloatArray, times: FloatArray) -> tuple[NDArray[np.intp], ...]:
    """Return the indices of the points that no other dominates, fastest first; of equal points, one."""
    # Times are rounded, because sums of the same amounts in another order differ in their last digits.
    order = np.lexsort((errors.ravel(), np.round(times, 12).ravel()))
    falling = errors.ravel()[order]
    best_before = np.concatenate(((np.inf,), np.minimum.accumulate(falling)[:-1]))
    return np.unravel_index(order[falling < best_before], errors.shape)
