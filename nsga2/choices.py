"""The thresholds that make a difference: of all within [0.5, 1], a search need look at no others."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from nsga2.objectives import GREATEST_THRESHOLD, LEAST_THRESHOLD, Objectives
from utils.schema import ATTACK, NORMAL

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Choices:
    """Thresholds for a class at an exit, loosest first.

    Attributes:
        thresholds: (m,) float64, ascending.
        slack: the most harm, in wrong answers and in time, that it does to lower any threshold to the next of these.
    """

    thresholds: FloatArray
    slack: tuple[float, float]

    def __len__(self) -> int:
        return len(self.thresholds)

    def levels(self, certainties: FloatArray) -> NDArray[np.intp]:
        """Return the last threshold at which each certainty (N,) is accepted, -1 where at none."""
        return np.searchsorted(self.thresholds, certainties, side="right") - 1


def choices(certainties: FloatArray, wrong: NDArray[np.bool_], dearer: FloatArray, most: float) -> Choices:
    """Return the thresholds worth a look for the answers of one class at one exit.

    A threshold is lowered without harm as long as only harmless answers are accepted with it. So those remain that
    stand above a harmful one: half-way to the next answer, where there is one. Equal vectors have equal certainties,
    and a threshold that were a certainty itself would part with all of them wherever another program, processor or
    batch size rounds them down. Of more than ``most``, some are left out, such that each stands for as many harmful
    answers.

    Args:
        certainties: (N,) of the answers.
        wrong: (N,) whether each is.
        dearer: (N,) time that it costs to accept it, 0 or more.
        most: thresholds, at least 2.
    """
    harmful = (wrong | (dearer > 0)) & (certainties >= LEAST_THRESHOLD) & (certainties < GREATEST_THRESHOLD)
    bad, place = np.unique(certainties[harmful], return_inverse=True)
    values = np.append(np.unique(certainties), GREATEST_THRESHOLD)
    next_place = np.searchsorted(values[:-1], bad, side="right")
    above = values[next_place]
    half_way = bad + (above - bad) / 2
    is_answer = (next_place < len(values) - 1) & (half_way > bad)
    thresholds = np.concatenate(((LEAST_THRESHOLD,), np.where(is_answer, half_way, above)))
    if len(thresholds) <= most:
        return Choices(thresholds, (0.0, 0.0))
    amounts = (np.ones(len(place)), wrong[harmful].astype(np.float64), dearer[harmful])
    count, *harms = (np.concatenate(((0.0,), np.cumsum(np.bincount(place, amount)))) for amount in amounts)
    kept = np.unique(np.searchsorted(count, np.linspace(0, count[-1], int(most))))
    slack = (float((harm[kept[1:] - 1] - harm[kept[:-1]]).max()) for harm in harms)
    return Choices(thresholds[kept], (next(slack), next(slack)))


def looked_at(objectives: Objectives, most: float) -> dict[tuple[int, int], Choices]:
    """Return (exit, class) -> thresholds that make a difference, at most so many of each; see ``choices``."""
    rows = objectives.evaluation
    answers = {
        1: (rows.prediction_1, rows.certainty_1, np.maximum(-objectives.shares, 0)),
        2: (rows.prediction_2, rows.certainty_2, np.zeros(len(rows))),
    }
    found = {}
    for number, kind in product(answers, (NORMAL, ATTACK)):
        prediction, certainty, dearer = answers[number]
        chosen = prediction == kind
        found[number, kind] = choices(certainty[chosen], rows.labels[chosen] != kind, dearer[chosen], most)
    return found
