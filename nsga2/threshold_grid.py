"""The grid of thresholds to try: of all thresholds within [0.5, 1], only these make a difference."""

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
        slack: by how much lowering any threshold to the next one in the grid can raise the wrong answers and the time.
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

    Lowering a threshold does no harm while it only accepts harmless answers. So only the thresholds just above a
    harmful answer matter: half-way to the next answer, where there is one. Half-way, because equal vectors have equal
    certainties, and a threshold that equals a certainty would reject all of them wherever another program, processor
    or batch size rounds them down. If there are more than ``most``, some are left out, so that each of the others
    stands for the same number of harmful answers.

    Args:
        certainties: (N,) of the answers.
        wrong: (N,) whether each answer is wrong.
        dearer: (N,) time that accepting each answer costs more than offloading it, 0 or more.
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
