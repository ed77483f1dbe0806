"""Simple classifiers, trained on the same months as the networks, which the networks must beat."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.tree import DecisionTreeClassifier

from evaluations.months import Month
from utils.decision import Decisions, is_accepted
from utils.schema import ATTACK, FEATURES, NORMAL

MAJORITY: Final = "majority class"
RULE: Final = "one-line rule"
TREE: Final = "tree of depth 3"
BOOSTING: Final = "boosting"
REJECT: Final = " + reject"
"""Suffix of the name of a system that rejects events below one threshold, chosen on the month of the choice."""

MATCHED: Final = " + matched reject"
"""Suffix of the name of a system that accepts exactly as many events of each month and subset as the two exits."""

LEAST_FRAME: Final = 60.0
"""Bytes of the smallest Ethernet frame, without its check sequence."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """The answers of one classifier to N rows.

    Attributes:
        predictions: (N,) int64.
        certainties: (N,) float64, the probability of the predicted class; None if the classifier gives no probability.
    """

    predictions: NDArray[np.int64]
    certainties: FloatArray | None = None

    def of(self, rows: NDArray[np.intp]) -> "Answers":
        """Return the answers to some of the rows, given by their indices (K,)."""
        return Answers(self.predictions[rows], None if self.certainties is None else self.certainties[rows])


Classifier = Callable[[NDArray[np.float32]], Answers]
"""Returns the answers to scaled features (N, 58)."""


def fit_baselines(training: Month, unscale: Callable[[FloatArray], FloatArray]) -> dict[str, Classifier]:
    """Train the baselines on a month; the order of its rows does not matter.

    Args:
        training: the rows to train on.
        unscale: returns the raw features (N, 58) of scaled ones, for the rule, which compares bytes and packet counts.

    Returns:
        name -> classifier.
    """
    tree = DecisionTreeClassifier(max_depth=3, random_state=0)
    return {
        MAJORITY: _fit_majority(training.labels),
        RULE: lambda features: apply_one_line_rule(unscale(features.astype(np.float64))),
        TREE: _fit(tree, training),
        BOOSTING: _fit(make_boosting(), training),
    }


def make_boosting() -> HistGradientBoostingClassifier:
    """Return gradient boosting that is regularised.

    With the defaults of scikit-learn, it overfits January and has a higher error on later months.
    """
    return HistGradientBoostingClassifier(
        learning_rate=0.08, max_iter=60, max_leaf_nodes=8, min_samples_leaf=40, early_stopping=False, random_state=0
    )


def apply_one_line_rule(raw: FloatArray) -> Answers:
    """Classify raw features (N, 58) by the sizes and flags of their frames.

    A row is normal if and only if every frame has 60 bytes and host a sent neither SYN nor ACK.
    """
    values = dict(zip(FEATURES, np.round(raw).T, strict=True))
    smallest = (values["MOORE_minimumDataWire"] == LEAST_FRAME) & (values["MOORE_maximumDataWire"] == LEAST_FRAME)
    silent = (values["MOORE_syn_pkts_sent_a_b"] == 0) & (values["MOORE_ack_pkts_sent_a_b"] == 0)
    return Answers(np.where(smallest & silent, NORMAL, ATTACK))


def least_certainty(certainties: FloatArray, accepted: int) -> float:
    """Return the strictest threshold that accepts at least ``accepted`` (1 or more) of the certainties (N,).

    Equal certainties are accepted or rejected together, so the threshold can accept more.
    """
    return float(np.sort(certainties)[-accepted])


def decide(labels: NDArray[np.int64], answers: Answers, least: float | None = None) -> Decisions:
    """Decide labelled rows (N,) by a classifier's answers, and reject those with a certainty below ``least``.

    Without ``least``, or if the classifier gives no certainties, every row is accepted.
    """
    if least is None or answers.certainties is None:
        accepted = np.ones(len(labels), dtype=np.bool_)
    else:
        accepted = is_accepted(answers.predictions, answers.certainties, least, least)
    return Decisions(labels, accepted, np.zeros_like(accepted), answers.predictions)


def decide_as_many(labels: NDArray[np.int64], answers: Answers, accepted: int) -> Decisions:
    """Decide labelled rows (N,) by a classifier's answers, and accept only the ``accepted`` most certain ones.

    Among rows whose certainty equals the limit, as many as are still needed are accepted, evenly spaced. Because the
    rows of a ``Month`` are sorted by vector and label, each vector and label gets the share that a random choice would
    give it on average.
    """
    at_1 = np.zeros(len(labels), dtype=np.bool_)
    if accepted and answers.certainties is not None:
        limit = least_certainty(answers.certainties, accepted)
        at_1 = answers.certainties > limit
        equal, needed = np.flatnonzero(answers.certainties == limit), accepted - int(at_1.sum())
        at_1[equal[((np.arange(needed) + 0.5) * len(equal) / needed).astype(np.intp)]] = True
    return Decisions(labels, at_1, np.zeros_like(at_1), answers.predictions)


def _fit_majority(labels: NDArray[np.int64]) -> Classifier:
    most = ATTACK if 2 * int(labels.sum()) >= len(labels) else NORMAL
    return lambda features: Answers(np.full(len(features), most, dtype=np.int64))


def _fit(model: HistGradientBoostingClassifier | DecisionTreeClassifier, training: Month) -> Classifier:
    model.fit(training.features, training.labels)
    classes = np.asarray(model.classes_, dtype=np.int64)

    def answer(features: NDArray[np.float32]) -> Answers:
        probabilities: FloatArray = model.predict_proba(features)
        return Answers(classes[probabilities.argmax(axis=1)], probabilities.max(axis=1))

    return answer
