from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from nsga2.certification import (
    MOST_PROPOSALS,
    Certified,
    Goal,
    bound_error,
    certify,
    compute_p_values,
    count_decisions,
    find_passed,
    order_by_safety,
    propose,
    split_rows,
)
from nsga2.objectives import Objectives
from nsga2.threshold_grid import make_grids
from tests.nsga2.test_objectives import random_evaluation
from utils.errors import InfeasibleError
from utils.results import Evaluation
from utils.schema import ATTACK, NORMAL, Thresholds

ACCEPTED, WRONG = np.array([0, 1, 20, 500, 4000]), np.array([0, 1, 0, 31, 170])


def draw_events(rows: int, seed: int) -> Evaluation:
    """Return events whose exits are right as often as they are certain, exit 2 more so."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, rows)
    certainty_1 = 1 - 0.5 * generator.beta(0.6, 2.0, rows)
    certainty_2 = 1 - 0.5 * generator.beta(0.5, 3.0, rows)
    prediction_1, prediction_2 = (
        np.where(generator.random(rows) < certainty, labels, 1 - labels) for certainty in (certainty_1, certainty_2)
    )
    early, late = np.full(rows, 1e-4), np.full(rows, 1e-3)
    return Evaluation(labels, prediction_1, certainty_1, early, early, prediction_2, certainty_2, late, late)


POPULATION = draw_events(400_000, seed=1)


def certify_rows(evaluation: Evaluation, goal: Goal, seed: int = 0) -> Certified:
    proposing, testing = split_rows(len(evaluation), seed)
    return certify(Objectives(evaluation.take(proposing)), Objectives(evaluation.take(testing)), goal)


def true_error(thresholds: Thresholds) -> float:
    return POPULATION.decide(thresholds).count().error


def test_a_p_value_is_the_share_of_halves_of_the_events_with_at_most_as_many_wrong_ones() -> None:
    # 6 tested events with 1 wrong; the limit allows 2 of the next 6, so 1 + 3 of the 12 are wrong.
    halves = list(combinations([True] * 4 + [False] * 8, 6))
    expected = np.mean([sum(half) <= 1 for half in halves])
    assert compute_p_values(np.array([6]), np.array([1]), 0.4)[0] == pytest.approx(expected)
    assert compute_p_values(ACCEPTED, WRONG, 0.1)[0] == 1.0, "nothing accepted shows nothing"


def test_p_values_are_never_below_those_of_the_error_of_all_traffic() -> None:
    accepted, wrong = np.meshgrid([1, 2, 3, 5, 10, 30, 100, 1000, 20_000], np.linspace(0, 1, 101))
    counts = accepted.ravel().astype(np.int64), np.floor(wrong * accepted).ravel().astype(np.int64)
    for limit in (0.001, 0.01, 0.05, 0.1, 0.3, 0.7):
        binomial = stats.binom.cdf(counts[1], counts[0], limit)
        found = compute_p_values(*counts, limit)
        assert (found >= binomial - 1e-12).all(), limit


def test_a_bound_is_the_lowest_limit_that_is_certified() -> None:
    bounds = bound_error(ACCEPTED, WRONG, 0.95)
    assert bounds[:2].tolist() == [1.0, 1.0]
    for accepted, wrong, bound in zip(ACCEPTED[2:], WRONG[2:], bounds[2:], strict=True):
        at_bound, below = (compute_p_values(np.array([accepted]), np.array([wrong]), limit)[0]
                           for limit in (bound, bound - 1 / accepted))  # fmt: skip
        assert at_bound <= 0.05 + 1e-9 and below > 0.05


def test_proposals_have_the_lowest_error_of_all_combinations_that_accept_as_many() -> None:
    objectives = Objectives(random_evaluation(60, seed=3))
    grids = make_grids(objectives, 4)
    every = np.array(list(product(*(grids[key].thresholds for key in product((1, 2), (NORMAL, ATTACK))))))
    counts = [objectives.evaluation.decide(Thresholds(*map(float, one))).count() for one in every]
    accepted, error = np.array([(count.accepted, count.error) for count in counts]).T
    found = propose(objectives, None, grid_size=4)
    assert 3 < len(found) <= MOST_PROPOSALS
    for one in found:
        count = objectives.evaluation.decide(Thresholds(*map(float, one))).count()
        assert count.error == error[accepted >= count.accepted].min()
    proposed = [objectives.evaluation.decide(Thresholds(*map(float, one))).count() for one in found]
    lowest = {at: error[accepted >= at].min() for at in accepted[accepted > 0]}
    best = {at for at in lowest if lowest[at] < min((lowest[more] for more in lowest if more > at), default=2)}
    assert {count.accepted for count in proposed} == best


def test_with_a_least_acceptance_all_proposals_accept_so_many_and_some_are_cheap() -> None:
    objectives = Objectives(draw_events(2000, seed=4))
    found = propose(objectives, 0.7)
    scores = objectives.score(found)
    assert (scores.acceptance >= 0.7).all()
    assert objectives.normalise(scores.time).min() < 0.1 < objectives.normalise(scores.time).max()


def test_the_tests_end_at_the_first_that_fails() -> None:
    objectives = Objectives(draw_events(3000, seed=5))
    thresholds = np.array([[0.97] * 4, [0.9] * 4, [0.5] * 4, [0.99] * 4])
    counts = count_decisions(objectives, thresholds)
    p_values = compute_p_values(counts.accepted, counts.wrong, 0.05)
    assert (p_values <= 0.05).tolist() == [True, True, False, True]
    goal = Goal(0.05, 0.95)
    assert find_passed(counts, np.array([0, 3, 1, 2]), goal).tolist() == [0, 3, 1]
    assert find_passed(counts, np.array([3, 2, 1, 0]), goal).tolist() == [3]
    assert find_passed(counts, np.array([2, 0, 1, 3]), goal).tolist() == []


def test_the_order_is_that_of_the_exact_p_values_where_these_differ() -> None:
    objectives = Objectives(draw_events(1000, seed=6))
    counts = count_decisions(objectives, propose(objectives, None))
    p_values = compute_p_values(counts.accepted, counts.wrong, 0.08)[order_by_safety(counts, counts.rows, 0.08)]
    assert np.corrcoef(np.arange(len(p_values)), stats.rankdata(p_values))[0, 1] > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("min_acceptance", [None, 0.5])
def test_the_limit_is_exceeded_no_more_often_than_the_confidence_allows(min_acceptance: float | None) -> None:
    generator = np.random.default_rng(7)
    goal, runs = Goal(0.03, 0.9, min_acceptance), 200
    errors, naive = [], []
    for run in range(runs):
        rows = POPULATION.take(generator.integers(0, len(POPULATION), 1500))
        try:
            errors.append(true_error(certify_rows(rows, goal, run).thresholds))
        except InfeasibleError:
            errors.append(0.0)
        # What one would do without a certificate: the thresholds that accept the most within the limit on these rows.
        objectives = Objectives(rows)
        proposed = propose(objectives, min_acceptance)
        scores = objectives.score(proposed)
        within = np.flatnonzero(scores.error <= goal.max_error)
        chosen = within[scores.acceptance[within].argmax()]
        naive.append(true_error(Thresholds(*map(float, proposed[chosen]))))
    most = stats.binom.ppf(0.999, runs, 1 - goal.confidence) / runs
    assert np.mean(np.array(errors) > goal.max_error) <= most
    assert np.mean(np.array(naive) > goal.max_error) > 2 * most
    assert np.mean(np.array(errors) == 0) < 0.5, "most runs certify something"


def test_more_rows_certify_more_events() -> None:
    goal = Goal(0.06, 0.95)
    few, many = (certify_rows(draw_events(rows, seed=8), goal) for rows in (1000, 40_000))
    assert few.accepted / few.rows < many.accepted / many.rows
    assert many.wrong / many.accepted <= many.bound <= 0.06


def test_the_cheapest_of_the_certified_thresholds_are_chosen_at_a_least_acceptance() -> None:
    rows = draw_events(20_000, seed=9)
    most = certify_rows(rows, Goal(0.1, 0.95))
    cheap = certify_rows(rows, Goal(0.1, 0.95, min_acceptance=0.6))
    offloaded = [rows.decide(found.thresholds).count().offloaded_share for found in (most, cheap)]
    assert offloaded[1] < offloaded[0]
    assert 0.6 <= cheap.accepted / cheap.rows <= most.accepted / most.rows


def test_what_can_be_certified_is_said_where_the_goal_cannot() -> None:
    rows = draw_events(1000, seed=10)
    with pytest.raises(
        InfeasibleError, match=r"0\.001 cannot be certified with confidence 0\.95 from 650 rows; "
    ) as info:
        certify_rows(rows, Goal(0.001, 0.95))
    limit = float(str(info.value).partition("rows; ")[2].partition(" can")[0])
    assert certify_rows(rows, Goal(limit + 0.01, 0.95)).bound <= limit + 0.01
    with pytest.raises(InfeasibleError, match="raise --max-error to that, lower --min-acceptance, or give more rows"):
        certify_rows(draw_events(20_000, seed=10), Goal(0.025, 0.95, min_acceptance=0.95))


def test_the_limit_that_can_be_certified_is_that_of_thresholds_which_few_tests_can_certify() -> None:
    # 20,000 rows propose thresholds without any error that accept few events; 200 rows could not certify these.
    proposing, testing = Objectives(draw_events(20_000, seed=13)), Objectives(draw_events(200, seed=14))
    with pytest.raises(InfeasibleError, match="label more") as info:
        certify(proposing, testing, Goal(0.001, 0.95), remedy="label more")
    limit = float(str(info.value).partition("rows; ")[2].partition(" can")[0])
    found = certify(proposing, testing, Goal(limit, 0.95))
    assert found.bound <= limit < 0.1
    assert found.accepted > 60


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_very_few_rows_certify_nothing(rows: int) -> None:
    with pytest.raises(InfeasibleError, match=r"too few rows to certify any error: \d; give more rows"):
        certify_rows(draw_events(rows, seed=12), Goal(0.9, 0.95))


def test_an_acceptance_that_only_the_proposing_rows_reach_is_refused() -> None:
    rows, uncertain = draw_events(8000, seed=11), np.arange(8000) % 2 == 0
    half = replace(
        rows,
        certainty_1=np.where(uncertain, 0.5, rows.certainty_1),
        certainty_2=np.where(uncertain, 0.5, rows.certainty_2),
    )
    with pytest.raises(InfeasibleError, match=r"an acceptance of up to 0\.4\d+, not of 0\.8; lower --min-acceptance"):
        certify(Objectives(rows), Objectives(half), Goal(0.05, 0.95, min_acceptance=0.8))


def test_the_rows_are_split_by_the_seed() -> None:
    proposing, testing = split_rows(1000, seed=1)
    assert len(proposing) == 350
    assert sorted([*proposing, *testing]) == list(range(1000))
    assert (split_rows(1000, seed=1)[0] == proposing).all()
    assert (split_rows(1000, seed=2)[0] != proposing).any()
