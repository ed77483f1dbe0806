"""The thresholds problem as pymoo sees it: what is searched, what is made least, what must hold."""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pymoo.core.problem import Problem

from nsga2.objectives import Objectives
from utils.errors import InfeasibleError

LEAST_THRESHOLD: Final = 0.5
GREATEST_THRESHOLD: Final = 1.0


class ThresholdsProblem(Problem):  # type: ignore[misc]
    """Least error and least normalised time over four thresholds within [0.5, 1].

    Args:
        objectives: judge candidates.
        min_acceptance: least share of events that must be accepted, within [0, 1]; at least one event must be.

    Raises:
        InfeasibleError: not even the lowest thresholds accept that many.
    """

    def __init__(self, objectives: Objectives, min_acceptance: float) -> None:
        super().__init__(n_var=4, n_obj=2, n_ieq_constr=1, xl=LEAST_THRESHOLD, xu=GREATEST_THRESHOLD)
        self.objectives = objectives
        # As a number of events: 0.9 as a float times 4,990 rows must not come out a hair over 4,491.
        self._least = max(math.ceil(min_acceptance * objectives.rows - 1e-9), 1) / objectives.rows
        # Acceptance never grows with a threshold, so the lowest ones accept the most.
        reachable = float(objectives.scores(np.full((1, 4), LEAST_THRESHOLD)).acceptance[0])
        if reachable == 0:
            raise InfeasibleError(
                f"no event of these rows is accepted even with all thresholds at {LEAST_THRESHOLD}; "
                "the certainties are wrong, evaluate the network again"
            )
        if reachable < self._least:
            named = math.floor(1e4 * reachable) / 1e4  # rounded up, it could not be reached either
            raise InfeasibleError(
                f"an acceptance of {min_acceptance:g} cannot be reached on these rows: thresholds of "
                f"{LEAST_THRESHOLD} accept {named:.4f}; lower --min-acceptance to that or less"
            )

    def _evaluate(self, x: NDArray[np.float64], out: dict[str, Any], *_args: object, **_kwargs: object) -> None:
        scores = self.objectives.scores(x)
        out["F"] = np.column_stack((scores.error, self.objectives.normalise(scores.time)))
        out["G"] = self._least - scores.acceptance
