"""The exact front equals the front of all thresholds."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nsga2.exact_front import find_exact_front
from nsga2.objectives import Objectives
from nsga2.problem import ThresholdsProblem
from nsga2.search import search_front
from tests.captures import needs_shared
from tests.nsga2.plain_objectives import plain_normalised, plain_scores, plain_table
from tests.nsga2.test_objectives import EVALUATIONS, EXACT, evaluations, random_evaluation
from utils.errors import InfeasibleError
from utils.results import Evaluation, read_evaluation
from utils.schema import ATTACK, NORMAL

Points = NDArray[np.float64]


def every_threshold(prediction: NDArray[np.int64], certainty: NDArray[np.float64], kind: int) -> list[float]:
    """Return all thresholds within [0.5, 1] that differ for a class's answers."""
    values = certainty[(prediction == kind) & (certainty >= 0.5)]
    return sorted({0.5, 1.0, *values.tolist()})


def brute_force(evaluation: Evaluation, objectives: Objectives, min_acceptance: float) -> Points:
    """Return the undominated (error, time) of every quadruple of thresholds."""
    exits = ((evaluation.prediction_1, evaluation.certainty_1), (evaluation.prediction_2, evaluation.certainty_2))
    every = [every_threshold(*answers, kind) for answers in exits for kind in (NORMAL, ATTACK)]
    quadruples = np.array(list(itertools.product(*every)))
    scores = objectives.score(quadruples)
    enough = np.round(scores.acceptance * len(evaluation)) >= objectives.find_least_accepted(min_acceptance)
    points = np.column_stack((scores.error, objectives.normalise(scores.time)))[enough]
    return undominated(points)


def undominated(points: Points) -> Points:
    points = np.unique(np.round(points, 12), axis=0)
    return np.array([p for p in points if not ((points <= p).all(axis=1) & (points < p).any(axis=1)).any()])


def assert_same(found: Points, expected: Points) -> None:
    np.testing.assert_allclose(undominated(found), expected, atol=1e-11)
    assert len(found) == len(expected)


@pytest.mark.slow
@settings(max_examples=150)
@given(evaluations(), st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.sampled_from(["paper", "full", "edge"]))
def test_it_is_the_front_of_every_quadruple_of_thresholds(
    evaluation: Evaluation, min_acceptance: float, cost_model: str
) -> None:
    objectives = Objectives(evaluation, cost_model, 0.002 if cost_model == "edge" else None)
    found = find_exact_front(objectives, min_acceptance)
    assert found.gap == 0
    assert_same(found.front.objectives, brute_force(evaluation, objectives, min_acceptance))


@pytest.mark.parametrize("min_acceptance", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_it_is_also_that_front_if_no_two_certainties_are_equal(seed: int, min_acceptance: float) -> None:
    evaluation = random_evaluation(16, seed)
    objectives = Objectives(evaluation)
    found = find_exact_front(objectives, min_acceptance)
    assert_same(found.front.objectives, brute_force(evaluation, objectives, min_acceptance))


@needs_shared
@pytest.mark.parametrize("path", EVALUATIONS, ids=[path.stem for path in EVALUATIONS])
def test_on_the_published_evaluations_no_search_finds_better_and_the_plain_objectives_agree(path: Path) -> None:
    evaluation = read_evaluation([path])
    objectives = Objectives(evaluation)
    found = find_exact_front(objectives, 0.9)
    searched = search_front(ThresholdsProblem(objectives, 0.9), 100, 80, 100, seed=1).objectives
    for point in searched:
        better = found.front.objectives <= point + EXACT
        assert better.all(axis=1).any()
    table = plain_table(evaluation)
    for thresholds, (error, time) in zip(found.front.thresholds, found.front.objectives, strict=True):
        plain = plain_scores(table, thresholds)
        assert plain.acceptance >= 0.9 - EXACT
        assert error == pytest.approx(plain.error, abs=EXACT)
        assert time == pytest.approx(plain_normalised(table, plain.time), abs=EXACT)


@needs_shared
@pytest.mark.parametrize(("name", "least"), [("alexnet_pc_2016_02", 0.0711), ("mobilenet_pc_2016_03", 0.0593)])
def test_the_least_error_of_the_published_front_is_as_measured(name: str, least: float) -> None:
    (path,) = (path for path in EVALUATIONS if path.stem == name)
    found = find_exact_front(Objectives(read_evaluation([path])), 0.9)
    assert round(float(found.front.objectives[:, 0].min()), 4) == least


@pytest.mark.parametrize("cost_model", ["paper", "edge"])
@pytest.mark.parametrize("most", [2, 5, 20])
def test_with_fewer_thresholds_it_stays_within_its_gap(most: int, cost_model: str) -> None:
    evaluation = random_evaluation(600)
    objectives = Objectives(evaluation, cost_model, 0.001 if cost_model == "edge" else None)
    true, bounded = find_exact_front(objectives, 0.8).front.objectives, find_exact_front(objectives, 0.8, most)
    assert bounded.gap > 0
    assert (bounded.time_gap > 0) == (cost_model == "paper")
    for error, time in true:
        as_soon = bounded.front.objectives[:, 1] <= time + bounded.time_gap + EXACT
        assert bounded.front.objectives[as_soon, 0].min() <= error + bounded.gap + EXACT


def test_an_unreachable_acceptance_is_infeasible() -> None:
    evaluation = random_evaluation(50)
    evaluation.certainty_1[:], evaluation.certainty_2[:] = 0.1, 0.6
    evaluation.certainty_2[0] = 0.2
    with pytest.raises(InfeasibleError, match="lower --min-acceptance"):
        find_exact_front(Objectives(evaluation), 1.0)


def test_progress_counts_the_pairs_of_thresholds() -> None:
    told: list[tuple[int, int]] = []
    find_exact_front(Objectives(random_evaluation(100)), 0.8, progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize("seed", range(3))
def test_rounding_a_certainty_changes_no_decision(seed: int) -> None:
    evaluation = random_evaluation(300, seed)
    # Groups of equal certainties, as repeated vectors have.
    for certainties in (evaluation.certainty_1, evaluation.certainty_2):
        certainties[:] = np.round(certainties, 2)
    objectives = Objectives(evaluation)
    thresholds = find_exact_front(objectives, 0.8).front.thresholds
    expected = objectives.score(thresholds)
    for certainties in (evaluation.certainty_1, evaluation.certainty_2):
        certainties += np.random.default_rng(seed).uniform(-1e-6, 1e-6, len(certainties))
        certainties.clip(0.5, 1.0, out=certainties)  # which every certainty of two classes is
    found = Objectives(evaluation).score(thresholds)
    np.testing.assert_array_equal(found.error, expected.error)
    np.testing.assert_array_equal(found.acceptance, expected.acceptance)
