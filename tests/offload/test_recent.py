"""What was answered lately is neither computed nor asked again, and the verdicts stay what they are."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.calibrated import CalibratedNetwork
from models.checkpoint import read_two_exits
from offload.edge import Edge
from offload.exits import AtExit1, FloatArray
from offload.recent import Recent, RecentFirstExit, RecentOwnSecondExit, RecentSecondExit, keys_of
from offload.second_exit import ActivationsAt, Answered, Answers, LocalSecondExit
from tests.offload.exits import exits_of
from tests.offload.test_edge import MOBILENET, THRESHOLDS
from utils.dataset import read_dataset
from utils.schema import CLOUD, FEATURE_COUNT, LOCAL


def vectors(*numbers: int) -> FloatArray:
    """Return a vector (58) for each number, the same for the same."""
    features = np.zeros((len(numbers), FEATURE_COUNT), dtype=np.float32)
    features[:, 7] = numbers
    return features


def logits_of(features: FloatArray) -> FloatArray:
    numbers: FloatArray = features[:, 7]
    return np.stack([numbers, -numbers], axis=1)


class Counting:
    """Exit 1 and exit 2 of vectors by number, which note what they computed."""

    def __init__(self) -> None:
        self.computed: list[float] = []
        self.activations: list[float] = []
        self.at_exit_2: list[float] = []

    def __call__(self, features: FloatArray) -> AtExit1:
        self.computed += features[:, 7].tolist()

        def activations(rows: NDArray[np.intp]) -> FloatArray:
            self.activations += features[rows, 7].tolist()
            chosen: FloatArray = features[rows, 7].reshape(-1, 1, 1, 1)
            return chosen

        return AtExit1(logits_of(features), activations)

    def of_features(self, features: FloatArray) -> FloatArray:
        self.at_exit_2 += features[:, 7].tolist()
        return logits_of(features)

    def of_activations(self, activations: FloatArray) -> FloatArray:
        self.at_exit_2 += activations.ravel().tolist()
        return logits_of(vectors(*activations.ravel().astype(int).tolist()))


# The table


@given(st.integers(1, 5), st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=7, unique=True), max_size=12))
def test_it_holds_those_that_were_used_last(size: int, searches: list[list[int]]) -> None:
    recent, expected = Recent(size), OrderedDict[int, None]()
    for numbers in searches:
        features = vectors(*numbers)
        known, logits = recent.find(keys_of(features))
        assert known.tolist() == [number in expected for number in numbers]
        np.testing.assert_array_equal(logits[known], logits_of(features)[known])
        assert np.isnan(logits[~known]).all()
        recent.put(keys_of(features), logits_of(features))
        for number in numbers:
            expected[number] = None
            expected.move_to_end(number)
        while len(expected) > size:
            expected.popitem(last=False)
        assert len(recent) == len(expected) <= size


def test_what_was_searched_for_stays_longer_than_what_was_not() -> None:
    recent = Recent(2)
    recent.put(keys_of(vectors(1, 2)), logits_of(vectors(1, 2)))
    recent.find(keys_of(vectors(1)))
    recent.put(keys_of(vectors(3)), logits_of(vectors(3)))
    assert recent.find(keys_of(vectors(1, 2, 3)))[0].tolist() == [True, False, True]


def test_searches_are_counted_and_told() -> None:
    told: list[tuple[int, int]] = []
    recent = Recent(9, lambda found, missed: told.append((found, missed)))
    recent.find(keys_of(vectors(1, 2)))
    recent.put(keys_of(vectors(1, 2)), logits_of(vectors(1, 2)))
    recent.find(keys_of(vectors(2, 3, 1)))
    assert told == [(0, 2), (2, 1)]
    assert (recent.found, recent.missed) == (2, 3)


def test_vectors_that_differ_in_one_bit_are_two() -> None:
    features = vectors(1)
    other = np.nextafter(features, np.float32(2))
    recent = Recent(9)
    recent.put(keys_of(features), logits_of(features))
    assert not recent.find(keys_of(other))[0].any()


# Exit 1


def test_exit_1_is_computed_once_for_each_vector() -> None:
    counting = Counting()
    exit_1 = RecentFirstExit(counting, Recent(9))
    for numbers in ((1, 2), (2, 3), (3, 1)):
        np.testing.assert_array_equal(exit_1(vectors(*numbers)).logits, logits_of(vectors(*numbers)))
    assert counting.computed == [1, 2, 3]


@pytest.mark.parametrize("numbers", [(2, 3, 1, 4), (1, 2), (3, 4)])
def test_activations_of_what_was_remembered_are_computed_where_they_are_asked_for(numbers: tuple[int, ...]) -> None:
    counting = Counting()
    exit_1 = RecentFirstExit(counting, Recent(9))
    exit_1(vectors(1, 2))
    at_exit_1 = exit_1(vectors(*numbers))
    assert counting.activations == []
    rows = np.arange(len(numbers))[::-1]
    assert at_exit_1.activations(rows).ravel().tolist() == list(reversed(numbers))
    assert sorted(counting.activations) == sorted(numbers)


# Exit 2


class Asking:
    """Answers as it is told, and notes what it is asked."""

    def __init__(self, answered_by: str = CLOUD, failure: str = "") -> None:
        self.answered_by, self.failure = answered_by, failure
        self.asked: list[float] = []
        self.given_up = False

    def __call__(self, features: FloatArray, activations: ActivationsAt, /) -> Answered:
        rows = np.arange(len(features))
        assert activations(rows).ravel().tolist() == features[:, 7].tolist()
        self.asked += features[:, 7].tolist()
        return Answered(Answers.all_by(logits_of(features), self.answered_by, self.failure))

    def give_up(self) -> None:
        self.given_up = True


def ask(second_exit: RecentSecondExit, *numbers: int) -> Answers:
    features = vectors(*numbers)
    asked = second_exit(features, lambda rows: features[rows, 7].reshape(-1, 1, 1, 1))
    assert asked.wait(0) and asked.under_way() == 0
    answers = asked.answers()
    np.testing.assert_array_equal(answers.logits, logits_of(features))
    return answers


def test_the_cloud_is_asked_once_about_each_vector() -> None:
    asking = Asking()
    second_exit = RecentSecondExit(asking, CLOUD, Recent(9))
    for numbers in ((1, 2), (3, 2, 4), (4, 3, 1)):
        answers = ask(second_exit, *numbers)
        assert set(answers.answered_by) == {CLOUD} and set(answers.failure) == {""}
    assert asking.asked == [1, 2, 3, 4]


def test_what_the_cloud_did_not_answer_is_asked_again_and_told_as_it_was() -> None:
    asking = Asking()
    second_exit = RecentSecondExit(asking, CLOUD, Recent(9))
    ask(second_exit, 1)
    asking.answered_by, asking.failure = LOCAL, "no-connection"
    answers = ask(second_exit, 2, 1, 3)
    assert answers.answered_by.tolist() == [LOCAL, CLOUD, LOCAL]
    assert answers.failure.tolist() == ["no-connection", "", "no-connection"]
    asking.answered_by, asking.failure = CLOUD, ""
    ask(second_exit, 3, 2)
    assert asking.asked == [1, 2, 3, 3, 2]


def test_giving_up_reaches_who_is_asked() -> None:
    asking = Asking()
    RecentSecondExit(asking, CLOUD, Recent(9)).give_up()
    assert asking.given_up


def test_a_workers_repeats_are_computed_once_within_and_across_batches() -> None:
    counting = Counting()
    exit_2 = RecentOwnSecondExit(counting, Recent(9))
    for numbers in ((2, 1, 2, 2), (3, 1, 3), (1, 2, 3)):
        np.testing.assert_array_equal(exit_2.of_features(vectors(*numbers)), logits_of(vectors(*numbers)))
    assert sorted(counting.at_exit_2) == [1, 2, 3]
    exit_2.of_activations(np.ones((2, 1, 1, 1), np.float32))
    assert len(counting.at_exit_2) == 5


# The whole


@pytest.mark.parametrize("batch_size", [1, 40])
def test_verdicts_are_the_same_with_and_without_a_memory(checkpoint: Path, sample: Path, batch_size: int) -> None:
    network, _ = read_two_exits(checkpoint)
    assert isinstance(network, CalibratedNetwork)
    features = read_dataset(sample / "2016_03.csv").features[:200]
    limits, exit_1 = THRESHOLDS[MOBILENET], exits_of(network).first
    local = LocalSecondExit(exits_of(network).second)
    memory = Recent(50), Recent(50)
    plain = Edge(exit_1, limits, local)
    ours = Edge(RecentFirstExit(exit_1, memory[0]), limits, RecentSecondExit(local, LOCAL, memory[1]))
    for start in range(0, len(features), batch_size):
        batch = features[start : start + batch_size]
        expected, found = plain.decide(batch), ours.decide(batch)
        for name in ("prediction_1", "prediction_2", "uncertain", "answered_by", "failure", "rejected"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
        # The same vector in a pass of another size is rounded otherwise.
        np.testing.assert_allclose(found.certainty_1, expected.certainty_1, rtol=0, atol=5e-5)
        np.testing.assert_allclose(found.certainty_2, expected.certainty_2, rtol=0, atol=5e-5)
    assert memory[0].found > 20 and memory[1].found > 5
