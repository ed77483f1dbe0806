"""Apply the decision rule: accept at exit 1, offload, accept at exit 2, or reject.

An event is accepted at exit 1 if the certainty is at least threshold(c, exit 1) for the predicted class c. Otherwise it
is offloaded, and accepted at exit 2 if the certainty is at least threshold(c, exit 2) for the class c that exit 2
predicts. Otherwise it is rejected. The edge and the evaluations use this module; the search in ``nsga2`` applies the
same rule to sorted certainties.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.classification_metrics import divide
from utils.schema import ATTACK, Thresholds


def is_accepted(
    predictions: NDArray[np.int64], certainties: NDArray[np.floating], normal: ArrayLike, attack: ArrayLike
) -> NDArray[np.bool_]:
    """Return which predictions of an exit are accepted.

    Args:
        predictions: (N,) classes.
        certainties: (N,) of the predicted classes.
        normal: threshold for the class normal; a number, or (P, 1) for P candidates at once.
        attack: threshold for the class attack, likewise.

    Returns:
        (N,), or (P, N) for P candidates.
    """
    accepted: NDArray[np.bool_] = certainties >= np.where(predictions == ATTACK, attack, normal)
    return accepted


@dataclass(frozen=True)
class DecisionCounts:
    """Counts of the decisions about N labelled events under one set of thresholds.

    Attributes:
        rows: N.
        accepted_1, accepted_2: events accepted at each exit.
        correct_1, correct_2: events accepted at each exit whose prediction is correct.
        attacks: accepted events that are attacks.
        alarms: accepted events that are predicted as attacks.
        caught: accepted attacks that are predicted as attacks.
    """

    rows: int
    accepted_1: int
    accepted_2: int
    correct_1: int
    correct_2: int
    attacks: int
    alarms: int
    caught: int

    @property
    def accepted(self) -> int:
        """Events accepted at either exit."""
        return self.accepted_1 + self.accepted_2

    @property
    def acceptance(self) -> float:
        """Accepted events / all events."""
        return divide(self.accepted, self.rows)

    @property
    def rejected_share(self) -> float:
        """Rejected events / all events."""
        return divide(self.rows - self.accepted, self.rows)

    @property
    def offloaded_share(self) -> float:
        """Events not accepted at exit 1 / all events."""
        return divide(self.rows - self.accepted_1, self.rows)

    @property
    def accuracy(self) -> float:
        """Correctly decided events / accepted events."""
        return divide(self.correct_1 + self.correct_2, self.accepted)

    @property
    def error(self) -> float:
        """Wrongly decided events / accepted events."""
        return divide(self.accepted - self.correct_1 - self.correct_2, self.accepted)

    @property
    def true_positive_rate(self) -> float:
        """Caught attacks / accepted attacks."""
        return divide(self.caught, self.attacks)

    @property
    def false_positive_rate(self) -> float:
        """False alarms / accepted normal events."""
        return divide(self.alarms - self.caught, self.accepted - self.attacks)

    @property
    def precision(self) -> float:
        """Caught attacks / alarms."""
        return divide(self.caught, self.alarms)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and true positive rate."""
        return divide(2 * self.caught, self.attacks + self.alarms)


@dataclass(frozen=True)
class Decisions:
    """The decisions about N labelled events.

    Attributes:
        labels: (N,) int64.
        at_1, at_2: (N,) bool, whether the event is accepted at exit 1 or 2; an event accepted at neither is rejected.
        predictions: (N,) int64, the class that the accepting exit predicts; for a rejected event, that of exit 2.
    """

    labels: NDArray[np.int64]
    at_1: NDArray[np.bool_]
    at_2: NDArray[np.bool_]
    predictions: NDArray[np.int64]

    def count(self) -> DecisionCounts:
        """Return the counts of the decisions."""
        accepted, correct = self.at_1 | self.at_2, self.predictions == self.labels
        attack, alarm = accepted & (self.labels == ATTACK), accepted & (self.predictions == ATTACK)
        masks = (self.at_1, self.at_2, self.at_1 & correct, self.at_2 & correct, attack, alarm, attack & alarm)
        return DecisionCounts(len(self.labels), *(int(mask.sum()) for mask in masks))


def decide(
    labels: NDArray[np.int64],
    prediction_1: NDArray[np.int64],
    certainty_1: NDArray[np.floating],
    prediction_2: NDArray[np.int64],
    certainty_2: NDArray[np.floating],
    thresholds: Thresholds,
) -> Decisions:
    """Decide labelled events (N,) from the predictions and certainties of both exits."""
    at_1 = is_accepted(prediction_1, certainty_1, thresholds.normal_exit_1, thresholds.attack_exit_1)
    at_2 = ~at_1 & is_accepted(prediction_2, certainty_2, thresholds.normal_exit_2, thresholds.attack_exit_2)
    return Decisions(labels, at_1, at_2, np.where(at_1, prediction_1, prediction_2))
