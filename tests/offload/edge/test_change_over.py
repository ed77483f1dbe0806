"""The edge changes to another network between two batches, while batches of the old one wait for replies."""

import threading
from collections.abc import Iterator

import numpy as np
import torch

from offload.edge.batch import EMPTY_BATCH, Batch
from offload.edge.edge import Deciding, Edge
from offload.edge.second_exit import LocalSecondExit
from offload.networks.cache import Cache
from tests.offload.edge.test_edge import HALVES, UNCERTAIN, Late, Legible, events
from tests.offload.exits import exits_of
from utils.schema import Thresholds
from utils.stopping import Stop


class Mirrored(Legible):
    """Predicts the other class."""

    def __init__(self) -> None:
        super().__init__()
        self.halves = torch.nn.Parameter(-self.halves, requires_grad=False)


STRICT = Thresholds(1.0, 1.0, 1.0, 1.0)
"""Rejects all events."""


def deciding_by(
    network: Legible, release: str, thresholds: Thresholds = HALVES, cache: Cache | None = None
) -> Deciding:
    exits = exits_of(network)
    return Deciding(exits.first, thresholds, LocalSecondExit(exits.second), cache, None, release)


def edge_of(deciding: Deciding) -> Edge:
    return Edge(**vars(deciding))


def test_a_batch_under_way_is_finished_by_the_network_with_which_it_began() -> None:
    late, changes = Late(), list[str]()
    edge = Edge(exits_of(Legible()).first, HALVES, late, release="r1")

    def batches() -> Iterator[Batch]:
        yield Batch(events(5, UNCERTAIN))
        edge.change_to(deciding_by(Mirrored(), "r2", STRICT), lambda: changes.append("r2"))
        yield EMPTY_BATCH
        assert changes == ["r2"]  # also while no events come
        yield Batch(events(6, UNCERTAIN))
        late.queries[0].done.set()

    first, second = edge.decide_all(batches(), 8, Stop())
    assert [batch.release for batch in (first, second)] == ["r1", "r2"]
    assert len(late.queries) == 1
    assert not first.rejected.any() and second.rejected.all()
    assert (first.prediction_2 == 1 - second.prediction_2[:5]).all()
    assert changes == ["r2"]


def test_logits_of_the_old_network_are_not_served_to_the_new_one() -> None:
    features, cache = events(5, UNCERTAIN), Cache(9)
    edge = edge_of(deciding_by(Legible(), "r1", cache=cache))
    before, again = edge.decide(Batch(features)), edge.decide(Batch(features))
    edge.change_to(deciding_by(Mirrored(), "r2", cache=cache.make_empty()), lambda: None)
    after, once_more = edge.decide(Batch(features)), edge.decide(Batch(features))
    for exit_number in (1, 2):
        found = [getattr(batch, f"prediction_{exit_number}") for batch in (before, again, after, once_more)]
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[0], 1 - found[2])
        np.testing.assert_array_equal(found[2], found[3])
    assert (cache.hits, cache.misses) == ([10, 10], [10, 10])


def test_a_late_reply_of_the_old_network_does_not_reach_the_new_cache() -> None:
    features, late, cache = events(5, UNCERTAIN), Late(), Cache(9)
    edge = Edge(exits_of(Legible()).first, HALVES, late, cache, release="r1")
    new = deciding_by(Mirrored(), "r2", cache=cache.make_empty())

    def batches() -> Iterator[Batch]:
        yield Batch(features)
        edge.change_to(new, lambda: None)
        yield Batch(features)
        late.queries[0].done.set()
        yield Batch(features[:0])
        yield Batch(features)

    first, *others = edge.decide_all(batches(), 8, Stop())
    assert [batch.release for batch in others] == ["r2", "r2"]
    for batch in others:
        np.testing.assert_array_equal(batch.prediction_2, 1 - first.prediction_2)


def test_the_edge_changes_in_its_own_thread_to_the_last_of_several_releases() -> None:
    edge, threads = edge_of(deciding_by(Legible(), "r1")), list[str]()
    for number in range(2, 5):
        edge.change_to(deciding_by(Legible(), f"r{number}"), lambda: threads.append(threading.current_thread().name))
    assert [edge.decide(Batch(events(3))).release for _ in range(2)] == ["r4", "r4"]
    assert threads == [threading.current_thread().name]
    assert edge.thresholds == HALVES
