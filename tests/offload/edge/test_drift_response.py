"""An edge whose traffic changes: one frequent vector becomes three times as frequent."""

from dataclasses import replace

import numpy as np
import pytest

from offload.defaults import REJECT, TIGHTEN, WARN
from offload.edge.batch import Batch
from offload.edge.drift_response import DriftResponse
from offload.edge.edge import Edge
from offload.edge.second_exit import LocalSecondExit
from offload.networks.cache import Cache
from offload.networks.exits import FloatArray
from tests.offload.edge.test_edge import CERTAIN, HALVES, Legible, events
from tests.offload.exits import exits_of
from utils.drift_watch import Alarm
from utils.schema import DRIFT, REJECTED
from utils.traffic_reference import compute_scores, make_reference

NETWORK = Legible()
FREQUENT = events(1, CERTAIN)


def make_traffic(frequent: int, others: int, seed: int) -> FloatArray:
    """Return shuffled events (n, 58) that are certain at both exits, of which so many are the frequent vector."""
    different = np.random.default_rng(seed).random((others, FREQUENT.shape[1]), np.float32)
    different[:, 0], different[:, 1] = CERTAIN, CERTAIN
    return np.random.default_rng(seed).permutation(np.concatenate((np.repeat(FREQUENT, frequent, axis=0), different)))


USUAL, CHANGED = make_traffic(200, 1800, seed=11), make_traffic(600, 1400, seed=12)


def decide(mode: str | None, *traffic: FloatArray, cache: Cache | None = None) -> tuple[list[Batch], list[Alarm]]:
    """Decide traffic in batches of 100 with a watch whose reference is ``USUAL``; return the batches and the alarms."""
    exits, alarms = exits_of(NETWORK), list[Alarm]()
    batch = Batch(USUAL)
    Edge(exits.first, HALVES, LocalSecondExit(exits.second)).decide(batch)
    reference = make_reference(USUAL, compute_scores(batch.prediction_1, batch.certainty_1), 0.06)
    drift = None if mode is None else DriftResponse(reference, mode, alarms.append)
    edge = Edge(exits.first, HALVES, LocalSecondExit(exits.second), cache, drift)
    features = np.concatenate(traffic)
    return [edge.decide(Batch(features[start : start + 100])) for start in range(0, len(features), 100)], alarms


def is_frequent(batch: Batch) -> list[bool]:
    return [bool(found) for found in (batch.features == FREQUENT).all(axis=1)]


def find_first_batch(alarms: list[Alarm], *, of_vector: bool) -> int:
    """Return the number of the batch with the first alarm of the frequent vector, or of any category."""
    return min(alarm.events for alarm in alarms if alarm.is_vector or not of_vector) // 100 - 1


@pytest.mark.parametrize("mode", [WARN, TIGHTEN, REJECT])
def test_traffic_like_the_reference_gives_no_alarm_and_is_decided_as_without_a_watch(mode: str) -> None:
    watched, alarms = decide(mode, USUAL, USUAL)
    plain, _ = decide(None, USUAL, USUAL)
    assert alarms == []
    for batch, other in zip(watched, plain, strict=True):
        assert (batch.prediction == other.prediction).all() and (batch.rejected == other.rejected).all()
        assert not batch.drifted.any()


def test_warn_gives_one_alarm_for_each_change_and_changes_no_verdict() -> None:
    batches, alarms = decide(WARN, USUAL, CHANGED)
    assert sorted((alarm.is_vector, alarm.reference) for alarm in alarms) == [(False, 0.9), (True, 0.1)]
    assert all(2000 < alarm.events <= 3000 for alarm in alarms)
    assert not any(batch.rejected.any() for batch in batches)


@pytest.mark.parametrize("size", [0, 1000])
def test_tighten_rejects_what_has_become_more_frequent_and_accepts_the_rest(size: int) -> None:
    batches, alarms = decide(TIGHTEN, USUAL, CHANGED, cache=Cache(size) if size else None)
    first = find_first_batch(alarms, of_vector=True)
    assert not any(batch.rejected.any() for batch in batches[:first])
    for batch in batches[first:]:
        assert batch.rejected.tolist() == batch.drifted.tolist() == is_frequent(batch)
        assert batch.answered.tolist() == is_frequent(batch), "exit 2 is asked about what exit 1 may not accept"
        assert set(batch.reason[batch.rejected]) == {DRIFT} and set(batch.decider[batch.rejected]) == {REJECTED}


def test_reject_accepts_nothing_after_the_alarm() -> None:
    batches, alarms = decide(REJECT, USUAL, CHANGED)
    first = find_first_batch(alarms, of_vector=False)
    assert not any(batch.rejected.any() for batch in batches[:first])
    assert all(batch.rejected.all() and batch.drifted.all() for batch in batches[first:])


def test_tighten_goes_on_accepting_what_has_become_less_frequent() -> None:
    exits, alarms = exits_of(NETWORK), list[Alarm]()
    reference = make_reference(USUAL, np.full(len(USUAL), 0.9), 0.06)
    often = replace(reference, shares=np.concatenate(([0.5], reference.shares[1:] * 0.5 / 0.9)))
    drift = DriftResponse(often, TIGHTEN, alarms.append)
    edge = Edge(exits.first, HALVES, LocalSecondExit(exits.second), None, drift)
    batches = [edge.decide(Batch(USUAL[start : start + 100])) for start in range(0, len(USUAL), 100)]
    assert alarms[0].is_vector and alarms[0].share < 0.2
    assert not any((batch.rejected & np.array(is_frequent(batch))).any() for batch in batches)


@pytest.mark.parametrize("size", [0, 1000])
@pytest.mark.parametrize("mode", [WARN, TIGHTEN, REJECT])
def test_a_vector_that_the_reference_distrusts_is_rejected_in_every_mode_without_an_alarm(mode: str, size: int) -> None:
    exits, alarms = exits_of(NETWORK), list[Alarm]()
    reference = make_reference(USUAL, np.full(len(USUAL), 0.9), 0.9, FREQUENT)
    assert reference.distrusted == (0,)
    drift, cache = DriftResponse(reference, mode, alarms.append), Cache(size) if size else None
    edge = Edge(exits.first, HALVES, LocalSecondExit(exits.second), cache, drift)
    for start in range(0, 1000, 100):
        batch = edge.decide(Batch(USUAL[start : start + 100]))
        assert any(is_frequent(batch))
        assert batch.rejected.tolist() == batch.drifted.tolist() == is_frequent(batch)
        assert set(batch.reason[batch.rejected]) == {DRIFT} and set(batch.decider[batch.rejected]) == {REJECTED}
    assert alarms == []
