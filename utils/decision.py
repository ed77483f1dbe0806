"""Accept at exit 1, offload, accept at exit 2, or reject: the only copy of the rule.

Exit 1 predicts class c with a certainty of at least threshold(c, exit 1): accepted. Otherwise the event is offloaded,
and accepted if exit 2's certainty is at least threshold(c, exit 2) for the class c that it predicts. Otherwise
rejected.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.metrics import ratio
from utils.schema import ATTACK, Thresholds


def is_accepted(
    predictions: NDArray[np.int64], certainties: NDArray[np.floating], normal: ArrayLike, attack: ArrayLike
) -> NDArray[np.bool_]:
    """Return whether an exit's answers are accepted.

    Args:
        predictions: (N,) classes.
        certainties: (N,) of those classes.
        normal: least certainty for the class normal; a number, or (P, 1) for P candidates at once.
        attack: the same for the class attack.

    Returns:
        (N,), or (P, N) for P candidates.
    """
    accepted: NDArray[np.bool_] = certainties >= np.where(predictions == ATTACK, attack, normal)
    return accepted


@dataclass(frozen=True)
class Outcome:
    """What became of N events under one set of thresholds.

    Attributes:
        rows: N.
        accepted_1, accepted_2: decided at each exit.
        correct_1, correct_2: of those, the right ones.
    """

    rows: int
    accepted_1: int
    accepted_2: int
    correct_1: int
    correct_2: int

    @property
    def accepted(self) -> int:
        """Events decided at either exit."""
        return self.accepted_1 + self.accepted_2

    @property
    def acceptance(self) -> float:
        """Accepted / all."""
        return ratio(self.accepted, self.rows)

    @property
    def offloaded_share(self) -> float:
        """Events that exit 1 was not certain of / all."""
        return ratio(self.rows - self.accepted_1, self.rows)

    @property
    def accuracy(self) -> float:
        """Correct / accepted."""
        return ratio(self.correct_1 + self.correct_2, self.accepted)

    @property
    def error(self) -> float:
        """Wrong / accepted."""
        return ratio(self.accepted - self.correct_1 - self.correct_2, self.accepted)


def outcome(
    labels: NDArray[np.int64],
    prediction_1: NDArray[np.int64],
    certainty_1: NDArray[np.floating],
    prediction_2: NDArray[np.int64],
    certainty_2: NDArray[np.floating],
    thresholds: Thresholds,
) -> Outcome:
    """Return what becomes of labelled events (N,) whose answers at both exits are known."""
    at_1 = is_accepted(prediction_1, certainty_1, thresholds.normal_exit_1, thresholds.attack_exit_1)
    at_2 = ~at_1 & is_accepted(prediction_2, certainty_2, thresholds.normal_exit_2, thresholds.attack_exit_2)
    return Outcome(
        rows=len(labels),
        accepted_1=int(at_1.sum()),
        accepted_2=int(at_2.sum()),
        correct_1=int((at_1 & (prediction_1 == labels)).sum()),
        correct_2=int((at_2 & (prediction_2 == labels)).sum()),
    )
