"""Repeated vectors are served from the cache, and the verdicts do not change."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.calibrated import CalibratedNetwork
from models.checkpoint import read_two_exits
from offload.edge.batch import Batch
from offload.edge.edge import Edge
from offload.edge.second_exit import LocalSecondExit, Outcome, Query
from offload.link.protocol import Limits
from offload.link.responder import Responder
from offload.networks.cache import Cache, make_keys
from offload.networks.exits import ActivationsAt, FloatArray
from tests.offload.edge.test_edge import MOBILENET, THRESHOLDS
from tests.offload.exits import exits_of
from tests.offload.link_ends import FINGERPRINT, make_request
from utils.dataset import read_dataset
from utils.schema import CLOUD, FEATURE_COUNT, LOCAL, Thresholds

ALL_UNCERTAIN = Thresholds(1.0, 1.0, 0.5, 0.5)
"""All events of ``Counting`` are uncertain at exit 1, and accepted at exit 2."""


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

    def __call__(self, features: FloatArray) -> tuple[FloatArray, ActivationsAt]:
        self.computed += features[:, 7].tolist()

        def activations(rows: NDArray[np.intp]) -> FloatArray:
            self.activations += features[rows, 7].tolist()
            chosen: FloatArray = features[rows, 7].reshape(-1, 1, 1, 1)
            return chosen

        return logits_of(features), activations

    def compute_from_features(self, features: FloatArray) -> FloatArray:
        self.at_exit_2 += features[:, 7].tolist()
        return logits_of(features)

    def compute_from_activations(self, activations: FloatArray) -> FloatArray:
        self.at_exit_2 += activations.ravel().tolist()
        return logits_of(vectors(*activations.ravel().astype(int).tolist()))


# The cache


@given(st.integers(1, 5), st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=7, unique=True), max_size=12))
def test_the_cache_holds_the_most_recently_used_vectors(size: int, lookups: list[list[int]]) -> None:
    cache, expected = Cache(size), OrderedDict[int, None]()
    for numbers in lookups:
        features = vectors(*numbers)
        logits = cache.find(make_keys(features))[:, 0]
        known = np.array([number in expected for number in numbers])
        assert cache.find_missing(1, logits).tolist() == np.flatnonzero(~known).tolist()
        np.testing.assert_array_equal(logits[known], logits_of(features)[known])
        cache.put(make_keys(features), 1, logits_of(features))
        for number in numbers:
            expected[number] = None
            expected.move_to_end(number)
        while len(expected) > size:
            expected.popitem(last=False)
        assert len(cache) == len(expected) <= size


def test_a_lookup_postpones_the_eviction_of_a_vector() -> None:
    cache = Cache(2)
    cache.put(make_keys(vectors(1, 2)), 1, logits_of(vectors(1, 2)))
    cache.find(make_keys(vectors(1)))
    cache.put(make_keys(vectors(3)), 1, logits_of(vectors(3)))
    assert np.isnan(cache.find(make_keys(vectors(1, 2, 3)))[:, 0, 0]).tolist() == [False, True, False]


def test_the_exits_of_a_vector_are_stored_separately_and_evicted_together() -> None:
    cache, keys = Cache(1), make_keys(vectors(1, 2))
    cache.put(keys[:1], 1, logits_of(vectors(1)))
    assert np.isnan(cache.find(keys[:1])[0, 1]).all()
    cache.put(keys[:1], 2, 2 * logits_of(vectors(1)))
    np.testing.assert_array_equal(cache.find(keys[:1])[0], [[1, -1], [2, -2]])
    cache.put(keys[1:], 2, logits_of(vectors(2)))
    assert np.isnan(cache.find(keys)[0]).all()
    assert np.isnan(cache.find(keys)[1]).all(axis=1).tolist() == [True, False]


def test_lookups_are_counted_and_reported() -> None:
    reported: list[tuple[int, int, int]] = []
    cache = Cache(9, lambda *counts: reported.append(counts))
    cache.find_missing(1, cache.find(make_keys(vectors(1, 2)))[:, 0])
    cache.put(make_keys(vectors(1, 2)), 1, logits_of(vectors(1, 2)))
    cache.find_missing(1, cache.find(make_keys(vectors(2, 3, 1)))[:, 0])
    cache.find_missing(2, cache.find(make_keys(vectors(1)))[:, 1])
    assert reported == [(1, 0, 2), (1, 2, 1), (2, 0, 1)]
    assert (cache.hits, cache.misses) == ([2, 0], [3, 1])


def test_vectors_that_differ_in_one_bit_are_different_keys() -> None:
    features = vectors(1)
    cache = Cache(9)
    cache.put(make_keys(features), 1, logits_of(features))
    assert np.isnan(cache.find(make_keys(np.nextafter(features, np.float32(2))))).all()


# The edge


class Asking(LocalSecondExit):
    """A second exit with given answers, which records its queries."""

    answered_by = CLOUD

    def __init__(self, decider: str = CLOUD, failure: str = "") -> None:
        self.decider, self.failure = decider, failure
        self.queried: list[float] = []

    def ask(self, features: FloatArray, activations: ActivationsAt) -> Query:
        rows = np.arange(len(features))[::-1]
        assert activations(rows).ravel().tolist() == features[rows, 7].tolist()
        self.queried += features[:, 7].tolist()
        outcome: Outcome = (slice(0, len(features)), logits_of(features), self.decider, self.failure)
        return Query((), lambda: [outcome])


def decide(edge: Edge, *numbers: int) -> Batch:
    batch = edge.decide(Batch(vectors(*numbers)))
    assert batch.prediction_2.tolist() == logits_of(vectors(*numbers)).argmax(axis=1).tolist()
    return batch


def test_each_exit_is_computed_once_for_each_vector() -> None:
    counting, asking = Counting(), Asking()
    edge = Edge(counting, ALL_UNCERTAIN, asking, Cache(9))
    for numbers in ((1, 2), (3, 2, 4), (4, 3, 1)):
        batch = decide(edge, *numbers)
        assert set(batch.answered_by) == {CLOUD} and set(batch.failure) == {""}
    assert sorted(counting.computed) == sorted(asking.queried) == [1, 2, 3, 4]


def test_activations_are_computed_on_demand_if_exit_1_was_cached() -> None:
    counting, asking = Counting(), Asking("", "no-connection")
    edge = Edge(counting, ALL_UNCERTAIN, asking, Cache(9))
    edge.decide(Batch(vectors(1, 2)))
    counting.activations.clear()
    for numbers in ((2, 3, 1, 4), (1, 2), (5, 6)):
        edge.decide(Batch(vectors(*numbers)))
        assert sorted(counting.activations) == sorted(numbers)
        counting.activations.clear()


def test_a_failed_request_is_not_cached_and_is_sent_again() -> None:
    asking = Asking()
    edge = Edge(Counting(), ALL_UNCERTAIN, asking, Cache(9))
    decide(edge, 1)
    asking.decider, asking.failure = LOCAL, "no-connection"
    batch = decide(edge, 2, 1, 3)
    assert batch.answered_by.tolist() == [LOCAL, CLOUD, LOCAL]
    assert batch.failure.tolist() == ["no-connection", "", "no-connection"]
    asking.decider, asking.failure = CLOUD, ""
    decide(edge, 3, 2)
    assert sorted(asking.queried) == [1, 2, 2, 3, 3]


# The worker


def test_a_worker_computes_repeated_vectors_once_within_and_across_batches() -> None:
    counting = Counting()
    responder = Responder(counting, Limits(FINGERPRINT, (1, 1, 1)), "worker", Cache(9))
    for numbers in ((2, 1, 2, 2), (3, 1, 3), (1, 2, 3)):
        features = vectors(*numbers)
        computed = responder._compute_features(features)
        np.testing.assert_array_equal(computed, logits_of(features))
    assert sorted(counting.at_exit_2) == [1, 2, 3]


def test_without_a_cache_a_worker_computes_every_vector() -> None:
    counting = Counting()
    Responder(counting, Limits(FINGERPRINT, (1, 1, 1)), "worker").answer([make_request(4, fill=1.0)])
    assert counting.at_exit_2 == [1, 1, 1, 1]


# The whole


@pytest.mark.parametrize("batch_size", [1, 40])
def test_verdicts_are_the_same_with_and_without_a_cache(checkpoint: Path, sample: Path, batch_size: int) -> None:
    network, _ = read_two_exits(checkpoint)
    assert isinstance(network, CalibratedNetwork)
    features = read_dataset(sample / "2016_03.csv").features[:200]
    limits, exit_1 = THRESHOLDS[MOBILENET], exits_of(network).first
    local = LocalSecondExit(exits_of(network).second)
    cache = Cache(50)
    plain, cached = Edge(exit_1, limits, local), Edge(exit_1, limits, local, cache)
    for start in range(0, len(features), batch_size):
        rows = features[start : start + batch_size]
        expected, found = plain.decide(Batch(rows)), cached.decide(Batch(rows))
        for name in ("prediction_1", "prediction_2", "uncertain", "answered_by", "failure", "rejected"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
        # The same vector in a pass of another size is rounded otherwise.
        np.testing.assert_allclose(found.certainty_1, expected.certainty_1, rtol=0, atol=5e-5)
        np.testing.assert_allclose(found.certainty_2, expected.certainty_2, rtol=0, atol=5e-5)
    assert cache.hits[0] > 20 and cache.hits[1] > 5
