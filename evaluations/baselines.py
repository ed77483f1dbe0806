"""Simple classifiers that a network must beat, trained on the same months."""

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
"""Suffix of a system that rejects below a threshold, which was chosen on an earlier month."""

MATCHED: Final = " + matched reject"
"""Suffix of a system that accepts as many events of a month as the two exits."""

LEAST_FRAME: Final = 60.0
"""Bytes of the smallest Ethernet frame."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """The answers of one classifier to N rows.

    Attributes:
        predictions: (N,) int64.
        certainties: (N,) float64, the probability of the predicted class; None: the classifier gives none.
    """

    predictions: NDArray[np.int64]
    certainties: FloatArray | None = None

    def of(self, rows: NDArray[np.intp]) -> "Answers":
        """Return the answers to some rows (K,)."""
        return Answers(self.predictions[rows], None if self.certainties is None else self.certainties[rows])


Classifier = Callable[[NDArray[np.float32]], Answers]
"""From features (N, 58), scaled, to answers."""


def fit_baselines(training: Month, unscale: Callable[[FloatArray], FloatArray]) -> dict[str, Classifier]:
    """Train the baselines on these rows; the order of the rows does not matter.

    The boosting is regularised: with its defaults it overfits January and errs more on later months.

    Args:
        training: the rows.
        unscale: scaled features (N, 58) to raw ones, for the rule, which compares bytes and packets.

    Returns:
        name -> classifier.
    """
    boosting = HistGradientBoostingClassifier(
        learning_rate=0.08, max_iter=60, max_leaf_nodes=8, min_samples_leaf=40, early_stopping=False, random_state=0
    )
    tree = DecisionTreeClassifier(max_depth=3, random_state=0)
    return {
        MAJORITY: _fit_majority(training.labels),
        RULE: lambda features: apply_one_line_rule(unscale(features.astype(np.float64))),
        TREE: _fit(tree, training),
        BOOSTING: _fit(boosting, training),
    }


def apply_one_line_rule(raw: FloatArray) -> Answers:
    """Classify raw features (N, 58): normal if and only if every frame is 60 bytes and a sent neither SYN nor ACK."""
    values = dict(zip(FEATURES, np.round(raw).T, strict=True))
    smallest = (values["MOORE_minimumDataWire"] == LEAST_FRAME) & (values["MOORE_maximumDataWire"] == LEAST_FRAME)
    silent = (values["MOORE_syn_pkts_sent_a_b"] == 0) & (values["MOORE_ack_pkts_sent_a_b"] == 0)
    return Answers(np.where(smallest & silent, NORMAL, ATTACK))


def least_certainty(certainties: FloatArray, accepted: int) -> float:
    """Return the strictest threshold that accepts at least ``accepted`` (1 or more) of the certainties (N,).

    Equal certainties are accepted or rejected together, so it can accept more.
    """
    return float(np.sort(certainties)[-accepted])


def decide(labels: NDArray[np.int64], answers: Answers, least: float | None = None) -> Decisions:
    """Decide labelled rows (N,) by a classifier's answers; certainties below ``least`` are rejected (None: none)."""
    if least is None or answers.certainties is None:
        accepted = np.ones(len(labels), dtype=np.bool_)
    else:
        accepted = is_accepted(answers.predictions, answers.certainties, least, least)
    return Decisions(labels, accepted, np.zeros_like(accepted), answers.predictions)


def decide_as_many(labels: NDArray[np.int64], answers: Answers, accepted: int) -> Decisions:
    """Decide labelled rows (N,) by the ``accepted`` most certain of a classifier's answers.

    Of equally certain rows at the limit, as many as still needed are accepted, evenly spread. In rows sorted by vector
    and label, as those of a ``Month``, each vector and label gets its share, as a random choice would give on average.
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
