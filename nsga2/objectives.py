"""Compute the error and time of sets of thresholds, for a whole population at once."""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsga2.defaults import COST_MODEL
from nsga2.range_counter import RangeCounter
from utils.cost_models import compute_event_costs
from utils.errors import InfeasibleError
from utils.results import Evaluation
from utils.schema import ATTACK, NORMAL

LEAST_THRESHOLD: Final = 0.5
GREATEST_THRESHOLD: Final = 1.0

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """The results of P candidates.

    Attributes:
        error: (P,) float64, wrong / accepted; 1 where nothing is accepted.
        time: (P,) float64, µs per event.
        acceptance: (P,) float64, accepted / all.
    """

    error: FloatArray
    time: FloatArray
    acceptance: FloatArray


class _Exit:
    """The rows, sorted by an exit's predicted class and then by its certainty.

    Attributes:
        order: (N,) the row at each place.
        bounds: places where the class normal begins, where the class attack begins, and where it ends.
    """

    def __init__(self, prediction: IntArray, certainty: FloatArray) -> None:
        self.order = np.lexsort((certainty, prediction))
        self._certainty = certainty[self.order]
        self.bounds = np.searchsorted(prediction[self.order], (NORMAL, ATTACK, ATTACK + 1))

    def find_first_accepted(self, kind: int, thresholds: FloatArray) -> IntArray:
        """Return the place of the first answer of a class that each threshold (P,) accepts."""
        start, stop = self.bounds[kind], self.bounds[kind + 1]
        place: IntArray = start + np.searchsorted(self._certainty[start:stop], thresholds)
        return place


class Objectives:
    """Evaluates thresholds on a network's answers (paper, section on the multi-objective optimisation).

    The rows are sorted once. Then, for each class at exit 1, the offloaded events are a range of places, and those that
    exit 2 accepts are a range of values among them. Both are counted without a pass over the rows, so scoring a
    candidate takes about as long on a million rows as on a thousand.

    Args:
        evaluation: the answers of both exits, and their costs.
        cost_model: see ``utils.cost_models``.
        cost_per_offload: seconds, for the model ``edge``.

    Attributes:
        evaluation: the rows.
        rows: N.
        shares: (N,) float64, the normalised time that each row adds when it is offloaded.
        min_time, max_time: µs per event if all events are decided at exit 1, and if all are offloaded.
        accuracies: of each exit on all rows, without rejection.
    """

    def __init__(
        self, evaluation: Evaluation, cost_model: str = COST_MODEL, cost_per_offload: float | None = None
    ) -> None:
        self.evaluation = evaluation
        self.rows = len(evaluation)
        self._exit_1 = _Exit(evaluation.prediction_1, evaluation.certainty_1)
        self._exit_2 = _Exit(evaluation.prediction_2, evaluation.certainty_2)
        order = self._exit_1.order
        wrong_1 = (evaluation.prediction_1 != evaluation.labels)[order]
        wrong_2 = (evaluation.prediction_2 != evaluation.labels)[order]
        place_2 = np.empty(self.rows, dtype=np.int64)
        place_2[self._exit_2.order] = np.arange(self.rows)
        place_2 = place_2[order]
        # The rows that exit 2 predicts wrongly are appended again, so that one counter counts all rows or only those.
        self._counter = RangeCounter(np.concatenate((place_2, place_2[wrong_2])))
        self._wrong_1_before, self._wrong_2_before = _sum_before(wrong_1), _sum_before(wrong_2)
        cost_1, cost_2 = compute_event_costs(evaluation, cost_model, cost_per_offload)
        # Sums have more digits than the result, so that equal sums over different rows are equal after rounding.
        self._extra_before = _sum_before(1e6 * (cost_2 - cost_1)[order].astype(np.longdouble))
        self.min_time = 1e6 * float(cost_1.mean())
        self.max_time = self.min_time + float(self._extra_before[-1] / self.rows)
        span = self.rows * (self.max_time - self.min_time)
        self.shares = 1e6 * (cost_2 - cost_1) / span if span else np.zeros(self.rows)
        self.accuracies = 1.0 - float(wrong_1.mean()), 1.0 - float(wrong_2.mean())

    def find_least_accepted(self, min_acceptance: float) -> int:
        """Return the number of events that must be accepted, at least 1.

        Raises:
            InfeasibleError: even the lowest thresholds accept fewer.
        """
        # 0.9 times 4,990 rows is 4,491 events, but slightly more in floating point.
        least = max(math.ceil(min_acceptance * self.rows - 1e-9), 1)
        # Acceptance never grows with a threshold, so the lowest thresholds accept the most.
        reachable = float(self.score(np.full((1, 4), LEAST_THRESHOLD)).acceptance[0])
        if reachable == 0:
            raise InfeasibleError(
                f"no event of these rows is accepted even with all thresholds at {LEAST_THRESHOLD}; "
                "the certainties are wrong; evaluate the network again"
            )
        if reachable < least / self.rows:
            named = math.floor(1e4 * reachable) / 1e4  # rounded up, it could not be reached
            raise InfeasibleError(
                f"an acceptance of {min_acceptance:g} cannot be reached on these rows: thresholds of "
                f"{LEAST_THRESHOLD} accept {named:.4f}; lower --min-acceptance to that or less"
            )
        return least

    def normalise(self, time: FloatArray) -> FloatArray:
        """Return times (P,) in µs, scaled so that all events at exit 1 take 0 and all at exit 2 take 1."""
        span = self.max_time - self.min_time
        # Where the path to exit 2 is cheaper, the span is negative; + 0.0 turns -0.0 into 0.0.
        return (time - self.min_time) / span + 0.0 if span else np.zeros_like(time)

    def score(self, thresholds: FloatArray) -> Scores:
        """Evaluate thresholds (P, 4): normal and attack at exit 1, normal and attack at exit 2."""
        stop = np.stack([self._exit_1.find_first_accepted(kind, thresholds[:, kind]) for kind in (NORMAL, ATTACK)])
        start = np.broadcast_to(self._exit_1.bounds[:2, np.newaxis], stop.shape)

        def sum_offloaded(before: NDArray[Any]) -> NDArray[Any]:
            total: NDArray[Any] = (before[stop] - before[start]).sum(axis=0)
            return total

        accepted = self.rows - (stop - start).sum(axis=0)
        wrong = self._wrong_1_before[-1] - sum_offloaded(self._wrong_1_before)
        accepted_2, wrong_2 = self._count_at_exit_2(start, stop, thresholds[:, 2:])
        accepted, wrong = accepted + accepted_2, wrong + wrong_2
        extra = sum_offloaded(self._extra_before) / self.rows
        return Scores(
            error=np.where(accepted > 0, wrong / np.maximum(accepted, 1), 1.0),
            time=self.min_time + extra.astype(np.float64),
            acceptance=accepted / self.rows,
        )

    def _count_at_exit_2(self, start: IntArray, stop: IntArray, thresholds: FloatArray) -> tuple[IntArray, IntArray]:
        """Return how many offloaded rows are accepted (P,), and how many of those are wrong (P,)."""
        normal, attack = (self._exit_2.find_first_accepted(kind, thresholds[:, kind]) for kind in (NORMAL, ATTACK))
        end_of_normal = np.full_like(normal, self._exit_2.bounds[ATTACK])
        # The axes of the queries: limit; all rows or wrong rows; class at exit 1; candidate.
        limits = np.stack((normal, end_of_normal, attack))[:, np.newaxis, np.newaxis]
        shape = (3, 2, *stop.shape)
        starts, stops = (
            np.broadcast_to(np.stack((place, self.rows + self._wrong_2_before[place])), shape).ravel()
            for place in (start, stop)
        )
        counts = self._counter.count_at_least(starts, stops, np.broadcast_to(limits, shape).ravel())
        from_normal, from_attack_class, from_attack = counts.reshape(shape).sum(axis=2)
        accepted, wrong = from_normal - from_attack_class + from_attack
        return accepted, wrong


def _sum_before(amounts: NDArray[Any]) -> NDArray[Any]:
    """Return the sum of the amounts (N,) before each place (N + 1,)."""
    sums = np.cumsum(amounts)
    return np.concatenate((np.zeros(1, dtype=sums.dtype), sums))
