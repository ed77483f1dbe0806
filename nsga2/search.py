"""Search the thresholds with NSGA-II."""

from collections.abc import Callable

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.callback import Callback
from pymoo.optimize import minimize

from nsga2.problem import ThresholdsProblem
from utils.errors import InfeasibleError
from utils.results import Front


class _EachGeneration(Callback):  # type: ignore[misc]
    def __init__(self, progress: Callable[[int], object]) -> None:
        super().__init__()
        self._progress = progress

    def notify(self, _algorithm: object) -> None:
        self._progress(1)


def search(
    problem: ThresholdsProblem,
    population: int,
    offspring: int,
    generations: int,
    seed: int,
    progress: Callable[[int], object] = lambda _done: None,
) -> Front:
    """Return the front that NSGA-II finds, sorted by time; a seed repeats it.

    Source: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE TEC 6(2), 2002.

    Args:
        problem: the thresholds problem.
        population: sets of thresholds kept from one generation to the next.
        offspring: new ones a generation.
        generations: how many, the first included.
        seed: of all random choices.
        progress: called with 1 after each generation.

    Raises:
        InfeasibleError: no set met the constraint.
    """
    result = minimize(
        problem,
        NSGA2(pop_size=population, n_offsprings=offspring),
        ("n_gen", generations),
        seed=seed,
        callback=_EachGeneration(progress),
        copy_algorithm=False,
    )
    if result.X is None:
        raise InfeasibleError("the search met no thresholds of the acceptance asked for; raise --gen or --population")
    thresholds, objectives = np.atleast_2d(result.X), np.atleast_2d(result.F)
    order = np.lexsort((objectives[:, 0], objectives[:, 1]))
    judge = problem.objectives
    accuracy_1, accuracy_2 = judge.accuracies
    return Front(thresholds[order], objectives[order], judge.min_time, judge.max_time, accuracy_1, 1.0, accuracy_2, 1.0)
