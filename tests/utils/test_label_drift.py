import numpy as np
import pytest
from scipy import stats

from utils.label_drift import LEVEL, find_unstable_vectors
from utils.labelled_rows import LabelledRows
from utils.schema import FEATURE_COUNT
from utils.traffic_reference import MAX_VECTORS


def make_month(generator: np.random.Generator, events: list[int], attacks: list[float]) -> LabelledRows:
    """Return a month in random order: so many events of each vector, each an attack with the vector's probability.

    The first feature of a vector is its number.
    """
    numbers = generator.permutation(np.repeat(np.arange(len(events)), events))
    features = np.zeros((len(numbers), FEATURE_COUNT), dtype=np.float32)
    features[:, 0] = numbers
    return LabelledRows(
        "month", features, (generator.random(len(numbers)) < np.array(attacks)[numbers]).astype(np.int64)
    )


def find(before: LabelledRows, after: LabelledRows, level: float = LEVEL) -> list[int]:
    return sorted(int(vector[0]) for vector in find_unstable_vectors(before, after, level))


def test_a_vector_that_is_wrong_more_often_is_found_and_one_that_is_not_is_left() -> None:
    generator = np.random.default_rng(1)
    before = make_month(generator, [500, 500, 500], [0.05, 0.95, 0.3])
    after = make_month(generator, [500, 500, 500], [0.25, 0.70, 0.3])
    assert find(before, after) == [0, 1]


def test_a_vector_whose_labels_turn_round_is_found_and_one_that_becomes_clearer_is_not() -> None:
    generator = np.random.default_rng(2)
    before = make_month(generator, [300, 300], [0.0, 0.4])
    assert find(before, make_month(generator, [300, 300], [1.0, 0.05])) == [0]


def test_the_probability_is_that_of_fishers_exact_test() -> None:
    # Before: 10 of 100 events wrong; after: 22 of 80.
    before = make_month(np.random.default_rng(3), [100], [0.0])
    after = make_month(np.random.default_rng(3), [80], [0.0])
    before.labels[:10], after.labels[:22] = 1, 1
    p_value = stats.fisher_exact([[22, 58], [10, 90]], alternative="greater").pvalue
    assert find(before, after, p_value * 1.0001) == [0]
    assert find(before, after, p_value * 0.9999) == []


@pytest.mark.parametrize("attacks", [0.02, 0.1, 0.4])
def test_stable_labels_are_reported_no_more_often_than_stated(attacks: float) -> None:
    generator, runs, level = np.random.default_rng(4), 1000, 0.05
    found = 0
    for _ in range(runs):
        before, after = (make_month(generator, [80, 300], [attacks, 1 - attacks]) for _ in range(2))
        found += len(find(before, after, level))
    assert found <= stats.binom.ppf(0.999, 2 * runs, level)


def test_a_vector_is_tested_only_if_it_is_frequent_and_was_there_before() -> None:
    generator = np.random.default_rng(5)
    before = make_month(generator, [2000, 19, 0, 21], [0.0, 0.0, 0.0, 0.0])
    after = make_month(generator, [1941, 19, 19, 21], [0.0, 1.0, 1.0, 1.0])
    assert find(before, after) == [3], "1 % of 2,000 rows are 20"


def test_of_many_frequent_vectors_only_those_are_tested_that_a_reference_holds() -> None:
    generator, count = np.random.default_rng(6), MAX_VECTORS + 4
    events = [100 - number for number in range(count)]
    before, after = (make_month(generator, events, [attacks] * count) for attacks in (0.0, 1.0))
    assert find(before, after) == list(range(MAX_VECTORS))


def test_months_without_a_common_vector_have_nothing_to_report() -> None:
    generator = np.random.default_rng(7)
    assert find(make_month(generator, [50, 0], [0.0, 0.0]), make_month(generator, [0, 50], [0.0, 1.0])) == []
