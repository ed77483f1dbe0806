import numpy as np
import pytest

from dnn.judgement import compute_losses, judge
from utils.decision import Decisions


def test_an_accepted_error_costs_1_a_rejection_the_reject_cost_and_a_right_answer_nothing() -> None:
    at_1, at_2 = np.array([True, False, False, True]), np.array([False, True, False, False])
    decided = Decisions(np.array([1, 1, 0, 0]), at_1, at_2, np.array([1, 0, 1, 0]))
    assert compute_losses(decided, 0.25).tolist() == [0, 1, 0.25, 0]


def test_a_challenger_that_errs_clearly_less_is_better() -> None:
    champion, challenger = np.zeros(1000), np.zeros(1000)
    champion[:100] = challenger[:50] = 1
    found = judge(challenger, champion, seed=1)
    assert found.is_better
    assert (found.rows, found.loss) == (1000, 0.05)
    assert found.difference == pytest.approx(-0.05)
    assert found.low < -0.05 < found.high < 0


def test_equal_networks_are_not_better_than_each_other() -> None:
    losses = np.random.default_rng(0).random(100)
    assert not judge(losses, losses, seed=1).is_better


def test_a_difference_that_chance_explains_is_not_better() -> None:
    champion, challenger = np.zeros(1000), np.zeros(1000)
    champion[:52], challenger[50:100] = 1, 1
    found = judge(challenger, champion, seed=1)
    assert found.difference < 0 < found.high
    assert not found.is_better


def test_of_networks_without_a_difference_few_are_called_better() -> None:
    generator = np.random.default_rng(3)
    pairs = (generator.random((400, 2, 500)) < 0.07).astype(float)
    found = [judge(challenger, champion, seed=1, resamples=400) for challenger, champion in pairs]
    assert sum(one.is_better for one in found) <= 0.05 * len(found)  # 2.5 % are expected


def test_there_is_nothing_to_judge_without_rows() -> None:
    with pytest.raises(ValueError, match="no rows"):
        judge(np.empty(0), np.empty(0), seed=1)
