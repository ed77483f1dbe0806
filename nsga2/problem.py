"""The thresholds problem as pymoo sees it: what is searched, what is made least, what must hold."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.problem import Problem

from nsga2.choices import looked_at
from nsga2.objectives import Objectives


class ThresholdsProblem(Problem):  # type: ignore[misc]
    """Least error and least normalised time over four thresholds within [0.5, 1].

    A candidate is four places in the lists of thresholds that make a difference, not the thresholds themselves: among
    those, most are worth no more than others, and most that are worth something lie close to 1.

    Args:
        objectives: judge candidates.
        min_acceptance: least share of events that must be accepted, within [0, 1]; at least one event must be.

    Raises:
        InfeasibleError: not even the lowest thresholds accept that many.
    """

    def __init__(self, objectives: Objectives, min_acceptance: float) -> None:
        self.objectives = objectives
        self.min_acceptance = min_acceptance
        self._choices = [side.thresholds for side in looked_at(objectives, math.inf).values()]
        self._least = objectives.least_accepted(min_acceptance) / objectives.rows
        highest = np.array([len(thresholds) - 1 for thresholds in self._choices])
        super().__init__(n_var=4, n_obj=2, n_ieq_constr=1, xl=np.zeros(4), xu=highest, vtype=int)

    def thresholds(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the thresholds (P, 4) of candidates (P, 4)."""
        return np.column_stack([side[place] for side, place in zip(self._choices, places.T, strict=True)])

    def places(self, thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the candidates (P, 4) of some of those thresholds (P, 4)."""
        places = zip(self._choices, thresholds.T, strict=True)
        return np.column_stack([np.searchsorted(side, threshold) for side, threshold in places])

    def _evaluate(self, x: NDArray[np.int64], out: dict[str, Any], *_args: object, **_kwargs: object) -> None:
        scores = self.objectives.scores(self.thresholds(x))
        out["F"] = np.column_stack((scores.error, self.objectives.normalise(scores.time)))
        out["G"] = self._least - scores.acceptance
