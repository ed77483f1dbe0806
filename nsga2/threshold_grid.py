"""Make grids of the thresholds to try: of all thresholds within [0.5, 1], only these are needed."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from nsga2.objectives import GREATEST_THRESHOLD, LEAST_THRESHOLD, Objectives
from utils.schema import ATTACK, NORMAL

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """The thresholds to try for a class at an exit.

    Attributes:
        thresholds: (m,) float64, ascending.
        slack: by how much the number of wrong answers and the normalised time can grow if a threshold is lowered to the
            next one in the grid, at most.
    """

    thresholds: FloatArray
    slack: tuple[float, float]

    def __len__(self) -> int:
        return len(self.thresholds)

    def find_levels(self, certainties: FloatArray) -> NDArray[np.intp]:
        """Return the place of the highest threshold that accepts each certainty (N,); -1: none does."""
        return np.searchsorted(self.thresholds, certainties, side="right") - 1


def make_grid(certainties: FloatArray, wrong: NDArray[np.bool_], dearer: FloatArray, most: float) -> Grid:
    """Return the thresholds to try for the answers of one class at one exit.

    An answer is harmful if it is wrong or if accepting it takes longer than offloading it. Lowering a threshold does no
    harm as long as all further answers that it accepts are harmless, so only the thresholds just above harmful answers
    are needed. Each lies half-way between the certainty of the harmful answer and the next higher certainty, if there
    is one. It is not that certainty itself, because equal vectors have equal certainties, and all of them would be
    rejected wherever another program, processor or batch size rounds the certainty down. If there are more thresholds
    than ``most``, some are left out, so that about as many harmful answers lie between any two neighbours.

    Args:
        certainties: (N,) of the answers.
        wrong: (N,) whether each answer is wrong.
        dearer: (N,) by how much normalised time accepting each answer costs more than offloading it, 0 or more.
        most: the most thresholds to return, at least 2.
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
        return Grid(thresholds, (0.0, 0.0))
    amounts = (np.ones(len(place)), wrong[harmful].astype(np.float64), dearer[harmful])
    count, *harms = (np.concatenate(((0.0,), np.cumsum(np.bincount(place, amount)))) for amount in amounts)
    kept = np.unique(np.searchsorted(count, np.linspace(0, count[-1], int(most))))
    slack = (float((harm[kept[1:] - 1] - harm[kept[:-1]]).max()) for harm in harms)
    return Grid(thresholds[kept], (next(slack), next(slack)))


def make_grids(objectives: Objectives, most: float) -> dict[tuple[int, int], Grid]:
    """Return (exit, class) -> its grid of at most ``most`` thresholds; see ``make_grid``."""
    rows = objectives.evaluation
    answers = {
        1: (rows.prediction_1, rows.certainty_1, np.maximum(-objectives.shares, 0)),
        2: (rows.prediction_2, rows.certainty_2, np.zeros(len(rows))),
    }
    found = {}
    for number, kind in product(answers, (NORMAL, ATTACK)):
        prediction, certainty, dearer = answers[number]
        chosen = prediction == kind
        found[number, kind] = make_grid(certainty[chosen], rows.labels[chosen] != kind, dearer[chosen], most)
    return found
