import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pymoo.core.mating import Mating
from pymoo.indicators.hv import HV

from nsga2.exact_front import find_exact_front
from nsga2.objectives import Objectives
from nsga2.problem import ThresholdsProblem
from nsga2.search import compute_hypervolume, search_front
from tests.captures import SHARED, needs_shared
from tests.nsga2.plain_objectives import plain_normalised, plain_scores, plain_table
from tests.nsga2.test_objectives import EVALUATIONS, EXACT, random_evaluation
from tests.nsga2.test_problem import with_certainties
from utils.results import Evaluation, Front, read_evaluation

LEAST = 0.8
PUBLISHED = SHARED / "data" / "evaluations" / "mobilenet_pc_2016_02.csv"


def dominated(points: NDArray[np.float64], by: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether each point (k, 2) is dominated by one of the others (m, 2): no worse in both, better in one."""
    return np.array([bool(((by <= point).all(axis=1) & (by < point).any(axis=1)).any()) for point in points])


def found(evaluation: Evaluation, cost_model: str = "paper", least: float = LEAST, generations: int = 15) -> Front:
    problem = ThresholdsProblem(Objectives(evaluation, cost_model), least)
    return search_front(problem, population=40, offspring=30, generations=generations, seed=4)


def assert_front_holds(front: Front, table: pd.DataFrame, cost_model: str) -> None:
    """Check by the plain objectives that each point is feasible and has the front's error and time."""
    for thresholds, (error, time) in zip(front.thresholds, front.objectives, strict=True):
        plain = plain_scores(table, thresholds, cost_model)
        assert plain.acceptance >= LEAST - EXACT
        assert error == pytest.approx(plain.error, abs=EXACT)
        assert time == pytest.approx(plain_normalised(table, plain.time, cost_model), abs=EXACT)
    assert not dominated(front.objectives, front.objectives).any()


@pytest.mark.parametrize("cost_model", ["paper", "full"])
def test_every_point_of_a_front_is_feasible_and_undominated_and_the_plain_objectives_agree(cost_model: str) -> None:
    evaluation = random_evaluation(400)
    front = found(evaluation, cost_model)
    assert len(front) > 5
    assert_front_holds(front, plain_table(evaluation), cost_model)


@needs_shared
def test_a_front_of_a_published_evaluation_holds_too_and_runs_from_all_at_exit_1_on() -> None:
    front = found(read_evaluation([PUBLISHED]))
    assert_front_holds(front, pd.read_csv(PUBLISHED), "paper")
    assert front.objectives[0, 1] < 0.01
    assert front.objectives[:, 0].min() < front.objectives[0, 0] - 0.01


def test_a_front_is_sorted_by_time_and_carries_both_ends() -> None:
    evaluation = random_evaluation(400)
    front, objectives = found(evaluation), Objectives(evaluation)
    assert (np.diff(front.objectives[:, 1]) >= 0).all()
    assert (front.min_time, front.max_time) == (objectives.min_time, objectives.max_time)
    assert (front.accuracy_1, front.accuracy_2) == objectives.accuracies
    assert (front.acceptance_1, front.acceptance_2) == (1.0, 1.0)


@pytest.mark.slow
def test_the_search_finds_the_exact_front_on_few_rows() -> None:
    evaluation = random_evaluation(8, seed=5)
    objectives = Objectives(evaluation)
    problem = ThresholdsProblem(objectives, LEAST)
    # Only thresholds at a certainty, or above all of them, can make a difference.
    exit_1, exit_2 = ([0.5, *column, 1.0] for column in (evaluation.certainty_1, evaluation.certainty_2))
    every = np.array(list(itertools.product(exit_1, exit_1, exit_2, exit_2)))
    scores = objectives.score(every)
    points = np.column_stack((scores.error, objectives.normalise(scores.time)))[scores.acceptance >= LEAST - EXACT]
    exact = points[~dominated(points, points)]
    front = search_front(problem, population=100, offspring=80, generations=60, seed=1)
    assert len(np.unique(exact, axis=0)) > 2
    assert {tuple(point) for point in front.objectives} == {tuple(point) for point in exact}


def test_a_seed_repeats_a_front_to_the_bit_and_another_seed_gives_another() -> None:
    problem = ThresholdsProblem(Objectives(random_evaluation(200)), LEAST)

    def front(seed: int) -> tuple[bytes, bytes]:
        result = search_front(problem, population=20, offspring=20, generations=5, seed=seed)
        return result.thresholds.tobytes(), result.objectives.tobytes()

    assert front(7) == front(7)
    assert front(7) != front(8)


def test_one_of_equal_points_is_kept() -> None:
    front = search_front(
        ThresholdsProblem(with_certainties(0.9, 0.9), 1.0), population=20, offspring=20, generations=5, seed=1
    )
    assert front.objectives.tolist() == [[1.0, 0.0]]


def test_progress_is_called_for_each_generation() -> None:
    told: list[float] = []
    search_front(ThresholdsProblem(Objectives(random_evaluation(50)), 0.5), 10, 10, 6, 1, progress=told.append)
    assert len(told) == 6
    assert (np.diff(told) >= -EXACT).all()


def test_with_few_thresholds_a_generation_ends_with_fewer_offspring(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds, mate = itertools.count(), Mating._do
    monkeypatch.setattr(Mating, "_do", lambda *given, **more: (next(rounds), mate(*given, **more))[1])
    problem = ThresholdsProblem(with_certainties(0.6, 0.7, 0.8), LEAST)
    search_front(problem, population=40, offspring=30, generations=15, seed=4)
    assert 14 <= next(rounds) <= 14 * 10


def test_a_search_with_stall_stops_when_it_finds_nothing_better() -> None:
    told: list[float] = []
    search_front(
        ThresholdsProblem(Objectives(random_evaluation(30)), 0.5), 40, 40, 500, 1, stall=5, progress=told.append
    )
    assert 6 <= len(told) < 500
    assert told[-6] == told[-1]


@given(arrays(np.float64, st.tuples(st.integers(1, 12), st.just(2)), elements=st.floats(-0.5, 1.5)))
def test_the_hypervolume_is_pymoos(points: NDArray[np.float64]) -> None:
    expected = HV(ref_point=np.array([0.9, 1.05]))(points)
    assert compute_hypervolume(points, 0.9) == pytest.approx(expected, abs=1e-12)


def test_the_shortest_search_meets_a_feasible_constraint() -> None:
    problem = ThresholdsProblem(Objectives(random_evaluation(200)), 1.0)
    for population in (2, 3, 5):
        assert len(search_front(problem, population, offspring=1, generations=1, seed=1)) >= 1


HYPERVOLUME = HV(ref_point=np.array([0.2, 1.05]))


@needs_shared
@pytest.mark.parametrize("path", EVALUATIONS, ids=[path.stem for path in EVALUATIONS])
def test_a_search_covers_nearly_the_hypervolume_of_the_exact_front(path: Path) -> None:
    objectives = Objectives(read_evaluation([path]))
    exact = HYPERVOLUME(find_exact_front(objectives, 0.9).front.objectives)
    searched = HYPERVOLUME(search_front(ThresholdsProblem(objectives, 0.9), 100, 80, 200, seed=1).objectives)
    assert 0.995 * exact <= searched <= exact + EXACT
