from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nsga2.defaults import COST_MODELS
from nsga2.objectives import Objectives
from tests.captures import SHARED, needs_shared
from tests.nsga2.plain_objectives import plain_normalised, plain_scores, plain_table
from utils.results import Evaluation, read_evaluation
from utils.schema import ATTACK, NORMAL

EXACT = 1e-12
EVALUATIONS = sorted(path for path in (SHARED / "data" / "evaluations").glob("*.csv") if "single" not in path.name)
ALL_AT_EXIT_1, ALL_AT_EXIT_2 = [0.0] * 4, [1.0, 1.0, 0.0, 0.0]

# Few values, so that rows tie, and thresholds stand exactly at certainties.
certainty = st.sampled_from([0.5, 0.6, 0.75, 0.9, np.nextafter(0.9, 1), 1 - 2**-53])
threshold = certainty | st.sampled_from([0.0, 1.0]) | st.floats(0.5, 1.0)
seconds = st.just(0.001) | st.just(0.0) | st.floats(1e-6, 1.0)


@st.composite
def evaluations(draw: st.DrawFn) -> Evaluation:
    rows = draw(st.integers(1, 30))
    classes = draw(st.sampled_from([(NORMAL,), (ATTACK,), (NORMAL, ATTACK)]))
    constant = draw(st.booleans())

    def column(values: st.SearchStrategy[float]) -> NDArray[np.float64]:
        return np.array(draw(st.lists(values, min_size=rows, max_size=rows)))

    def answers() -> NDArray[np.int64]:
        return column(st.sampled_from(classes)).astype(np.int64)

    def times() -> NDArray[np.float64]:
        return np.full(rows, draw(seconds)) if constant else column(seconds)

    return Evaluation(
        answers(), answers(), column(certainty), times(), times(), answers(), column(certainty), times(), times()
    )


def random_evaluation(rows: int, seed: int = 0) -> Evaluation:
    generator = np.random.default_rng(seed)
    answers = generator.integers(0, 2, (3, rows))
    certainties = generator.uniform(0.5, 1.0, (2, rows))
    bb_1, exit_1, bb_2, exit_2 = generator.uniform(1e-4, 1e-3, (4, rows))
    return Evaluation(answers[0], answers[1], certainties[0], bb_1, exit_1, answers[2], certainties[1], bb_2, exit_2)


def assert_scores_are_the_plain_ones(
    objectives: Objectives, table: pd.DataFrame, candidates: NDArray[np.float64], cost_model: str
) -> None:
    scores = objectives.score(candidates)
    plain = np.array([plain_scores(table, candidate, cost_model) for candidate in candidates])
    np.testing.assert_allclose(scores.error, plain[:, 0], rtol=0, atol=EXACT)
    # A mean is exact to the digits of what it was added up from: the costs of exits that may cancel out.
    scale = max(objectives.min_time, objectives.max_time)
    np.testing.assert_allclose(scores.time, plain[:, 1], rtol=EXACT, atol=EXACT * scale)
    np.testing.assert_allclose(scores.acceptance, plain[:, 2], rtol=0, atol=EXACT)


@pytest.mark.slow
@settings(max_examples=150)
@given(
    evaluations(),
    st.lists(st.tuples(threshold, threshold, threshold, threshold), min_size=1, max_size=6),
    st.sampled_from(COST_MODELS[:2]),
)
def test_scores_equal_the_plain_ones_on_any_evaluation(
    evaluation: Evaluation, candidates: list[tuple[float, ...]], cost_model: str
) -> None:
    objectives = Objectives(evaluation, cost_model)
    assert_scores_are_the_plain_ones(objectives, plain_table(evaluation), np.array(candidates), cost_model)


@needs_shared
@pytest.mark.parametrize("cost_model", COST_MODELS[:2])
@pytest.mark.parametrize("path", EVALUATIONS, ids=[path.stem for path in EVALUATIONS])
def test_scores_equal_the_plain_ones_on_the_published_evaluations(path: Path, cost_model: str) -> None:
    table = pd.read_csv(path)
    objectives = Objectives(read_evaluation([path]), cost_model)
    candidates = np.random.default_rng(2).uniform(0.5, 1.0, (30, 4))
    # Some thresholds that are exactly a row's certainty.
    candidates[::2, :2] = table["cnf_exit_1"].to_numpy()[:30].reshape(15, 2)
    candidates[::2, 2:] = table["cnf_exit_2"].to_numpy()[:30].reshape(15, 2)
    assert_scores_are_the_plain_ones(objectives, table, candidates, cost_model)
    normalised = objectives.normalise(objectives.score(candidates).time)
    plain = [plain_normalised(table, plain_scores(table, row, cost_model).time, cost_model) for row in candidates]
    np.testing.assert_allclose(normalised, plain, rtol=0, atol=EXACT)


def test_a_certainty_at_its_threshold_is_accepted_and_one_just_below_is_not() -> None:
    times = np.full(2, 0.001)
    labels = np.array([NORMAL, ATTACK])
    evaluation = Evaluation(
        labels, labels, np.array([0.8, 0.7]), times, times, labels, np.array([0.6, 0.6]), times, times
    )
    scores = Objectives(evaluation).score(
        np.array([[0.8, 0.7, 1, 1], [np.nextafter(0.8, 1), 0.7, 1, 1], [0.8, np.nextafter(0.7, 1), 1, 0.6]])
    )
    assert scores.acceptance.tolist() == [1.0, 0.5, 1.0]


def test_the_paper_leaves_head_1_out_of_an_offloaded_events_cost_and_full_counts_it() -> None:
    evaluation = Evaluation(*(np.array([value]) for value in (0, 0, 0.6, 0.001, 0.002, 0, 0.6, 0.010, 0.020)))
    paper, full = (Objectives(evaluation, model) for model in ("paper", "full"))
    assert (paper.min_time, full.min_time) == pytest.approx((3000, 3000), rel=EXACT)
    assert (paper.max_time, full.max_time) == pytest.approx((31000, 33000), rel=EXACT)


@pytest.mark.parametrize("cost_model", COST_MODELS[:2])
def test_normalised_time_is_exactly_0_for_all_at_exit_1_and_exactly_1_for_all_at_exit_2(cost_model: str) -> None:
    objectives = Objectives(random_evaluation(4999), cost_model)
    time = objectives.score(np.array([ALL_AT_EXIT_1, ALL_AT_EXIT_2])).time
    assert objectives.normalise(time).tolist() == [0.0, 1.0]


def test_the_ends_of_normalised_time_are_0_and_1_if_exit_2_is_the_cheaper_path() -> None:
    evaluation = Evaluation(*(np.array([value]) for value in (0, 0, 0.6, 0.001, 0.009, 0, 0.6, 0.001, 0.001)))
    objectives = Objectives(evaluation)
    assert objectives.max_time < objectives.min_time
    normalised = objectives.normalise(objectives.score(np.array([ALL_AT_EXIT_1, ALL_AT_EXIT_2])).time)
    assert normalised.tolist() == [0.0, 1.0]
    assert not np.signbit(normalised).any()


def test_where_both_exits_cost_the_same_the_normalised_time_is_0_everywhere() -> None:
    rows = 20
    same = np.full(rows, 0.001)
    free = np.zeros(rows)
    labels = np.zeros(rows, dtype=np.int64)
    certainties = np.linspace(0.5, 1, rows)
    objectives = Objectives(Evaluation(labels, labels, certainties, same, same, labels, certainties, free, same))
    time = objectives.score(np.array([ALL_AT_EXIT_1, ALL_AT_EXIT_2, [0.7, 0.7, 0.7, 0.7]])).time
    assert objectives.normalise(time).tolist() == [0.0, 0.0, 0.0]


def test_a_candidate_that_accepts_nothing_has_an_error_of_1() -> None:
    objectives = Objectives(random_evaluation(50))
    scores = objectives.score(np.full((1, 4), 1.0))
    assert (scores.error.tolist(), scores.acceptance.tolist()) == ([1.0], [0.0])


def test_the_score_of_a_candidate_does_not_depend_on_its_place_in_the_population() -> None:
    objectives = Objectives(random_evaluation(5000))
    candidate = np.array([0.71, 0.83, 0.62, 0.9])
    alone = objectives.score(candidate[np.newaxis])
    population = np.random.default_rng(1).uniform(0.5, 1.0, (131, 4))
    places = np.arange(0, 131, 3)
    population[places] = candidate
    scores = objectives.score(population)
    assert set(scores.time[places]) == set(alone.time)
    assert set(scores.error[places]) == set(alone.error)


@settings(max_examples=100)
@given(evaluations(), st.tuples(threshold, threshold, threshold, threshold), st.integers(0, 3), threshold)
def test_acceptance_never_grows_with_a_threshold(
    evaluation: Evaluation, candidate: tuple[float, ...], which: int, other: float
) -> None:
    raised = np.array([candidate, candidate])
    raised[1, which] = max(raised[0, which], other)
    acceptance = Objectives(evaluation).score(raised).acceptance
    assert acceptance[1] <= acceptance[0]


def test_the_accuracies_are_those_of_each_exit_with_nothing_rejected() -> None:
    evaluation = random_evaluation(997)
    table = plain_table(evaluation)
    expected = [float((table[f"y_exit_{number}"] == table["y"]).mean()) for number in (1, 2)]
    assert Objectives(evaluation).accuracies == pytest.approx(expected, abs=EXACT)
