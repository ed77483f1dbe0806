"""The true Pareto front of the thresholds, without a search.

For given thresholds at exit 1 the time is given, and what is left is the least share of wrong answers among the
accepted that thresholds at exit 2 can reach. That is a fraction, so Dinkelbach's method finds it: as long as some
thresholds have fewer wrong answers than the best fraction so far allows for as many accepted, their fraction is the
best so far. The numbers of accepted and wrong answers add up over the classes at exit 2, so each step is a scan over
one class's thresholds and one over the other's.

Source: W. Dinkelbach, "On nonlinear fractional programming", Management Science 13(7), 1967.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsga2.choices import Choices, looked_at
from nsga2.objectives import Objectives
from utils.results import Front
from utils.schema import ATTACK, NORMAL

MOST_CHOICES: Final = 512
"""Thresholds of a class at an exit that are looked at, by default."""

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# Errors are fractions of rows; two that differ, times the rows of one, differ by more.
_EQUAL: Final = 1e-9


@dataclass(frozen=True)
class ExactFront:
    """A front, and how exact it is.

    Attributes:
        front: its points, fastest first.
        gap: no thresholds whatever have an error lower by more than this than a point of the front that takes as long
            at most; 0: the front is the true one.
        time_gap: by which that point may take longer; not 0 only where some events cost less offloaded than not.
    """

    front: Front
    gap: float
    time_gap: float


@dataclass(frozen=True)
class _Class:
    """What the thresholds (m,) of one class at exit 1 lead to.

    Attributes:
        accepted, wrong: (m,) at exit 1.
        time: (m,) normalised, of what is offloaded.
        accepted_2, wrong_2: by class at exit 2, with thresholds (n,) there: (m, n) among what is offloaded.
    """

    accepted: IntArray
    wrong: IntArray
    time: FloatArray
    accepted_2: tuple[IntArray, IntArray]
    wrong_2: tuple[IntArray, IntArray]


def exact_front(
    objectives: Objectives,
    min_acceptance: float,
    most_choices: int = MOST_CHOICES,
    progress: Callable[[int, int], object] = lambda _done, _all: None,
) -> ExactFront:
    """Return the true front over thresholds within [0.5, 1].

    Args:
        objectives: judge thresholds.
        min_acceptance: least share of events that must be accepted.
        most_choices: where a class has more thresholds that make a difference at an exit, so many are looked at.
        progress: called with the pairs of exit-1 thresholds that are done, and all of them.

    Raises:
        InfeasibleError: no thresholds accept that many.
    """
    least = objectives.least_accepted(min_acceptance)
    sides = looked_at(objectives, most_choices)
    normal, attack = (_class(objectives, sides, kind) for kind in (NORMAL, ATTACK))
    fraction, places = _best_fractions(normal, attack, least, progress)
    time = normal.time[:, np.newaxis] + attack.time
    first, second = _undominated(fraction, time)
    chosen = (first, second, *(place[first, second] for place in places))
    thresholds = np.column_stack(
        [sides[side].thresholds[place] for side, place in zip(product((1, 2), (NORMAL, ATTACK)), chosen, strict=True)]
    )
    wrong, dearer = (sum(side.slack[harm] for side in sides.values()) for harm in range(2))
    return ExactFront(front_of(objectives, thresholds), wrong / least, dearer)


def front_of(objectives: Objectives, thresholds: FloatArray) -> Front:
    """Return the undominated of some thresholds (k, 4) as a front, fastest first."""
    scores = objectives.scores(thresholds)
    time = objectives.normalise(scores.time)
    (kept,) = _undominated(scores.error, time)
    points = np.column_stack((scores.error, time))[kept]
    return Front(
        thresholds[kept], points, objectives.min_time, objectives.max_time, objectives.accuracies[0], 1.0,
        objectives.accuracies[1], 1.0,
    )  # fmt: skip


def _class(objectives: Objectives, sides: dict[tuple[int, int], Choices], kind: int) -> _Class:
    rows = objectives.evaluation
    of_class = rows.prediction_1 == kind
    labels, prediction_2 = rows.labels[of_class], rows.prediction_2[of_class]
    level_1 = sides[1, kind].levels(rows.certainty_1[of_class])
    count = len(sides[1, kind])

    def below(amounts: FloatArray) -> FloatArray:
        """Sum up what is under each threshold."""
        sums: FloatArray = np.cumsum(np.bincount(level_1 + 1, amounts, count + 1).astype(np.float64))[:-1]
        return sums

    def offloaded(kind_2: int, counted: NDArray[np.bool_]) -> IntArray:
        """Count, for thresholds at both exits, the answers of a class at exit 2."""
        width = len(sides[2, kind_2])
        chosen = (prediction_2 == kind_2) & counted
        level_2 = sides[2, kind_2].levels(rows.certainty_2[of_class][chosen])
        flat = (level_1[chosen] + 1) * (width + 1) + level_2 + 1
        table = np.bincount(flat, minlength=(count + 1) * (width + 1)).reshape(count + 1, width + 1)
        sums: IntArray = table.cumsum(axis=0)[:-1, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
        return sums

    all_rows, wrong_2 = np.ones(len(labels), dtype=np.bool_), prediction_2 != labels
    wrong_1 = (labels != kind).astype(np.float64)
    return _Class(
        accepted=(len(labels) - below(np.ones(len(labels)))).astype(np.int64),
        wrong=(wrong_1.sum() - below(wrong_1)).astype(np.int64),
        time=below(objectives.shares[of_class]),
        accepted_2=(offloaded(NORMAL, all_rows), offloaded(ATTACK, all_rows)),
        wrong_2=(offloaded(NORMAL, wrong_2), offloaded(ATTACK, wrong_2)),
    )


def _best_fractions(
    normal: _Class, attack: _Class, least: int, progress: Callable[[int, int], object]
) -> tuple[FloatArray, tuple[IntArray, IntArray]]:
    """Return the least error for each pair of exit-1 thresholds (m, n), and with which thresholds at exit 2.

    It is infinite where too few can be accepted.
    """
    shape = len(normal.time), len(attack.time)
    fraction = np.full(shape, np.inf)
    places = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row in range(shape[0]):
        accepted = tuple(normal.accepted_2[kind][row] + attack.accepted_2[kind] for kind in (NORMAL, ATTACK))
        wrong = tuple(normal.wrong_2[kind][row] + attack.wrong_2[kind] for kind in (NORMAL, ATTACK))
        fraction[row], places[0][row], places[1][row] = _best_fraction(
            normal.accepted[row] + attack.accepted, normal.wrong[row] + attack.wrong, accepted, wrong, least
        )
        progress((row + 1) * shape[1], shape[0] * shape[1])
    return fraction, places


def _best_fraction(
    accepted_1: IntArray, wrong_1: IntArray, accepted_2: tuple[IntArray, ...], wrong_2: tuple[IntArray, ...], least: int
) -> tuple[FloatArray, IntArray, IntArray]:
    """Solve J problems at once: (J,) at exit 1, (J, m) and (J, n) by the thresholds of each class at exit 2."""
    problems = np.arange(len(accepted_1))
    # For each threshold of the one class, the strictest of the other that leaves enough accepted; -1: none does.
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
    """Return how many of each row (J, n) of falling numbers reach each of its limits (J, m)."""
    highest = int(falling.max(initial=0)) + 1
    rows = np.arange(len(falling))[:, np.newaxis] * (highest + 1)
    # Risen and moved apart, all rows are one sorted list.
    ascending = (rows + falling[:, ::-1]).ravel()
    under = np.searchsorted(ascending, rows + np.clip(limits, 0, highest))
    ends = (np.arange(len(falling)) + 1)[:, np.newaxis] * falling.shape[1]
    count: IntArray = ends - under
    return count


def _undominated(errors: FloatArray, times: FloatArray) -> tuple[NDArray[np.intp], ...]:
    """Return the places of the points that no other beats, fastest first; of equal ones, one."""
    # Sums of equal amounts in another order differ in their last digits.
    order = np.lexsort((errors.ravel(), np.round(times, 12).ravel()))
    falling = errors.ravel()[order]
    best_before = np.concatenate(((np.inf,), np.minimum.accumulate(falling)[:-1]))
    return np.unravel_index(order[falling < best_before], errors.shape)
