import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.decision import DecisionCounts, decide, is_accepted
from utils.schema import ATTACK, NORMAL, Thresholds

# Few values, so that a certainty often stands exactly at a threshold.
CERTAINTY = st.sampled_from([0.5, 0.6, 0.7000000000000001, 0.7, 0.95, 1.0])
CLASS = st.sampled_from([NORMAL, ATTACK])
THRESHOLDS = st.builds(Thresholds, *[st.one_of(CERTAINTY, st.just(0.0))] * 4)


class Event(NamedTuple):
    label: int
    prediction_1: int
    certainty_1: float
    prediction_2: int
    certainty_2: float


EVENTS = st.lists(st.builds(Event, CLASS, CLASS, CERTAINTY, CLASS, CERTAINTY), min_size=1, max_size=40)


def decided(event: Event, thresholds: Thresholds) -> tuple[str, int | None]:
    """Return who decides an event, and its class: the rule for one row."""
    least_1 = thresholds.attack_exit_1 if event.prediction_1 == ATTACK else thresholds.normal_exit_1
    least_2 = thresholds.attack_exit_2 if event.prediction_2 == ATTACK else thresholds.normal_exit_2
    if event.certainty_1 >= least_1:
        return "exit 1", event.prediction_1
    if event.certainty_2 >= least_2:
        return "exit 2", event.prediction_2
    return "rejected", None


def count_decisions(events: list[Event], thresholds: Thresholds) -> DecisionCounts:
    labels, prediction_1, prediction_2 = (np.array([event[i] for event in events], dtype=np.int64) for i in (0, 1, 3))
    certainty_1, certainty_2 = (np.array([event[i] for event in events], dtype=np.float64) for i in (2, 4))
    return decide(labels, prediction_1, certainty_1, prediction_2, certainty_2, thresholds).count()


@given(EVENTS, THRESHOLDS)
def test_the_counts_equal_those_of_a_loop_over_the_rows(events: list[Event], thresholds: Thresholds) -> None:
    decisions = [decided(event, thresholds) for event in events]
    right = [answer == event.label for (_, answer), event in zip(decisions, events, strict=True)]
    deciders = [decider for decider, _ in decisions]
    found = count_decisions(events, thresholds)
    assert found.rows == len(events)
    assert found.accepted_1 == deciders.count("exit 1")
    assert found.accepted_2 == deciders.count("exit 2")
    assert found.correct_1 == sum(r for r, decider in zip(right, deciders, strict=True) if decider == "exit 1")
    assert found.correct_2 == sum(r for r, decider in zip(right, deciders, strict=True) if decider == "exit 2")
    assert found.acceptance == pytest.approx(1 - deciders.count("rejected") / len(events))
    assert found.offloaded_share == pytest.approx(1 - deciders.count("exit 1") / len(events))
    assert found.rejected_share == pytest.approx(deciders.count("rejected") / len(events))
    final = [(event.label, answer) for (_, answer), event in zip(decisions, events, strict=True) if answer is not None]
    assert found.attacks == sum(label == ATTACK for label, _ in final)
    assert found.alarms == sum(answer == ATTACK for _, answer in final)
    assert found.caught == final.count((ATTACK, ATTACK))
    if found.accepted:
        assert found.accuracy == pytest.approx(sum(right) / found.accepted)
        assert found.error == pytest.approx(1 - found.accuracy)


@given(EVENTS, st.lists(THRESHOLDS, min_size=1, max_size=5))
def test_many_candidates_at_once_give_the_same_as_one_by_one(events: list[Event], many: list[Thresholds]) -> None:
    predictions = np.array([event.prediction_1 for event in events])
    certainties = np.array([event.certainty_1 for event in events])
    normal = np.array([[candidate.normal_exit_1] for candidate in many])
    attack = np.array([[candidate.attack_exit_1] for candidate in many])
    expected = [[decided(event, candidate)[0] == "exit 1" for event in events] for candidate in many]
    assert is_accepted(predictions, certainties, normal, attack).tolist() == expected


@pytest.mark.parametrize("label", [NORMAL, ATTACK])
def test_a_certainty_at_its_threshold_is_accepted_and_one_just_below_is_not(label: int) -> None:
    certainties = np.array([0.95, math.nextafter(0.95, 0), math.nextafter(0.95, 1)])
    own, other = (0.95, 0.0) if label == NORMAL else (0.0, 0.95)
    assert is_accepted(np.full(3, label), certainties, own, other).tolist() == [True, False, True]


def test_each_class_has_its_own_threshold_at_each_exit() -> None:
    thresholds = Thresholds(normal_exit_1=0.6, attack_exit_1=0.8, normal_exit_2=0.7, attack_exit_2=0.9)
    events = [
        Event(NORMAL, NORMAL, 0.65, NORMAL, 0.5),  # accepted at exit 1
        Event(ATTACK, ATTACK, 0.65, ATTACK, 0.95),  # offloaded, accepted at exit 2
        Event(NORMAL, ATTACK, 0.65, NORMAL, 0.75),  # offloaded, accepted at exit 2 as normal
        Event(ATTACK, ATTACK, 0.65, ATTACK, 0.75),  # rejected
        Event(ATTACK, NORMAL, 0.59, NORMAL, 0.7),  # accepted at exit 2, wrong
        Event(ATTACK, NORMAL, 0.6, ATTACK, 1.0),  # accepted at exit 1, wrong
    ]
    assert count_decisions(events, thresholds) == DecisionCounts(6, 2, 3, 1, 2, attacks=3, alarms=1, caught=1)


def test_the_rates_of_counted_decisions() -> None:
    found = DecisionCounts(rows=10, accepted_1=4, accepted_2=4, correct_1=3, correct_2=4, attacks=4, alarms=5, caught=4)
    assert found.accepted == 8
    assert found.rejected_share == pytest.approx(0.2)
    assert (found.true_positive_rate, found.false_positive_rate) == (1.0, 0.25)
    assert found.precision == 0.8
    assert found.f1 == pytest.approx(8 / 9)
    assert (found.acceptance, found.offloaded_share, found.accuracy, found.error) == (0.8, 0.6, 0.875, 0.125)


def test_the_accuracy_is_nan_if_nothing_is_accepted() -> None:
    found = count_decisions([Event(NORMAL, NORMAL, 0.5, ATTACK, 0.5)] * 3, Thresholds(1, 1, 1, 1))
    assert (found.accepted, found.acceptance, found.offloaded_share) == (0, 0, 1)
    assert math.isnan(found.accuracy)
    assert math.isnan(found.error)


def test_the_rates_of_no_events_are_nan() -> None:
    found = count_decisions([], Thresholds(0, 0, 0, 0))
    assert found.rows == 0
    assert all(math.isnan(rate) for rate in (found.acceptance, found.offloaded_share, found.accuracy, found.error))
