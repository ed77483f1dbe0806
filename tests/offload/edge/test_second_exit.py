import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.calibrated import CalibratedNetwork
from models.checkpoint import compute_fingerprint, read_two_exits
from models.early_exit import TwoExits
from offload.defaults import FAILURE_POLICIES, PAYLOADS
from offload.edge.batch import Batch
from offload.edge.edge import Edge
from offload.edge.offload_csv import make_columns
from offload.edge.second_exit import CloudSecondExit, LocalSecondExit, Query
from offload.link.broker import Broker
from offload.link.client import Client
from offload.link.pending_requests import RetryPolicy
from offload.link.private_broker import find_free_port
from offload.link.protocol import ACTIVATIONS, FEATURES, MAX_EVENTS, Answer, Refusal, Request, RequestTemplate
from offload.link.responder import Responder
from offload.link.worker import Worker
from offload.link.worker_settings import WorkerSettings
from offload.networks.exits import FloatArray
from offload.operations.metrics import WorkerMetrics
from tests.networks import calibrated_network
from tests.offload.edge.test_edge import CERTAIN, HALVES, MOBILENET, THRESHOLDS, UNCERTAIN, Legible, events
from tests.offload.exits import ROUNDING, exits_of, served
from tests.offload.link_ends import PATIENCE, at, make_client, run_worker, wait_until
from utils.dataset import read_dataset, to_images
from utils.errors import BrokerRefusedError, CloudError, CloudUnavailableError, MessageError
from utils.stopping import Stop

ONE_TRY = RetryPolicy(attempt=PATIENCE, retries=0, deadline=PATIENCE)


class Watched(Legible):
    """Counts how often its first segment runs."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def segment_1(self, images: Tensor) -> Tensor:
        self.passes += 1
        return super().segment_1(images)


class Picky(Responder):
    """A worker's network that refuses requests of fewer events than there can be, with any code."""

    def __init__(self, code: str = "worker-failed") -> None:
        super().__init__(*served(Legible()), "picky")
        self.code = code
        self.sizes: list[int] = []

    def answer(self, requests: Sequence[Request]) -> list[Answer | Refusal]:
        self.sizes += [len(request.tensor) for request in requests]
        return [
            reply if len(request.tensor) == MAX_EVENTS else Refusal(request.request_id, self.code, "too few events")
            for request, reply in zip(requests, super().answer(requests), strict=True)
        ]


class Noting(Responder):
    """A worker's network that records its requests."""

    def __init__(self) -> None:
        super().__init__(*served(Legible()), "noting")
        self.requests: list[Request] = []

    def answer(self, requests: Sequence[Request]) -> list[Answer | Refusal]:
        self.requests += requests
        return super().answer(requests)


class Activations:
    """Computes activations when called, and counts of how many events."""

    def __init__(self, network: TwoExits, features: FloatArray) -> None:
        self._network = network
        self._features = features
        self.events = 0

    def __call__(self, rows: NDArray[np.intp]) -> FloatArray:
        self.events += len(rows)
        with torch.inference_mode():
            return self._network.segment_1(torch.from_numpy(to_images(self._features[rows]))).numpy()


def numbered(count: int) -> FloatArray:
    """Return events of which exit 2's margin is their number."""
    features = events(count)
    features[:, 1] = np.arange(count)
    return features


class Answers:
    """The outcomes of n events, joined: logits (n, 2), and for each event who answered, and why not the cloud.

    Args:
        query: query about the events, with all replies.
        count: n.
    """

    def __init__(self, query: Query, count: int) -> None:
        self.logits = np.empty((count, 2), np.float32)
        self.answered_by, self.failure = np.full(count, "?" * 8), np.full(count, "?" * 32)
        for rows, logits, answered_by, failure in query.collect():
            self.logits[rows], self.answered_by[rows], self.failure[rows] = logits, answered_by, failure


def margins(answers: Answers) -> list[float]:
    return list((answers.logits[:, 1] - answers.logits[:, 0]).tolist())


def run_worker_of(link: Broker, queue: str, responder: Responder) -> contextlib.AbstractContextManager[object]:
    return run_worker(Worker(link, queue, responder, WorkerSettings(), WorkerMetrics()))


@contextmanager
def make_unconnected_client(queue: str, retry_policy: RetryPolicy = ONE_TRY) -> Iterator[Client]:
    """Yield a client that knows that it has no broker."""
    with make_client(at(Broker(()), find_free_port()), queue, retry_policy) as client:
        yield client


def make_second_exit(
    client: Client, network: TwoExits, on_failure: str = "local", payload: str = FEATURES, *, half: bool = False
) -> CloudSecondExit:
    template = RequestTemplate(compute_fingerprint(network), "edge:1", payload, half)
    return CloudSecondExit(client, template, LocalSecondExit(exits_of(network).second), on_failure)


def ask_and_wait(second_exit: CloudSecondExit, network: TwoExits, features: FloatArray) -> Answers:
    query = second_exit.ask(features, Activations(network, features))
    assert query.wait(PATIENCE)
    assert query.count_pending() == 0
    return Answers(query, len(features))


@pytest.fixture(scope="module")
def mobilenet(checkpoint: Path) -> CalibratedNetwork:
    network, _ = read_two_exits(checkpoint)
    assert isinstance(network, CalibratedNetwork)
    return network


@pytest.fixture(scope="module", params=["MobileNetV2WithExits", "AlexNetWithExits"])
def network(request: pytest.FixtureRequest, mobilenet: CalibratedNetwork) -> CalibratedNetwork:
    return mobilenet if request.param.startswith("Mobile") else calibrated_network(request.param)


@pytest.mark.parametrize(("payload", "half"), [(FEATURES, False), (ACTIVATIONS, False), (ACTIVATIONS, True)])
def test_the_cloud_and_the_edge_compute_the_same_logits(
    link: Broker, queue: str, network: CalibratedNetwork, payload: str, half: bool
) -> None:
    features = np.random.default_rng(1).random((90, 58), np.float32)
    local = Answers(LocalSecondExit(exits_of(network).second).ask(features, Activations(network, features)), 90)
    with run_worker_of(link, queue, Responder(*served(network), "cloud")), make_client(link, queue) as client:
        answers = ask_and_wait(make_second_exit(client, network, "wait", payload, half=half), network, features)
    assert set(answers.answered_by) == {"cloud"}
    assert set(answers.failure) == {""}
    largest = np.abs(local.logits).max()
    assert np.allclose(answers.logits, local.logits, rtol=0, atol=largest * (1e-3 if half else 1e-5))
    assert not half or not np.array_equal(answers.logits, local.logits), "half of the bits change nothing"


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (1, [1]),
        (MAX_EVENTS, [MAX_EVENTS]),
        (MAX_EVENTS + 1, [MAX_EVENTS, 1]),
        (2 * MAX_EVENTS + 9, [MAX_EVENTS, MAX_EVENTS, 9]),
    ],
)
def test_many_events_are_split_into_requests_and_joined_in_order(
    link: Broker, queue: str, payload: str, count: int, sizes: list[int]
) -> None:
    noting, network = Noting(), Legible()
    with run_worker_of(link, queue, noting), make_client(link, queue) as client:
        answers = ask_and_wait(make_second_exit(client, network, "wait", payload), network, numbered(count))
    assert margins(answers) == list(range(count))
    assert [len(request.tensor) for request in noting.requests] == sizes
    assert {request.payload for request in noting.requests} == {payload}
    assert len({request.request_id for request in noting.requests}) == len(sizes)


def test_each_request_is_pending_until_it_is_answered(link: Broker, queue: str) -> None:
    network, features = Legible(), numbered(MAX_EVENTS + 1)
    with make_client(link, queue, RetryPolicy.from_options(0.5, 0, wait_timeout=PATIENCE)) as client:
        query = make_second_exit(client, network, "wait").ask(features, Activations(network, features))
        assert query.count_pending() == 2
        assert not query.wait(0)
        with run_worker_of(link, queue, Responder(*served(network), "late")):
            assert query.wait(PATIENCE)
        assert query.count_pending() == 0
        assert margins(Answers(query, len(features))) == list(range(MAX_EVENTS + 1))


@pytest.mark.parametrize("on_failure", FAILURE_POLICIES)
def test_the_cloud_may_answer_some_requests_of_a_batch_and_not_others(
    link: Broker, queue: str, on_failure: str
) -> None:
    network, picky = Legible(), Picky()
    with run_worker_of(link, queue, picky), make_client(link, queue, ONE_TRY) as client:
        second_exit = make_second_exit(client, network, on_failure)
        if on_failure == "wait":
            with pytest.raises(MessageError, match="worker-failed: the worker refused a request: too few events"):
                ask_and_wait(second_exit, network, numbered(MAX_EVENTS + 9))
            return
        answers = ask_and_wait(second_exit, network, numbered(MAX_EVENTS + 9))
    assert picky.sizes == [MAX_EVENTS, 9]
    told = list(zip(answers.answered_by.tolist(), answers.failure.tolist(), strict=True))
    instead = "local" if on_failure == "local" else ""
    assert told == [("cloud", "")] * MAX_EVENTS + [(instead, "worker-failed")] * 9
    assert margins(answers)[:MAX_EVENTS] == list(range(MAX_EVENTS))
    if on_failure == "local":
        assert margins(answers)[MAX_EVENTS:] == list(range(MAX_EVENTS, MAX_EVENTS + 9))
    else:
        assert np.isnan(answers.logits[MAX_EVENTS:]).all()


def test_exit_2_uses_the_kept_activations_if_a_request_fails_at_once(queue: str) -> None:
    network, features = Watched(), numbered(MAX_EVENTS + 9)
    activations = Activations(Legible(), features)
    with make_unconnected_client(queue) as client:
        query = make_second_exit(client, network).ask(features, activations)
        assert query.count_pending() == 0
        answers = Answers(query, len(features))
    assert activations.events == MAX_EVENTS + 9
    assert network.passes == 0
    assert margins(answers) == list(range(MAX_EVENTS + 9))
    assert set(answers.answered_by) == {"local"}
    assert set(answers.failure) == {"no-connection"}


def test_segment_1_is_computed_again_if_a_request_fails_later(link: Broker, queue: str) -> None:
    network, features = Watched(), numbered(9)
    activations = Activations(Legible(), features)
    with make_client(link, queue, ONE_TRY) as client:
        is_begun = threading.Event()
        client._sender.call_soon(lambda: is_begun.wait(PATIENCE))  # otherwise the request may fail at once
        query = make_second_exit(client, network).ask(features, activations)  # the broker will report: no queue
        is_begun.set()
        assert query.wait(PATIENCE)
        answers = Answers(query, len(features))
    assert activations.events == 0
    assert network.passes == 1
    assert margins(answers) == list(range(9))
    assert set(answers.failure) == {"no-queue"}


def test_the_policy_reject_computes_nothing(queue: str) -> None:
    network, features = Watched(), numbered(9)
    activations = Activations(Legible(), features)
    with make_unconnected_client(queue) as client:
        answers = Answers(make_second_exit(client, network, "reject").ask(features, activations), len(features))
    assert (activations.events, network.passes) == (0, 0)
    assert np.isnan(answers.logits).all()
    assert answers.logits.shape == (9, 2)
    assert set(answers.answered_by) == {""}
    assert set(answers.failure) == {"no-connection"}


def test_the_policy_wait_raises_the_failure_at_the_timeout(queue: str) -> None:
    network = Legible()
    with (
        make_unconnected_client(queue, RetryPolicy.from_options(0.2, 0, wait_timeout=0.5)) as client,
        pytest.raises(CloudUnavailableError, match="no RabbitMQ at") as raised,
    ):
        ask_and_wait(make_second_exit(client, network, "wait"), network, numbered(9))
    assert raised.value.code == "no-connection"


class Refused:
    """A client that the broker refuses, which the real broker cannot do during a run."""

    def submit(self, _request: Request) -> "Future[Answer]":
        future: Future[Answer] = Future()
        future.set_exception(BrokerRefusedError("the broker refuses the user"))
        return future


@pytest.mark.parametrize("on_failure", FAILURE_POLICIES)
def test_no_policy_covers_a_broker_that_refuses_the_client(on_failure: str) -> None:
    network = Legible()
    second_exit = make_second_exit(Refused(), network, on_failure)  # type: ignore[arg-type]
    with pytest.raises(CloudError, match="the broker refuses the user"):
        ask_and_wait(second_exit, network, numbered(9))


@pytest.mark.parametrize("on_failure", ["local", "reject"])
@pytest.mark.parametrize("code", ["", "=cmd()", "x" * 33, "Ünïcode", "a,b", "N/A"])
def test_a_refusal_with_an_invalid_code_is_reported_as_refused(
    link: Broker, queue: str, code: str, on_failure: str
) -> None:
    network = Legible()
    with run_worker_of(link, queue, Picky(code)), make_client(link, queue, ONE_TRY) as client:
        answers = ask_and_wait(make_second_exit(client, network, on_failure), network, numbered(2))
    assert set(answers.failure) == {"refused"}


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(1.0, "float16"), (-65504.0, "float16"), (65505.0, "float32"), (-1e30, "float32"), (math.inf, "float32")],
)
def test_values_beyond_half_precision_are_sent_in_single_precision(largest: float, dtype: str) -> None:
    activations = np.zeros((3, 2, 1, 1), np.float32)
    activations[1, 1] = largest
    assert (
        RequestTemplate("ab" * 32, "edge:1", ACTIVATIONS, half_precision=True).make_request(activations).tensor.dtype
        == dtype
    )
    assert RequestTemplate("ab" * 32, "edge:1", ACTIVATIONS).make_request(activations).tensor.dtype == "float32"


def test_an_event_beyond_half_precision_is_answered_correctly(link: Broker, queue: str) -> None:
    network, features = Legible(), numbered(3)
    features[:, 1] = [1.0, 70000.0, 2**-20]
    with run_worker_of(link, queue, Responder(*served(network), "cloud")), make_client(link, queue) as client:
        answers = ask_and_wait(make_second_exit(client, network, "wait", ACTIVATIONS, half=True), network, features)
    assert margins(answers) == [1.0, 70000.0, 2**-20]


def test_the_local_exit_is_always_ready() -> None:
    network, features = Legible(), numbered(5)
    local = LocalSecondExit(exits_of(network).second)
    query = local.ask(features, Activations(network, features))
    assert query.count_pending() == 0
    assert query.wait(0)
    assert margins(Answers(query, 5)) == [0, 1, 2, 3, 4]
    assert local.check_liveness() is None
    assert local.check_readiness() is None


MIXED = np.concatenate([events(1, CERTAIN), events(1, -CERTAIN), events(1), events(1, UNCERTAIN, -UNCERTAIN)])


def decided(edge: Edge) -> list[tuple[str, str, object]]:
    table = pd.DataFrame(make_columns(next(edge.decide_all([Batch(MIXED)], 1, Stop())), show_decider=True))
    return list(table[["decider", "reason", "final_prediction"]].itertuples(index=False, name=None))


def test_the_table_names_the_cloud_as_the_decider(link: Broker, queue: str) -> None:
    network = Legible()
    with run_worker_of(link, queue, Responder(*served(network), "cloud")), make_client(link, queue) as client:
        found = decided(Edge(exits_of(network).first, HALVES, make_second_exit(client, network)))
    assert found == [
        ("edge", "certain", 1),
        ("edge", "certain", 0),
        ("cloud", "certain", 1),
        ("rejected", "uncertain", "rejected"),
    ]


@pytest.mark.parametrize(
    ("on_failure", "uncertain_events"),
    [
        ("local", [("local", "no-connection", 1), ("rejected", "uncertain", "rejected")]),
        ("reject", [("rejected", "no-connection", "rejected"), ("rejected", "no-connection", "rejected")]),
    ],
)
def test_the_table_gives_the_reason_why_the_cloud_did_not_answer(
    queue: str, on_failure: str, uncertain_events: list[tuple[str, str, object]]
) -> None:
    network = Legible()
    with make_unconnected_client(queue) as client:
        found = decided(Edge(exits_of(network).first, HALVES, make_second_exit(client, network, on_failure)))
    assert found == [("edge", "certain", 1), ("edge", "certain", 0), *uncertain_events]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_workers_of_different_speed_do_not_change_the_order_or_the_verdicts(
    link: Broker, queue: str, mobilenet: CalibratedNetwork, sample: Path, payload: str
) -> None:
    batches = np.split(read_dataset(sample / "2016_03.csv").features[:200], 20)
    limits = THRESHOLDS[MOBILENET]
    local = [
        Edge(exits_of(mobilenet).first, limits, LocalSecondExit(exits_of(mobilenet).second)).decide(Batch(batch))
        for batch in batches
    ]
    expected = sum(verdicts.uncertain.any() for verdicts in local)

    class Slow(Responder):
        def answer(self, requests: Sequence[Request]) -> list[Answer | Refusal]:
            wait_until(lambda: fast.answered > min(2 * slow.answered, expected - slow.answered - 2))
            return super().answer(requests)

    one_at_a_time = WorkerSettings(prefetch=1)
    fast = Worker(link, queue, Responder(*served(mobilenet), "fast"), one_at_a_time, WorkerMetrics())
    slow = Worker(link, queue, Slow(*served(mobilenet), "slow"), one_at_a_time, WorkerMetrics())
    with run_worker(fast), run_worker(slow), make_client(link, queue) as client:
        edge = Edge(exits_of(mobilenet).first, limits, make_second_exit(client, mobilenet, "wait", payload))
        remote = list(edge.decide_all(map(Batch, batches), 4, Stop()))
    assert fast.answered + slow.answered == expected > 10
    assert slow.answered > 0
    for one, other in zip(remote, local, strict=True):
        assert set(one.answered_by[one.uncertain]) == {"cloud"}
        assert np.array_equal(one.prediction, other.prediction)
        assert np.array_equal(one.rejected, other.rejected)
        assert np.allclose(one.certainty, other.certainty, rtol=0, atol=ROUNDING)
