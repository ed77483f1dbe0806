"""Search for the front with NSGA-II."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.callback import Callback
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.optimize import minimize

from nsga2.exact_front import find_exact_front, find_front
from nsga2.problem import ThresholdsProblem
from utils.results import Front

_COARSE: Final = 16  # thresholds of a class at an exit, for the coarse front that the search starts from
_LATEST: Final = 1.05  # normalised time up to which the hypervolume counts
_MATING_ROUNDS: Final = 10  # attempts to fill a generation with new candidates
_NOTICEABLE: Final = 1e-6  # relative growth of the hypervolume that counts as an improvement


def compute_hypervolume(points: NDArray[np.float64], error: float, time: float = _LATEST) -> float:
    """Return the area that points (k, 2) of error and normalised time dominate, up to a limit of each.

    Source: Zitzler and Thiele, "Multiobjective optimization using evolutionary algorithms", PPSN V, 1998.
    """
    inside = points[(points[:, 0] < error) & (points[:, 1] < time)]
    by_time = inside[np.lexsort((inside[:, 0], inside[:, 1]))]
    lowest = np.minimum.accumulate(by_time[:, 0])
    until = np.append(by_time[1:, 1], time)
    return float(((error - lowest) * (until - by_time[:, 1])).sum())


class _EachGeneration(Callback):  # type: ignore[misc]
    """Reports the hypervolume of each generation, and ends the search when it no longer grows."""

    def __init__(self, reference: float, stall: int | None, progress: Callable[[float], object]) -> None:
        super().__init__()
        self._reference = reference
        self._stall = stall
        self._progress = progress
        self._best = -1.0
        self._since = 0

    def notify(self, algorithm: NSGA2) -> None:
        area = compute_hypervolume(np.atleast_2d(algorithm.opt.get("F")), self._reference)
        self._since = 0 if area > self._best * (1 + _NOTICEABLE) else self._since + 1
        self._best = max(self._best, area)
        self._progress(area)
        if self._stall is not None and self._since >= self._stall:
            algorithm.termination.terminate()


def search_front(
    problem: ThresholdsProblem,
    population: int,
    offspring: int,
    generations: int,
    seed: int,
    stall: int | None = None,
    progress: Callable[[float], object] = lambda _area: None,
) -> Front:
    """Return the front that NSGA-II finds, sorted by time; the same seed repeats it.

    Source: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE TEC 6(2), 2002.

    Args:
        problem: the thresholds problem.
        population: candidates kept from one generation to the next.
        offspring: new candidates in each generation.
        generations: most generations, including the first.
        seed: of all random choices.
        stall: number of generations without a larger hypervolume after which the search ends; None: no limit.
        progress: called with the hypervolume after each generation, up to the error of exit 1 without rejection.
    """
    algorithm = NSGA2(
        pop_size=population,
        n_offsprings=offspring,
        sampling=_sample_first_generation(problem, population, seed),
        crossover=SBX(vtype=float, repair=RoundingRepair()),
        mutation=PM(vtype=float, repair=RoundingRepair()),
    )
    # With few thresholds, most offspring repeat earlier candidates, and pymoo would try 100 times to find new ones.
    algorithm.mating.n_max_iterations = _MATING_ROUNDS
    result = minimize(
        problem,
        algorithm,
        ("n_gen", generations),
        seed=seed,
        callback=_EachGeneration(1 - problem.objectives.accuracies[0], stall, progress),
        copy_algorithm=False,
    )
    return find_front(problem.objectives, problem.get_thresholds(np.atleast_2d(result.X)))


def _sample_first_generation(problem: ThresholdsProblem, population: int, seed: int) -> NDArray[np.int64]:
    """Return candidates (population, 4): points of a coarse exact front, and random ones for the rest."""
    # If all candidates are random, the search sometimes converges to a part of the front only.
    coarse = problem.find_places(find_exact_front(problem.objectives, problem.min_acceptance, _COARSE).front.thresholds)
    chosen = np.linspace(0, len(coarse) - 1, min(len(coarse), population // 2)).round().astype(int)
    generator = np.random.default_rng(seed)
    return np.vstack((coarse[chosen], generator.integers(0, problem.xu + 1, (population - len(chosen), 4))))
