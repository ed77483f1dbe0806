"""Certify thresholds: with a stated confidence, the error of the accepted events is at most a limit.

Method: Learn then Test (A. Angelopoulos, S. Bates, E. Candès, M. Jordan and L. Lei, "Learn then Test: Calibrating
Predictive Algorithms to Achieve Risk Control", arXiv 2110.01052, 2021, Theorem 1) with fixed-sequence testing. A part
of the rows proposes thresholds and the order of their tests. The other part tests them, one after the other, until one
fails. The order does not depend on the rows of the tests, so each test may use the whole of 1 - confidence, and the
probability that any certified thresholds have an error above the limit is at most 1 - confidence.

Each test is exact. Among n accepted events, the number of wrong ones is binomial with the true error, so that
P(Binomial(n, limit) <= wrong) is a p-value of "the error of all traffic is above the limit". The promise also covers
the next n accepted events, as many as were tested, whose error differs from that of all traffic by chance: if more than
limit * n of these are wrong, it is chance which of all 2 n events the tested ones are, and the number of wrong ones
among these is hypergeometric. The larger of the two p-values counts.

Assumption: the rows of the tests and the later events are exchangeable, which means drawn independently from one
distribution. A change of the traffic or of its labels voids the certificate, and so do bursts of similar events, in
which rows depend on each other.

The proposals are tested in the order of the p-values that the proposing part predicts for them: the safest first.
"""

import math
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv
from scipy.stats import hypergeom

from nsga2.exact_front import find_undominated, sum_class
from nsga2.objectives import Objectives
from nsga2.threshold_grid import make_grids
from utils.errors import InfeasibleError
from utils.schema import ATTACK, NORMAL, Thresholds

GRID_SIZE: Final = 24
"""Most thresholds of a class at an exit that are tried for a proposal."""
MOST_PROPOSALS: Final = 100
"""Most thresholds of a front that are proposed."""
PROPOSING_SHARE: Final = 0.35
"""Share of the rows that propose; with it, the most events were accepted at limits of 6 and 8 % on 5,000 rows."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Sums = tuple[IntArray, IntArray]


@dataclass(frozen=True)
class Goal:
    """What is to be certified.

    Attributes:
        max_error: limit of wrong / accepted.
        confidence: probability with which the limit holds.
        min_acceptance: of the certified thresholds that accept this share, the cheapest are chosen; None: those that
            accept the most.
    """

    max_error: float
    confidence: float
    min_acceptance: float | None = None


@dataclass(frozen=True)
class Counts:
    """Counts of k thresholds on n rows.

    Attributes:
        rows: n.
        accepted, wrong: (k,) int64, accepted events, and wrong ones among them.
        time: (k,) float64, µs per event.
    """

    rows: int
    accepted: IntArray
    wrong: IntArray
    time: FloatArray


@dataclass(frozen=True)
class Certified:
    """Certified thresholds, and all that were proposed.

    Attributes:
        thresholds: the chosen ones.
        accepted, wrong: events among the rows of the tests that they accept, and wrong ones among these.
        bound: the lowest limit that they certify by themselves.
        rows: number of rows of the tests.
        passed: (m, 4) all certified thresholds.
        acceptances, errors, bounds: (k,) acceptance, error and lowest certified limit of all proposed thresholds.
    """

    thresholds: Thresholds
    accepted: int
    wrong: int
    bound: float
    rows: int
    passed: FloatArray
    acceptances: FloatArray
    errors: FloatArray
    bounds: FloatArray


def compute_p_values(accepted: IntArray, wrong: IntArray, limit: float) -> FloatArray:
    """Return the p-values (k,) of "more than the limit is wrong"; 1 where nothing is accepted."""
    of_next = _compute_tail(accepted, wrong, np.floor(limit * accepted + 1e-9).astype(np.int64))
    p_values: FloatArray = np.maximum(bdtr(wrong, accepted, limit), of_next)
    return p_values


def bound_error(accepted: IntArray, wrong: IntArray, confidence: float) -> FloatArray:
    """Return the lowest limits (k,) that these counts certify, each by itself; 1 where nothing is accepted."""
    lowest, highest = np.full_like(accepted, -1), accepted.copy()
    while (highest - lowest > 1).any():
        middle = (lowest + highest) // 2
        is_enough = _compute_tail(accepted, wrong, middle) <= 1 - confidence
        lowest, highest = np.where(is_enough, lowest, middle), np.where(is_enough, middle, highest)
    of_all = betaincinv(wrong + 1, np.maximum(accepted - wrong, 1), confidence)
    bounds: FloatArray = np.where(wrong < accepted, np.maximum(of_all, highest / np.maximum(accepted, 1)), 1.0)
    return bounds


def _compute_tail(accepted: IntArray, wrong: IntArray, allowed: IntArray) -> FloatArray:
    """Return the probability (k,) of at most ``wrong``, if one more than ``allowed`` of as many events are wrong."""
    together = np.minimum(wrong + allowed + 1, 2 * accepted)
    tails: FloatArray = np.where(accepted > 0, hypergeom.cdf(wrong, 2 * accepted, together, accepted), 1.0)
    return tails


def count_decisions(objectives: Objectives, thresholds: FloatArray) -> Counts:
    """Count what thresholds (k, 4) accept, and how much of it is wrong."""
    scores = objectives.score(thresholds)
    accepted = np.rint(scores.acceptance * objectives.rows).astype(np.int64)
    return Counts(objectives.rows, accepted, np.rint(scores.error * accepted).astype(np.int64), scores.time)


def certify(
    proposing: Objectives, testing: Objectives, goal: Goal, grid_size: int = GRID_SIZE, remedy: str = "give more rows"
) -> Certified:
    """Return certified thresholds that reach a goal.

    Args:
        proposing: rows that propose thresholds; see ``split_rows``.
        testing: rows that take part in nothing but the tests.
        goal: what is to be certified.
        grid_size: most thresholds of a class at an exit that are tried for a proposal.
        remedy: what the user can do if the rows are too few, for messages.

    Raises:
        InfeasibleError: the rows do not certify the goal; the message says what they certify.
    """
    proposed = propose(proposing, goal.min_acceptance, grid_size)
    predicted, counts = (count_decisions(rows, proposed) for rows in (proposing, testing))
    order = order_by_safety(predicted, testing.rows, goal.max_error)
    passed = find_passed(counts, order, goal)
    if not len(passed):
        limit, first = _find_certifiable(predicted, counts, goal)
        if limit >= 1:
            raise InfeasibleError(f"too few rows to certify any error: {testing.rows}; {remedy}")
        raise InfeasibleError(
            f"an error of at most {goal.max_error:g} cannot be certified with confidence {goal.confidence:g} from "
            f"{testing.rows} rows; {limit:g} can, at an acceptance of {counts.accepted[first] / testing.rows:.3f}; "
            f"raise --max-error to that, {'' if goal.min_acceptance is None else 'lower --min-acceptance, '}or {remedy}"
        )
    best = passed[np.lexsort((counts.time[passed], -counts.accepted[passed]))[0]]
    if goal.min_acceptance is not None:
        enough = passed[counts.accepted[passed] >= goal.min_acceptance * testing.rows - 1e-9]
        if not len(enough):
            raise InfeasibleError(
                f"an error of at most {goal.max_error:g} can be certified at an acceptance of up to "
                f"{counts.accepted[best] / testing.rows:.4f}, not of {goal.min_acceptance:g}; lower --min-acceptance, "
                f"raise --max-error, or {remedy}"
            )
        best = enough[counts.time[enough].argmin()]
    bounds = bound_error(counts.accepted, counts.wrong, goal.confidence)
    return Certified(
        Thresholds(*map(float, proposed[best])),
        int(counts.accepted[best]),
        int(counts.wrong[best]),
        float(bounds[best]),
        testing.rows,
        proposed[passed],
        counts.accepted / testing.rows,
        counts.wrong / np.maximum(counts.accepted, 1),
        bounds,
    )


def _find_certifiable(predicted: Counts, counts: Counts, goal: Goal) -> tuple[float, int]:
    """Return a limit that can be certified, rounded up to four digits, and which thresholds certify it first.

    The search begins at the bound of the thresholds that the proposing rows predict to have the lowest one, on as many
    rows as the tests have. At another limit, other thresholds may be tested first, which may fail.
    """
    share = counts.rows / predicted.rows
    accepted, wrong = (np.rint(share * part).astype(np.int64) for part in (predicted.accepted, predicted.wrong))
    bounds = bound_error(counts.accepted, counts.wrong, goal.confidence)
    lowest = float(bounds[bound_error(accepted, np.minimum(wrong, accepted), goal.confidence).argmin()])
    for step in range(math.ceil(1e4 * lowest - 1e-9), 10_000):
        first = int(order_by_safety(predicted, counts.rows, step / 1e4)[0])
        if bounds[first] <= step / 1e4:
            return step / 1e4, first
    return 1.0, 0


def split_rows(rows: int, seed: int, share: float = PROPOSING_SHARE) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices of the rows that propose thresholds, a random share, and of those that test them.

    Raises:
        InfeasibleError: there is one row only.
    """
    if rows < 2:
        raise InfeasibleError(f"too few rows to certify any error: {rows}; give more rows")
    shuffled = np.random.default_rng(seed).permutation(rows)
    count = max(round(share * rows), 1)
    return np.sort(shuffled[:count]), np.sort(shuffled[count:])


def propose(objectives: Objectives, min_acceptance: float | None, grid_size: int = GRID_SIZE) -> FloatArray:
    """Return thresholds (k, 4) that are worth a test, from rows that take no part in the tests.

    All combinations of ``grid_size`` thresholds of each class at each exit are counted. Those are proposed that have
    the lowest error among all that accept as many events. With a least acceptance, also those are proposed that accept
    this share and have the lowest error among all that take no longer.
    """
    sides = make_grids(objectives, grid_size)
    normal, attack = (sum_class(objectives, sides, kind) for kind in (NORMAL, ATTACK))
    # The axes: the thresholds of normal and attack at exit 1, and those at exit 2.
    accepted = _add_up(normal.accepted, attack.accepted, normal.accepted_2, attack.accepted_2)
    wrong = _add_up(normal.wrong, attack.wrong, normal.wrong_2, attack.wrong_2)
    error = wrong / np.maximum(accepted, 1)
    least = 1 if min_acceptance is None else objectives.find_least_accepted(min_acceptance)
    error[accepted < least] = np.inf
    chosen = [_thin(find_undominated(error, -accepted.astype(np.float64)))]
    if min_acceptance is not None:
        time = normal.time[:, np.newaxis] + attack.time
        chosen.append(_thin(find_undominated(error, np.broadcast_to(time[:, :, np.newaxis, np.newaxis], error.shape))))
    places = np.unique(np.concatenate(chosen, axis=1), axis=1)
    keys = product((1, 2), (NORMAL, ATTACK))
    return np.column_stack([sides[key].thresholds[place] for key, place in zip(keys, places, strict=True)])


def _add_up(normal: IntArray, attack: IntArray, normal_2: Sums, attack_2: Sums) -> IntArray:
    """Return the counts (m, n, p, q) of all combinations, from those of each class at exit 1.

    These are counts of accepted events at exit 1, (m,) and (n,), and at exit 2, (m, p) and (m, q), (n, p) and (n, q).
    """
    at_1 = normal[:, np.newaxis] + attack
    as_normal, as_attack = (one[:, np.newaxis] + other for one, other in zip(normal_2, attack_2, strict=True))
    total: IntArray = (at_1[:, :, np.newaxis] + as_normal)[:, :, :, np.newaxis] + as_attack[:, :, np.newaxis]
    return total


def _thin(front: tuple[NDArray[np.intp], ...]) -> NDArray[np.intp]:
    """Return at most ``MOST_PROPOSALS`` points (4, k) of a front, evenly."""
    points = np.array(front)
    kept = np.linspace(0, points.shape[1] - 1, min(points.shape[1], MOST_PROPOSALS)).round().astype(np.intp)
    return points[:, kept]


def order_by_safety(proposing: Counts, rows: int, limit: float) -> NDArray[np.intp]:
    """Return the order of the tests (k,): the lowest p-value first, as the proposing rows predict it for ``rows`` rows.

    The normal approximation takes the place of the exact p-values here, which may be too low to differ.
    """
    share = rows / proposing.rows
    accepted, wrong = share * proposing.accepted, share * proposing.wrong
    deviation = (limit * accepted - wrong) / np.sqrt(np.maximum(limit * (1 - limit) * accepted, 1e-12))
    return np.argsort(-deviation, kind="stable")


def find_passed(counts: Counts, order: NDArray[np.intp], goal: Goal) -> NDArray[np.intp]:
    """Return the certified thresholds (m,) as indices: those in front of the first whose test fails."""
    p_values = compute_p_values(counts.accepted[order], counts.wrong[order], goal.max_error)
    failed = np.flatnonzero(p_values > 1 - goal.confidence)
    return order[: failed[0]] if len(failed) else order
