import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.calibrated import CalibratedNetwork
from models.checkpoint import read_two_exits
from models.early_exit import TwoExits
from models.prediction import predict
from models.preprocessing import Identity
from offload.edge.batch import Batch
from offload.edge.edge import Edge
from offload.edge.offload_csv import make_columns
from offload.edge.second_exit import LocalSecondExit, Outcome, Query
from offload.link.protocol import MAX_EVENTS
from offload.networks.exits import ActivationsAt, FloatArray
from tests.networks import calibrated_network
from tests.offload.exits import ROUNDING, eager_exits_of, exits_of
from tests.offload.link_ends import PATIENCE, wait_until
from utils.dataset import find_distinct_vectors, read_dataset
from utils.errors import CaptureError, CloudUnavailableError
from utils.schema import CLOUD, FEATURE_COUNT, NOT_ASKED, Thresholds
from utils.stopping import Stop

CPU = torch.device("cpu")
ROWS = 200
MOBILENET, ALEXNET = "MobileNetV2WithExits", "AlexNetWithExits"
THRESHOLDS = {MOBILENET: Thresholds(0.66, 0.85, 0.7, 0.63), ALEXNET: Thresholds(0.95, 0.66, 0.77, 0.7)}
ALL_OFFLOADED = Thresholds(1.0, 1.0, 0.0, 0.0)
NONE_OFFLOADED = Thresholds(0.0, 0.0, 1.0, 1.0)
HALVES = Thresholds(0.9, 0.9, 0.9, 0.9)
CERTAIN, UNCERTAIN = 4.0, 1.0
"""Margins whose certainties are over and under ``HALVES``."""


class Legible(TwoExits):
    """A network whose margins are features: the first is exit 1's, the second exit 2's."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = Identity()
        self.halves = torch.nn.Parameter(torch.tensor([-0.5, 0.5]), requires_grad=False)

    def segment_1(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2].reshape(-1, 2, 1, 1)

    def exit_1(self, activations: Tensor) -> Tensor:
        return activations[:, 0, 0] * self.halves

    def segment_2(self, activations: Tensor) -> Tensor:
        return activations

    def exit_2(self, deeper: Tensor) -> Tensor:
        return deeper[:, 1, 0] * self.halves


def events(count: int, margin_1: float = UNCERTAIN, margin_2: float = CERTAIN) -> FloatArray:
    """Return so many different events with the same margins, features (count, 58)."""
    features = np.random.default_rng(count).random((count, FEATURE_COUNT), np.float32)
    features[:, 0], features[:, 1] = margin_1, margin_2
    return features


class LateAnswers(Query):
    """A query whose replies are here once ``done`` is set."""

    def __init__(self, logits: FloatArray) -> None:
        super().__init__((), self.answer)
        self.__dict__.update(logits=logits, done=threading.Event(), failure=None)  # it is frozen

    logits: FloatArray
    done: threading.Event
    failure: CloudUnavailableError | None

    def count_pending(self) -> int:
        return 0 if self.done.is_set() else math.ceil(len(self.logits) / MAX_EVENTS)

    def wait(self, seconds: float) -> bool:
        return self.done.wait(seconds)

    def answer(self) -> list[Outcome]:
        assert self.done.is_set()
        if self.failure is not None:
            raise self.failure
        return [(slice(0, len(self.logits)), self.logits, CLOUD, "")]


class Late(LocalSecondExit):
    """A second exit that answers on command, and records its queries and the requests then pending."""

    answered_by = CLOUD

    def __init__(self) -> None:
        super().__init__(exits_of(Legible()).second)
        self.queries: list[LateAnswers] = []
        self.pending: list[int] = []
        self.given_up = False

    def ask(self, features: FloatArray, activations: ActivationsAt) -> LateAnswers:
        one = LateAnswers(self.compute(features, activations(np.arange(len(features)))))
        self.queries.append(one)
        self.pending.append(sum(one.count_pending() for one in self.queries))
        if self.given_up:
            one.done.set()
        return one

    def give_up(self) -> None:
        """Answer all queries, so that a failed test ends."""
        self.given_up = True
        for one in self.queries:
            one.done.set()

    def waiting(self) -> list[LateAnswers]:
        return [one for one in list(self.queries) if not one.done.is_set()]


class Prompt(Late):
    """As ``Late``, but each answer comes at the moment when it is waited for; that moment is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.count_at_each_wait: list[int] = []

    def ask(self, features: FloatArray, activations: ActivationsAt) -> LateAnswers:
        one = super().ask(features, activations)

        def wait(_seconds: float) -> bool:
            if not one.done.is_set():
                self.count_at_each_wait.append(len(self.queries))
            one.done.set()
            return True

        one.__dict__["wait"] = wait
        return one


@contextmanager
def answering(
    late: Late, choose: Callable[[Sequence[LateAnswers]], LateAnswers], window: int, total: int
) -> Iterator[None]:
    """Have another thread answer, one of those under way at a time, while the window is full or all were asked."""

    def answer() -> None:
        try:
            for _ in range(total):
                wait_until(lambda: len(late.waiting()) == window or len(late.queries) == total)
                choose(late.waiting()).done.set()
        finally:
            late.give_up()

    with ThreadPoolExecutor(1) as executor:
        thread = executor.submit(answer)
        yield
        thread.result(PATIENCE)


def edge_of(second_exit: Late, thresholds: Thresholds = HALVES) -> Edge:
    return Edge(exits_of(Legible()).first, thresholds, second_exit)


def assert_same(one: Batch, other: Batch) -> None:
    for field in fields(Batch):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


@pytest.fixture(scope="module")
def mobilenet(checkpoint: Path) -> CalibratedNetwork:
    network, _ = read_two_exits(checkpoint)
    assert isinstance(network, CalibratedNetwork)
    return network


@pytest.fixture(scope="module", params=[MOBILENET, ALEXNET])
def network(request: pytest.FixtureRequest, mobilenet: CalibratedNetwork) -> CalibratedNetwork:
    return mobilenet if request.param == MOBILENET else calibrated_network(request.param)


@pytest.fixture(scope="module")
def limits(network: CalibratedNetwork) -> Thresholds:
    return THRESHOLDS[type(network.model).__name__]


@pytest.fixture(scope="module")
def features(sample: Path) -> FloatArray:
    return read_dataset(sample / "2016_03.csv").features[:ROWS]


@pytest.fixture(scope="module")
def labels(sample: Path) -> NDArray[np.int64]:
    labels = read_dataset(sample / "2016_03.csv").labels
    assert labels is not None
    return labels[:ROWS]


def local_edge(network: TwoExits, thresholds: Thresholds) -> Edge:
    return Edge(exits_of(network).first, thresholds, LocalSecondExit(exits_of(network).second))


class Never(LocalSecondExit):
    """A second exit that must not be queried."""

    def __init__(self) -> None:
        """Do nothing."""

    def ask(self, _features: FloatArray, _activations: ActivationsAt) -> LateAnswers:
        raise AssertionError("exit 2 was asked")

    def give_up(self) -> None:
        raise AssertionError("exit 2 was asked")


def softmax(logits: list[float]) -> tuple[int, float]:
    """Return the class and its probability, plainly."""
    weights = [math.exp(value) for value in logits]
    prediction = 0 if weights[0] >= weights[1] else 1
    return prediction, weights[prediction] / sum(weights)


def plain_row(limits: Thresholds, logits_1: list[float], logits_2: list[float]) -> tuple[object, ...]:
    """Return what the offload CSV must hold of an event, decided as the data contract words it."""
    least_1 = {0: limits.normal_exit_1, 1: limits.attack_exit_1}
    least_2 = {0: limits.normal_exit_2, 1: limits.attack_exit_2}
    prediction_1, certainty_1 = softmax(logits_1)
    if certainty_1 >= least_1[prediction_1]:
        return certainty_1, prediction_1, NOT_ASKED, NOT_ASKED, certainty_1, prediction_1
    prediction_2, certainty_2 = softmax(logits_2)
    final = prediction_2 if certainty_2 >= least_2[prediction_2] else "rejected"
    return certainty_1, prediction_1, certainty_2, prediction_2, certainty_2, final


def is_tie(logits: NDArray[np.floating]) -> bool:
    """Return whether two logits are equal up to rounding."""
    return abs(float(logits[0] - logits[1])) < 1e-6 * (1 + float(np.abs(logits).max()))


def test_every_row_follows_the_decision_rule(
    network: CalibratedNetwork, limits: Thresholds, features: FloatArray, labels: NDArray[np.int64]
) -> None:
    table = pd.DataFrame(make_columns(local_edge(network, limits).decide(Batch(features, labels))))
    logits_1, logits_2 = predict(network, features, ROWS)
    fates, decisive = set(), 0
    assert len(table) == ROWS
    for row, first, second, label in zip(table.itertuples(index=False), logits_1, logits_2, labels, strict=True):
        if is_tie(first) or is_tie(second):
            continue  # which class is predicted is up to the processor's rounding
        decisive += 1
        expected = (*plain_row(limits, first.tolist(), second.tolist()), int(label))
        for found, wanted in zip(row, expected, strict=True):
            if isinstance(wanted, float):
                assert found == pytest.approx(wanted, abs=ROUNDING)
            else:
                assert found == wanted
        fates.add((expected[2] == NOT_ASKED, expected[5]))
    assert decisive > ROWS / 2
    assert fates == {(True, 0), (True, 1), (False, 0), (False, 1), (False, "rejected")}, "the example lacks a fate"


def test_each_segment_computes_each_distinct_vector_at_most_once(
    mobilenet: CalibratedNetwork, features: FloatArray
) -> None:
    computed: Counter[str] = Counter()

    def count(name: str, module: torch.nn.Module) -> torch.utils.hooks.RemovableHandle:
        def on_forward(_module: object, inputs: tuple[Tensor, ...], _output: object) -> None:
            computed[name] += len(inputs[0])

        return module.register_forward_hook(on_forward)

    inner = mobilenet.model
    parts = {"transform": inner.transform, "segment 1": inner.backbone[0], "segment 2": inner.backbone[1]}
    parts |= {"exit 1": inner.exits[0], "exit 2": inner.exits[1]}
    handles = [count(name, module) for name, module in parts.items()]
    try:
        exits = eager_exits_of(mobilenet)
        verdicts = Edge(exits.first, THRESHOLDS[MOBILENET], LocalSecondExit(exits.second)).decide(Batch(features))
    finally:
        for handle in handles:
            handle.remove()
    first, _ = find_distinct_vectors(features)
    distinct, offloaded = len(first), int(verdicts.uncertain[first].sum())
    assert 0 < offloaded < distinct < ROWS
    assert computed == {
        "transform": distinct,
        "segment 1": distinct,
        "exit 1": distinct,
        "segment 2": offloaded,
        "exit 2": offloaded,
    }


def test_exit_2_is_queried_once_and_only_about_uncertain_events() -> None:
    queries: list[tuple[FloatArray, FloatArray]] = []

    class Asking(Prompt):
        def ask(self, features: FloatArray, activations: ActivationsAt) -> LateAnswers:
            queries.append((features, activations(np.arange(len(features)))))
            return super().ask(features, activations)

    batch = np.concatenate([events(5, CERTAIN), events(7), events(5, -CERTAIN)])
    verdicts = next(edge_of(Asking()).decide_all([Batch(np.concatenate([batch, batch]))], 1, Stop()))
    ((features, activations),) = queries
    assert verdicts.uncertain.tolist() == 2 * (5 * [False] + 7 * [True] + 5 * [False])
    assert sorted(map(tuple, features.tolist())) == sorted(map(tuple, events(7).tolist()))
    assert (activations.reshape(-1, 2) == features[:, :2]).all()
    assert activations.shape == (7, 2, 1, 1)
    assert activations.dtype == np.float32


def test_equal_events_get_equal_verdicts(features: FloatArray, network: CalibratedNetwork, limits: Thresholds) -> None:
    order = np.random.default_rng(1).integers(0, ROWS, 3 * ROWS)
    edge = local_edge(network, limits)
    once, often = edge.decide(Batch(features)), edge.decide(Batch(features[order]))
    assert np.allclose(often.certainty, once.certainty[order], rtol=0, atol=ROUNDING)
    assert (often.prediction == once.prediction[order]).all()
    assert (often.rejected == once.rejected[order]).all()


def test_exit_2_is_not_queried_if_no_event_is_uncertain(network: CalibratedNetwork, features: FloatArray) -> None:
    verdicts = Edge(exits_of(network).first, NONE_OFFLOADED, Never()).decide(Batch(features))
    assert not verdicts.uncertain.any()
    assert not verdicts.rejected.any()
    assert set(verdicts.decider) == {"edge"}


def test_every_event_can_be_offloaded(network: CalibratedNetwork, features: FloatArray) -> None:
    verdicts = local_edge(network, ALL_OFFLOADED).decide(Batch(features))
    assert verdicts.uncertain.all()
    assert set(verdicts.decider) == {"local"}
    assert np.array_equal(verdicts.prediction, verdicts.prediction_2)


def test_a_certainty_equal_to_its_threshold_is_accepted(network: CalibratedNetwork, features: FloatArray) -> None:
    certainties = local_edge(network, NONE_OFFLOADED).decide(Batch(features[:1])).certainty_1
    exact, above = float(certainties[0]), math.nextafter(float(certainties[0]), 2.0)
    assert (
        not Edge(exits_of(network).first, Thresholds(exact, exact, 1, 1), Never())
        .decide(Batch(features[:1]))
        .uncertain.any()
    )
    assert local_edge(network, Thresholds(above, above, 1, 1)).decide(Batch(features[:1])).uncertain.all()


@pytest.mark.parametrize("choose", [lambda all_: all_[0], lambda all_: all_[-1], random.Random(5).choice])
@pytest.mark.parametrize("size", [1, 10])
def test_batches_are_yielded_in_order_whatever_the_order_of_replies(
    choose: Callable[[Sequence[LateAnswers]], LateAnswers], size: int
) -> None:
    rng = np.random.default_rng(0)
    batches = [events(size) for _ in range(30)]
    for number, batch in enumerate(batches):
        batch[:, 0], batch[:, 1] = rng.uniform(-3, 3, size), rng.uniform(-4, 4, size)
        batch[0, :2] = 0.0, number / 10  # at least one is uncertain, and none is like another batch's
    late = Late()
    with answering(late, choose, window=4, total=len(batches)):
        found = list(edge_of(late).decide_all(map(Batch, batches), 4, Stop()))
    expected = [edge_of(Prompt()).decide_all([Batch(batch)], 1, Stop()) for batch in batches]
    for one, (other,) in zip(found, expected, strict=True):
        assert_same(one, other)
    assert max(late.pending) == 4


@pytest.mark.parametrize("size", [9, MAX_EVENTS // 2])
def test_exit_1_continues_until_the_window_is_full(size: int) -> None:
    prompt = Prompt()
    assert len(list(edge_of(prompt).decide_all([Batch(events(size)) for _ in range(12)], 3, Stop()))) == 12
    assert prompt.count_at_each_wait == [*range(3, 12), 12, 12, 12]
    assert max(prompt.pending) == 3


@pytest.mark.parametrize(
    ("sizes", "window", "most"),
    [
        ([10, 3 * MAX_EVENTS, 10, 10], 2, 3),  # the large one alone
        ([MAX_EVENTS + 1] * 4, 3, 2),  # two of two requests each would be four
        ([MAX_EVENTS] * 5, 2, 2),
        ([MAX_EVENTS // 2] * 7, 3, 3),
    ],
)
def test_a_batch_with_more_requests_than_the_window_is_decided_alone(sizes: list[int], window: int, most: int) -> None:
    prompt = Prompt()
    batches = [events(size) for size in sizes]
    found = list(edge_of(prompt).decide_all(map(Batch, batches), window, Stop()))
    assert [len(verdicts) for verdicts in found] == sizes
    assert max(prompt.pending) == most


@pytest.mark.parametrize("size", [1, 100])
def test_certain_batches_behind_a_waiting_one_are_limited_by_the_window(
    size: int,
) -> None:
    prompt, taken = Prompt(), 0

    def batches() -> Iterator[FloatArray]:
        nonlocal taken
        uncertain, certain = events(size), events(size, CERTAIN)
        for taken in range(3 * MAX_EVENTS // size):
            yield certain if taken else uncertain

    deciding = edge_of(prompt).decide_all(map(Batch, batches()), 2, Stop())
    assert len(next(deciding)) == size
    assert 2 * MAX_EVENTS - size < taken * size <= 2 * MAX_EVENTS
    assert sum(1 for _ in deciding) == taken


def test_a_batch_of_certain_events_is_yielded_at_once() -> None:
    taken = []

    def batches() -> Iterator[FloatArray]:
        for number in range(5):
            taken.append(number)
            yield events(3, CERTAIN)

    deciding = Edge(exits_of(Legible()).first, HALVES, Never()).decide_all(map(Batch, batches()), 8, Stop())
    next(deciding)
    assert taken == [0, 1]


def test_a_failed_request_raises_after_the_earlier_batches() -> None:
    late = Late()
    deciding = edge_of(late).decide_all([Batch(events(2)) for _ in range(9)], 4, Stop())
    with ThreadPoolExecutor(1) as executor:
        first = executor.submit(next, deciding)
        wait_until(lambda: len(late.queries) == 4)
        late.queries[2].failure = CloudUnavailableError("no worker answered", "timed-out")
        for one in late.queries[::-1]:
            one.done.set()
        assert first.result(PATIENCE).decider.tolist() == ["cloud", "cloud"]
    next(deciding)
    with pytest.raises(CloudUnavailableError, match="no worker answered"):
        next(deciding)


def test_an_empty_batch_only_yields_finished_batches() -> None:
    late, nothing = Late(), events(0)
    taken = []

    def batches() -> Iterator[FloatArray]:
        yield events(2)
        for number in range(3):
            taken.append(number)
            if number == 1:
                late.queries[0].done.set()
            yield nothing
        yield events(3, CERTAIN)

    deciding = edge_of(late).decide_all(map(Batch, batches()), 8, Stop())
    assert len(next(deciding)) == 2
    assert taken == [0, 1]
    assert [len(verdicts) for verdicts in deciding] == [3]
    assert len(late.queries) == 1


@pytest.mark.parametrize(
    ("window", "answered", "out"),
    [
        (2, (), 0),  # the window is full
        (8, (), 0),  # all batches were taken
        (8, (0, 1, 3), 2),  # the last of these is behind one that still waits
    ],
)
def test_at_the_drain_deadline_waiting_batches_are_left_undecided(
    window: int, answered: tuple[int, ...], out: int
) -> None:
    stop, late = Stop(drain_timeout=0.5), Late()
    with ThreadPoolExecutor(1) as executor:
        found = executor.submit(list, edge_of(late).decide_all([Batch(events(2)) for _ in range(5)], window, stop))
        try:
            wait_until(lambda: len(late.queries) == min(window, 5))
            for number in answered:
                late.queries[number].done.set()
            begun = time.monotonic()
            stop.request()
            assert len(found.result(PATIENCE)) == out
            assert time.monotonic() - begun >= 0.5
        finally:
            late.give_up()


def test_at_the_drain_deadline_live_batches_are_decided_without_the_cloud() -> None:
    stop, late = Stop(drain_timeout=0.3), Late()

    def batches() -> Iterator[FloatArray]:
        yield events(2)
        yield events(3)
        stop.request()
        while True:
            yield events(0) if not stop.is_over else events(4)

    deciding = edge_of(late).decide_all(map(Batch, batches()), 8, stop, to_the_end=True)
    assert [len(verdicts) for verdicts in deciding] == [2, 3]
    assert late.given_up


def test_batches_before_a_failure_of_the_source_are_decided_first() -> None:
    prompt = Prompt()

    def batches() -> Iterator[FloatArray]:
        yield events(2)
        yield events(3)
        raise CaptureError("eth0: the interface was removed")

    deciding = edge_of(prompt).decide_all(map(Batch, batches()), 8, Stop())
    assert [len(next(deciding)), len(next(deciding))] == [2, 3]
    with pytest.raises(CaptureError, match="was removed"):
        next(deciding)


def test_a_caller_can_stop_deciding_at_any_batch() -> None:
    late = Late()
    deciding = edge_of(late).decide_all((Batch(events(2)) for _ in range(9)), 2, Stop())
    with ThreadPoolExecutor(1) as executor:
        first = executor.submit(next, deciding)
        wait_until(lambda: len(late.queries) == 2)
        late.queries[0].done.set()
        first.result(PATIENCE)
    deciding.close()  # type: ignore[attr-defined]
    assert list(deciding) == []
    late.queries[1].done.set()  # of interest to no one any more
    assert len(late.queries) == 2
