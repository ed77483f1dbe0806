import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nsga2.objectives import Objectives
from nsga2.problem import ThresholdsProblem
from tests.nsga2.test_objectives import random_evaluation
from utils.errors import InfeasibleError
from utils.results import Evaluation


def with_certainties(*certainties: float) -> Objectives:
    """Return objectives on rows that both exits wrongly call normal, so that each certainty makes a difference."""
    rows = len(certainties)
    normal, certain, time = np.zeros(rows, dtype=np.int64), np.array(certainties), np.full(rows, 0.001)
    return Objectives(Evaluation(normal + 1, normal, certain, time, time, normal, certain, time, time))


def evaluate(problem: ThresholdsProblem, *places: list[int]) -> dict[str, NDArray[np.float64]]:
    out: dict[str, Any] = problem.evaluate(np.array(places), return_as_dictionary=True)
    return out


def evaluate_at(problem: ThresholdsProblem, *thresholds: float) -> dict[str, NDArray[np.float64]]:
    """Evaluate the strictest thresholds of the class normal, at both exits, that accept some certainties."""
    every = problem.get_thresholds(np.array([[place, 0, 0, 0] for place in range(int(problem.xu[0]) + 1)]))[:, 0]
    places = [int(np.searchsorted(every, threshold, side="right")) - 1 for threshold in thresholds]
    return evaluate(problem, *([place, 0, place, 0] for place in places))


def test_the_two_objectives_are_error_and_normalised_time() -> None:
    objectives = Objectives(random_evaluation(300))
    problem = ThresholdsProblem(objectives, 0.7)
    places = np.random.default_rng(3).integers(0, problem.xu + 1, (20, 4))
    scores = objectives.score(problem.get_thresholds(places))
    objective = evaluate(problem, *places.tolist())["F"]
    assert objective[:, 0].tolist() == scores.error.tolist()
    assert objective[:, 1].tolist() == objectives.normalise(scores.time).tolist()


def test_a_candidate_is_feasible_at_the_least_acceptance_and_above() -> None:
    problem = ThresholdsProblem(with_certainties(0.5, 0.6, 0.7, 0.8, 0.9), 0.6)
    violation = evaluate_at(problem, 0.9, 0.8, 0.7, 0.6)["G"].ravel()
    assert (violation <= 0).tolist() == [False, False, True, True]


@pytest.mark.parametrize("share", [0.07, 0.14, 0.28, 0.55, 0.56, 0.57, 0.58, 0.7])
def test_an_inexact_share_requires_the_number_of_rows_that_it_states(share: float) -> None:
    wanted = round(100 * share)
    certainties = np.full(100, 0.6)
    certainties[:wanted] = 0.9
    problem = ThresholdsProblem(with_certainties(*certainties), share)
    assert evaluate_at(problem, 0.9)["G"].item() <= 0
    certainties[0] = 0.6
    problem = ThresholdsProblem(with_certainties(*certainties), share)
    assert evaluate_at(problem, 0.9)["G"].item() > 0


def test_at_least_one_event_must_be_accepted() -> None:
    problem = ThresholdsProblem(with_certainties(0.6, 0.7), 0.0)
    assert (evaluate_at(problem, 1.0, 0.7)["G"].ravel() <= 0).tolist() == [False, True]


def test_an_infeasible_acceptance_is_refused_with_the_highest_feasible_one() -> None:
    objectives = with_certainties(0.4, 0.6, 0.7, 0.8, 0.9)
    with pytest.raises(InfeasibleError, match=r"acceptance of 0\.9 cannot .* accept 0\.8000; lower --min-acceptance"):
        ThresholdsProblem(objectives, 0.9)
    ThresholdsProblem(objectives, 0.8)


@pytest.mark.parametrize("accepted", [1, 2, 5, 6])
def test_the_highest_feasible_acceptance_is_feasible_as_printed(accepted: int) -> None:
    objectives = with_certainties(*[0.9] * accepted, *[0.4] * (7 - accepted))  # sevenths have no end of digits
    with pytest.raises(InfeasibleError) as refused:
        ThresholdsProblem(objectives, 1.0)
    (named,) = re.findall(r"accept (0\.\d+);", str(refused.value))
    ThresholdsProblem(objectives, float(named))


def test_rows_without_any_acceptable_event_are_refused() -> None:
    with pytest.raises(InfeasibleError, match="no event of these rows is accepted"):
        ThresholdsProblem(with_certainties(0.1, 0.2), 0.0)
