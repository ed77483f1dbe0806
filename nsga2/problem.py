"""The search for thresholds as a pymoo problem: variables, objectives and constraint."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.problem import Problem

from nsga2.objectives import Objectives
from nsga2.threshold_grid import make_grids


class ThresholdsProblem(Problem):  # type: ignore[misc]
    """Least error and least normalised time over four thresholds within [0.5, 1].

    A candidate is four indices into the grids of thresholds, not the thresholds themselves: most thresholds decide like
    their neighbours, and most of those that do not lie close to 1.

    Args:
        objectives: evaluates thresholds.
        min_acceptance: least share of events that must be accepted, within [0, 1]; at least one event must be.

    Raises:
        InfeasibleError: even the lowest thresholds accept fewer.
    """

    def __init__(self, objectives: Objectives, min_acceptance: float) -> None:
        self.objectives = objectives
        self.min_acceptance = min_acceptance
        self._grids = [side.thresholds for side in make_grids(objectives, math.inf).values()]
        self._least = objectives.find_least_accepted(min_acceptance) / objectives.rows
        highest = np.array([len(thresholds) - 1 for thresholds in self._grids])
        super().__init__(n_var=4, n_obj=2, n_ieq_constr=1, xl=np.zeros(4), xu=highest, vtype=int)

    def get_thresholds(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the thresholds (P, 4) of candidates (P, 4)."""
        return np.column_stack([side[place] for side, place in zip(self._grids, places.T, strict=True)])

    def find_places(self, thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the candidates (P, 4) of thresholds (P, 4), all of which are in the grids."""
        places = zip(self._grids, thresholds.T, strict=True)
        return np.column_stack([np.searchsorted(side, threshold) for side, threshold in places])

    def _evaluate(self, x: NDArray[np.int64], out: dict[str, Any], *_args: object, **_kwargs: object) -> None:
        scores = self.objectives.score(self.get_thresholds(x))
        out["F"] = np.column_stack((scores.error, self.objectives.normalise(scores.time)))
        out["G"] = self._least - scores.acceptance
