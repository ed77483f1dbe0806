"""Error and cost of sets of thresholds, for a whole population at once."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from utils.decision import is_accepted
from utils.results import Evaluation

COST_MODELS: Final = ("paper", "full")

# Candidates are judged in blocks of about this many (candidate, row) pairs, which stay in the processor's cache.
_BLOCK: Final = 2**18


@dataclass(frozen=True)
class Scores:
    """What P candidates lead to.

    Attributes:
        error: (P,) float64, wrong / accepted; 1 where nothing is accepted.
        time: (P,) float64, µs per event.
        acceptance: (P,) float64, accepted / all.
    """

    error: NDArray[np.float64]
    time: NDArray[np.float64]
    acceptance: NDArray[np.float64]


class Objectives:
    """Judges thresholds on an evaluation (paper, section on the multi-objective optimisation).

    Args:
        evaluation: what both exits answered, and its cost.
        cost_model: ``paper`` leaves head 1 out of an offloaded event's cost, as published; ``full`` counts it.
    """

    def __init__(self, evaluation: Evaluation, cost_model: str = "paper") -> None:
        # Sorted by class, so that the rows a threshold applies to lie together.
        order = np.lexsort((evaluation.prediction_2, evaluation.prediction_1))
        self._prediction_1 = evaluation.prediction_1[order]
        self._prediction_2 = evaluation.prediction_2[order]
        self._certainty_1 = evaluation.certainty_1[order]
        self._certainty_2 = evaluation.certainty_2[order]
        labels = evaluation.labels[order]
        self._wrong_1 = self._prediction_1 != labels
        self._wrong_2 = self._prediction_2 != labels
        self.rows = len(labels)
        cost_1 = evaluation.time_segment_1 + evaluation.time_exit_1
        cost_2 = evaluation.time_segment_1 + evaluation.time_segment_2 + evaluation.time_exit_2
        if cost_model == "full":
            cost_2 = cost_2 + evaluation.time_exit_1
        self._extra = 1e6 * (cost_2 - cost_1)[order]
        self.min_time = 1e6 * float(cost_1.mean())
        self.max_time = float(self._mean_time(np.ones((1, self.rows), dtype=np.bool_))[0])

    @property
    def accuracies(self) -> tuple[float, float]:
        """Accuracy of each exit on all rows, nothing rejected."""
        return 1.0 - float(self._wrong_1.mean()), 1.0 - float(self._wrong_2.mean())

    def normalise(self, time: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return times (P,) in µs as shares of the way from all at exit 1 (0) to all at exit 2 (1)."""
        span = self.max_time - self.min_time
        # Where exit 2's path is the cheaper one, span is negative; + 0.0 makes a zero then 0, not -0.
        return (time - self.min_time) / span + 0.0 if span else np.zeros_like(time)

    def scores(self, thresholds: NDArray[np.float64]) -> Scores:
        """Judge thresholds (P, 4): normal and attack at exit 1, normal and attack at exit 2."""
        block = max(1, _BLOCK // self.rows)
        parts = [self._block(thresholds[i : i + block]) for i in range(0, len(thresholds), block)]
        error, time, acceptance = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Scores(error, time, acceptance)

    def _block(self, thresholds: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        normal_1, attack_1, normal_2, attack_2 = thresholds.T[:, :, np.newaxis]
        at_1 = is_accepted(self._prediction_1, self._certainty_1, normal_1, attack_1)
        at_2 = is_accepted(self._prediction_2, self._certainty_2, normal_2, attack_2) & ~at_1
        accepted = np.count_nonzero(at_1, axis=1) + np.count_nonzero(at_2, axis=1)
        wrong = np.count_nonzero(at_1 & self._wrong_1, axis=1) + np.count_nonzero(at_2 & self._wrong_2, axis=1)
        error = np.where(accepted > 0, wrong / np.maximum(accepted, 1), 1.0)
        return error, self._mean_time(~at_1), accepted / self.rows

    def _mean_time(self, offloaded: NDArray[np.bool_]) -> NDArray[np.float64]:
        # Not a matrix product: that rounds by a row's place in it, and equal points would come to dominate each other.
        extra: NDArray[np.float64] = np.einsum("pn,n->p", offloaded, self._extra)
        return self.min_time + extra / self.rows
