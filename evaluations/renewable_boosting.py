"""Gradient boosting as a classifier that can be renewed, to compare networks with."""

from collections.abc import Sequence

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from evaluations.baselines import BOOSTING, make_boosting
from utils.labelled_rows import DECAY, LabelledRows, join_rows
from utils.results import Evaluation


class RenewableBoosting:
    """Gradient boosting with one exit: what the exit is not certain of is rejected, which counts as offloaded.

    Args:
        months: labelled rows to train on, in order of time; a month weighs ``DECAY`` times as much as the next.
    """

    name = BOOSTING
    seed = "0"

    def __init__(self, months: Sequence[LabelledRows]) -> None:
        weights = [np.full(len(month), DECAY**age) for age, month in enumerate(reversed(months))][::-1]
        rows = join_rows(months)
        self._model: HistGradientBoostingClassifier = make_boosting()
        self._model.fit(rows.features, rows.labels, sample_weight=np.concatenate(weights))

    def answer(self, rows: LabelledRows) -> Evaluation:
        """Return the answers; those of exit 2 have a certainty of 0, so that no thresholds accept them."""
        probabilities = self._model.predict_proba(rows.features)
        prediction, certainty = probabilities.argmax(axis=1), probabilities.max(axis=1)
        none, one = np.zeros(len(rows)), np.ones(len(rows))
        return Evaluation(rows.labels, prediction, certainty, one, none, prediction, none, one, none)

    def renew(self, months: Sequence[LabelledRows], held_back: LabelledRows) -> "RenewableBoosting":
        """Return a classifier that was trained on all the months; it needs no calibration on ``held_back``."""
        del held_back
        return RenewableBoosting(months)
