"""The client on a real broker: every request ends exactly once, whatever fails."""

import contextlib
import logging
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from offload.link import circuit_breaker as breaker_module
from offload.link import client as client_module
from offload.link.broker import Broker, Host
from offload.link.client import Client
from offload.link.pending_requests import RetryPolicy
from offload.link.private_broker import find_free_port
from offload.link.protocol import Answer, Refusal, Request, encode_refusal, encode_request, make_id
from offload.link.rabbitmq import connection
from offload.operations.metrics import ClientMetrics
from tests.controlled_broker import ControlledBroker
from tests.offload.hostile_peers import (
    FORGERIES,
    FailingRelay,
    control_worker,
    is_valid,
    make_answer,
    make_large_request,
)
from tests.offload.link_ends import (
    AGES,
    PATIENCE,
    Sleeper,
    SleepingWorker,
    at,
    count_waiting,
    is_answer_to,
    listening,
    make_client,
    make_request,
    make_worker,
    open_channel,
    publish,
    run_worker,
    wait_until,
)
from tests.offload.messages import mutate_body
from utils.errors import BrokerRefusedError, CloudUnavailableError, MessageError

SECRET = "hunter2-Pa$$wört"
LONG = RetryPolicy(attempt=AGES, retries=0, deadline=AGES)
"""One attempt, in which all must go well."""


class Watched(ClientMetrics):
    """The values of a client's metrics."""

    def value(self, name: str) -> float:
        value = self.registry.get_sample_value(f"ee_client_{name}")
        assert value is not None
        return value

    def by_code(self, name: str, label: str) -> dict[str, float]:
        """Return the counts of a metric by its label, without those at zero."""
        samples = [sample for metric in self.registry.collect() for sample in metric.samples]
        ours = [sample for sample in samples if sample.name == f"ee_client_{name}" and sample.value]
        return {sample.labels[label]: sample.value for sample in ours}

    @property
    def results(self) -> dict[str, float]:
        return self.by_code("requests_total", "result")

    @property
    def dropped(self) -> dict[str, float]:
        return self.by_code("dropped_replies_total", "reason")

    @property
    def tries(self) -> tuple[float, float]:
        """Number of attempts, and of retries."""
        return self.value("attempts_total"), self.value("retries_total")


@pytest.fixture
def metrics() -> Watched:
    return Watched()


def answered(future: Future[Answer], request: Request) -> bool:
    """Return whether a request gets its own answer."""
    return is_answer_to(future.result(PATIENCE), request)


def why(future: Future[Answer]) -> str:
    """Return the code with which a request fails."""
    problem = future.exception(PATIENCE)
    assert isinstance(problem, CloudUnavailableError | MessageError), repr(problem)
    assert "\n" not in str(problem)
    return problem.code


def handles() -> int:
    """Return how many sockets and pollers this process holds."""
    count = 0
    for handle in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(handle.readlink()).startswith(("socket:", "anon_inode:[eventpoll]"))
    return count


@contextmanager
def not_for_ages() -> Iterator[None]:
    """Fail if the block takes so long that it waited for a timeout of ``AGES``."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < AGES / 2


@pytest.fixture
def nothing_left_behind() -> Iterator[None]:
    """A test that leaves no thread and no socket."""
    before = handles(), threading.active_count()
    yield
    wait_until(lambda: (handles(), threading.active_count()) == before)


# Answers


def test_many_requests_of_several_threads_get_their_own_answers_once(
    link: Broker, queue: str, metrics: Watched
) -> None:
    ended: list[Future[Answer]] = []
    submitted: list[tuple[Future[Answer], Request]] = []

    def ask(client: Client) -> None:
        for events in range(1, 101):
            request = make_request(events)
            future = client.submit(request)
            future.add_done_callback(ended.append)
            submitted.append((future, request))

    with (
        run_worker(make_worker(link, queue)),
        run_worker(make_worker(link, queue)),
        make_client(link, queue, LONG, metrics) as client,
    ):
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert all(answered(future, request) for future, request in submitted)
        assert client._pending == {}
    assert sorted(map(id, ended)) == sorted(id(future) for future, _ in submitted)
    assert (len(submitted), metrics.results, metrics.tries) == (400, {"answered": 400}, (400, 0))
    assert (metrics.value("in_flight_requests"), metrics.value("round_trip_seconds_count")) == (0, 400)
    sent, received = metrics.value("sent_bytes_total"), metrics.value("received_bytes_total")
    assert sent == client.bytes_sent == sum(len(encode_request(request)) for _, request in submitted)
    assert received == client.bytes_received > 0
    assert metrics.dropped == {}


def test_answers_may_arrive_in_any_order(link: Broker, queue: str, metrics: Watched) -> None:
    with control_worker(link, queue) as worker, make_client(link, queue, LONG, metrics) as client:
        requests = [make_request() for _ in range(5)]
        futures = [client.submit(request) for request in requests]
        taken = [worker.take() for _ in requests]
        assert metrics.value("in_flight_requests") == 5
        for number in (4, 0, 3, 1, 2):
            worker.reply(taken[number])
            assert answered(futures[number], requests[number])
            assert sum(future.done() for future in futures) == 5 - metrics.value("in_flight_requests")


def test_several_of_the_largest_requests_are_answered_at_once(link: Broker, queue: str) -> None:
    with control_worker(link, queue) as worker, make_client(link, queue, LONG) as client:
        requests = [make_large_request(1024) for _ in range(4)]
        futures = [client.submit(request) for request in requests]
        for taken in [worker.take() for _ in requests]:
            assert len(taken.body) > 14e6
            worker.reply(taken)
        for future, request in zip(futures, requests, strict=True):
            assert (future.result(PATIENCE).logits == request.tensor[:, 0, 0, :2]).all()


def test_a_worker_killed_during_inference_causes_no_second_attempt(
    link: Broker, queue: str, tmp_path: Path, metrics: Watched
) -> None:
    (tmp_path / "victim").mkdir()
    with SleepingWorker(tmp_path / "victim", link, queue, seconds=60) as victim:
        victim.wait_for("ready")
        with make_client(link, queue, LONG, metrics) as client:
            request = make_request()
            future = client.submit(request)
            victim.wait_for("computing 1")
            with SleepingWorker(tmp_path, link, queue) as other:
                other.wait_for("ready")
                victim.send(signal.SIGKILL)
                assert answered(future, request)
    assert metrics.tries == (1, 0)


def test_a_pending_request_cannot_be_cancelled(link: Broker, queue: str) -> None:
    with control_worker(link, queue) as worker, make_client(link, queue, LONG) as client:
        request = make_request()
        future = client.submit(request)
        assert not future.cancel()
        worker.reply(worker.take())
        assert answered(future, request)


def test_each_answer_can_be_logged(link: Broker, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "offload.link.client")
    with run_worker(make_worker(link, queue)), make_client(link, queue) as client:
        request = make_request()
        assert answered(client.submit(request), request)
    (line,) = [record.getMessage() for record in caplog.records if request.request_id in record.getMessage()]
    assert f"{len(encode_request(request))} bytes, answered by sleeper in " in line


# Entering and leaving


def test_an_entered_client_is_connected(link: Broker, queue: str, metrics: Watched) -> None:
    client = make_client(link, queue, metrics=metrics)
    assert not client.is_connected and client.check_liveness() is not None
    with client:
        assert client.is_connected and client.check_liveness() is None and client.check_readiness() is None
        assert metrics.value("connected") == 1
    assert not client.is_connected and client.check_liveness() is not None
    assert metrics.value("connected") == 0


def test_without_a_broker_entering_and_requests_end_at_once(
    queue: str, metrics: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_FIRST_CONNECTION", AGES)
    with not_for_ages(), make_client(Broker((Host("127.0.0.1", find_free_port()),)), queue, LONG, metrics) as client:
        future = client.submit(make_request())
        assert future.done()
        assert why(future) == "no-connection"
        assert client.check_readiness() == "no connection to RabbitMQ" and client.check_liveness() is None
    assert (metrics.results, metrics.value("attempts_total")) == ({"no-connection": 1}, 0)


def test_a_silent_server_is_not_waited_for_beyond_the_deadline(queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 0.5)
    monkeypatch.setattr(client_module, "_FIRST_CONNECTION", AGES)
    start = time.monotonic()
    with (
        not_for_ages(),
        listening(lambda _connection: None) as port,
        make_client(Broker((Host("127.0.0.1", port),)), queue) as client,
    ):
        assert time.monotonic() - start >= 0.5
        assert why(client.submit(make_request())) == "no-connection"


def test_one_of_several_hosts_is_enough(link: Broker, queue: str) -> None:
    with run_worker(make_worker(link, queue)):
        for ports in ((find_free_port(), link.hosts[0].port), (link.hosts[0].port, find_free_port())):
            with make_client(at(link, *ports), queue) as client:
                request = make_request()
                assert answered(client.submit(request), request)


@pytest.mark.usefixtures("nothing_left_behind")
@pytest.mark.parametrize(
    "wrong",
    [
        lambda link: replace(link, password=SECRET),
        lambda link: replace(link, username="nobody"),
        lambda link: replace(link, virtual_host="nowhere"),
    ],
    ids=["password", "user", "virtual host"],
)
def test_a_refused_client_raises_on_entering(wrong: Callable[[Broker], Broker], link: Broker) -> None:
    with pytest.raises(BrokerRefusedError) as caught, make_client(wrong(link), "q"):
        pytest.fail("let in")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.usefixtures("nothing_left_behind")
def test_leaving_ends_pending_and_later_requests(link: Broker, queue: str, metrics: Watched) -> None:
    with control_worker(link, queue):
        with not_for_ages(), make_client(link, queue, LONG, metrics) as client:
            futures = [client.submit(make_request()) for _ in range(20)]
        assert all(future.done() for future in futures)
        futures.append(client.submit(make_request()))
        assert {why(future) for future in futures} == {"closed"}
    assert (metrics.results, metrics.value("in_flight_requests")) == ({"closed": 21}, 0)


@pytest.mark.usefixtures("nothing_left_behind")
def test_leaving_a_silent_broker_is_quick_while_attempts_time_out(link: Broker, queue: str) -> None:
    relay = FailingRelay(link.hosts[0].port)
    with control_worker(link, queue), relay.running() as port:
        with not_for_ages(), make_client(at(link, port), queue, RetryPolicy(0.7, 10_000, AGES)) as client:
            relay.fall_silent()
            futures = [client.submit(make_request()) for _ in range(3)]
        assert {why(future) for future in futures} == {"closed"}


@pytest.mark.usefixtures("nothing_left_behind")
@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.6, 0.9])
def test_leaving_during_an_attempt_to_connect_is_quick(
    seconds: float, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 0.3)
    with listening(lambda _connection: None) as port:
        broker, retry_policy = Broker((Host("127.0.0.1", port),)), replace(LONG, persistent=True)
        with not_for_ages(), make_client(broker, queue, retry_policy) as client:
            future = client.submit(make_request())
            time.sleep(seconds)  # into the pause, or into the next greeting
        assert why(future) == "closed"


@pytest.mark.parametrize("broker_is_there", [True, False])
def test_a_request_submitted_while_leaving_ends_too(broker_is_there: bool, link: Broker, queue: str) -> None:
    broker = link if broker_is_there else at(link, find_free_port())
    before_stopping, after_stopping = threading.Event(), threading.Event()
    with make_client(broker, queue, replace(LONG, persistent=True)) as client:
        for event in (before_stopping, after_stopping):
            client._sender.call_soon(lambda event=event: event.wait(PATIENCE))  # type: ignore[misc]
            if event is before_stopping:
                client._sender.stop()
        before_stopping.set()
        wait_until(lambda: client._sender._stopping)
        future = client.submit(make_request())
        after_stopping.set()
        assert why(future) == "closed"


# Attempts


def test_a_request_is_retried_under_the_same_id_up_to_the_limit(link: Broker, queue: str, metrics: Watched) -> None:
    with control_worker(link, queue) as worker, make_client(link, queue, RetryPolicy(0.5, 2, 60), metrics) as client:
        request = make_request()
        future = client.submit(request)
        taken = [worker.take() for _ in range(3)]
        assert why(future) == "timed-out"
        assert {each.correlation_id for each in taken} == {each.request.request_id for each in taken}
        assert len({each.body for each in taken}) == 1
        assert [each.seconds for each in taken] == [0.5] * 3
        assert count_waiting(link, queue) == 0
    assert (metrics.results, metrics.tries) == ({"timed-out": 1}, (3, 2))
    assert metrics.value("sent_bytes_total") == 3 * len(encode_request(request))


def test_the_first_answer_counts_and_a_later_one_is_discarded(link: Broker, queue: str, metrics: Watched) -> None:
    with control_worker(link, queue) as worker, make_client(link, queue, RetryPolicy(0.5, 1, 60), metrics) as client:
        request = make_request()
        future = client.submit(request)
        first, second = worker.take(), worker.take()
        worker.reply(first)
        assert answered(future, request)
        worker.reply(second)
        wait_until(lambda: metrics.dropped == {"duplicate": 1})
    assert (metrics.results, metrics.tries) == ({"answered": 1}, (2, 1))


def test_a_request_expires_in_the_queue_when_its_client_no_longer_waits(link: Broker, queue: str) -> None:
    sleeper = Sleeper()
    with control_worker(link, queue) as worker, make_client(link, queue, RetryPolicy(2.0, 1, 2.8)) as client:
        future = client.submit(make_request())
        first, second = worker.take(), worker.take()
        assert 0 < second.seconds <= 0.8  # what the first attempt left of the 2.8 s
        assert second.seconds < first.seconds <= 2.0
        stale = client.submit(make_request())
        assert why(future) == why(stale) == "timed-out"
        with run_worker(make_worker(link, queue, sleeper)):
            fresh = make_request()
            assert answered(client.submit(fresh), fresh)
    assert [[request.request_id for request in batch] for batch in sleeper.batches] == [[fresh.request_id]]


def test_a_missing_queue_is_reported_soon(link: Broker, queue: str, metrics: Watched) -> None:
    retry_policy = RetryPolicy(attempt=AGES, retries=1, deadline=AGES)
    with make_client(link, queue, retry_policy, metrics) as client:
        future = client.submit(make_request())
        assert why(future) == "no-queue"
    assert f"queue {queue!r}" in str(future.exception()) and "does not exist" in str(future.exception())
    assert (metrics.results, metrics.tries) == ({"no-queue": 1}, (2, 1))


def test_a_full_queue_is_reported_soon(link: Broker, queue: str, metrics: Watched) -> None:
    with control_worker(link, queue, room=1), make_client(link, queue, metrics=metrics) as client:
        publish(link, queue, b"in the way")
        future = client.submit(make_request())
        assert why(future) == "queue-full"
        assert "is full; start more workers" in str(future.exception())
    assert (metrics.results, metrics.tries) == ({"queue-full": 1}, (2, 1))


def test_a_worker_that_starts_later_answers(link: Broker, queue: str) -> None:
    with make_client(link, queue, RetryPolicy(20, 30, 60)) as client:
        request = make_request()
        future = client.submit(request)
        wait_until(lambda: client._pending and client._pending[request.request_id].attempts > 1)
        with run_worker(make_worker(link, queue)):
            assert answered(future, request)


@pytest.mark.parametrize("persistent", [False, True])
def test_a_refused_request_fails_with_the_workers_code_after_the_retries(
    persistent: bool, link: Broker, queue: str, metrics: Watched
) -> None:
    retry_policy = RetryPolicy(20, 2, 60, persistent)
    with run_worker(make_worker(link, queue)), make_client(link, queue, retry_policy, metrics) as client:
        future = client.submit(replace(make_request(), fingerprint="66" * 32))
        assert why(future) == "wrong-model"
        assert isinstance(future.exception(), MessageError)
        assert "the same checkpoint" in str(future.exception())
    assert (metrics.results, metrics.tries) == ({"refused": 1}, (3, 2))


def test_a_refusal_is_reported_also_at_the_deadline(link: Broker, queue: str, metrics: Watched) -> None:
    with run_worker(make_worker(link, queue)), make_client(link, queue, RetryPolicy(20, 100, 1), metrics) as client:
        assert why(client.submit(replace(make_request(), fingerprint="66" * 32))) == "wrong-model"
    assert metrics.results == {"refused": 1}


def test_an_answer_after_a_refusal_counts(link: Broker, queue: str, metrics: Watched) -> None:
    with control_worker(link, queue) as worker, make_client(link, queue, RetryPolicy(20, 1, 60), metrics) as client:
        request = make_request()
        future = client.submit(request)
        worker.reply(worker.take(), encode_refusal(Refusal(request.request_id, "worker-failed", "")))
        worker.reply(worker.take())
        assert answered(future, request)
    assert (metrics.results, metrics.tries) == ({"answered": 1}, (2, 1))


def test_a_retry_policy_ends_with_the_last_attempt_or_the_wait_timeout() -> None:
    assert RetryPolicy.from_options(15, 1) == RetryPolicy(15, 1, 30, persistent=False)
    assert RetryPolicy.from_options(15, 1, 600) == RetryPolicy(15, 1, 600, persistent=True)


@pytest.mark.parametrize(("room", "code"), [(0, "no-queue"), (1, "queue-full"), (9, "timed-out")])
def test_a_persistent_client_retries_until_the_deadline(
    room: int, code: str, link: Broker, queue: str, metrics: Watched
) -> None:
    retry_policy = RetryPolicy(0.5, 0, 3, persistent=True)
    with contextlib.ExitStack() as stack:
        if room:
            stack.enter_context(control_worker(link, queue, room))
            if room == 1:
                publish(link, queue, b"in the way")
        client = stack.enter_context(make_client(link, queue, retry_policy, metrics))
        start = time.monotonic()
        reason = why(client.submit(make_request()))
        assert reason in {code, "timed-out"}  # the broker may be slow to refuse the last attempt
        assert time.monotonic() - start >= 3
    assert metrics.results == {reason: 1}
    assert 3 <= metrics.value("attempts_total") <= 30


def test_a_persistent_client_waits_for_a_worker(link: Broker, queue: str) -> None:
    with make_client(link, queue, replace(LONG, persistent=True)) as client:
        request = make_request()
        future = client.submit(request)
        wait_until(lambda: client._pending and client._pending[request.request_id].attempts > 2)
        with run_worker(make_worker(link, queue)):
            assert answered(future, request)


def test_a_persistent_client_waits_for_a_broker_until_the_deadline(queue: str, metrics: Watched) -> None:
    nowhere = Broker((Host("127.0.0.1", find_free_port()),))
    with make_client(nowhere, queue, RetryPolicy(20, 0, 1, persistent=True), metrics) as client:
        future = client.submit(make_request())
        assert not future.done()
        assert why(future) == "no-connection"
        assert "no RabbitMQ at" in str(future.exception())
    assert (metrics.results, metrics.value("attempts_total")) == ({"no-connection": 1}, 0)


# Replies from anyone


def test_a_second_answer_to_a_request_is_discarded(link: Broker, queue: str, metrics: Watched) -> None:
    with control_worker(link, queue) as worker, make_client(link, queue, LONG, metrics) as client:
        for _ in range(3):
            request = make_request()
            future = client.submit(request)
            taken = worker.take()
            for _ in range(3):
                worker.reply(taken)
            assert answered(future, request)
        wait_until(lambda: metrics.dropped == {"duplicate": 6})
    assert metrics.results == {"answered": 3}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_reply_is_discarded_and_the_real_one_counts(
    forgery: str, link: Broker, queue: str, metrics: Watched, tmp_path: Path
) -> None:
    reason, forge = FORGERIES[forgery]
    with control_worker(link, queue) as worker, make_client(link, queue, LONG, metrics) as client:
        request = make_request()
        future = client.submit(request)
        taken = worker.take()
        worker.reply(taken, forge(request, tmp_path / "canary"))
        wait_until(lambda: metrics.dropped == {reason: 1})
        assert not future.done()
        worker.reply(taken)
        assert answered(future, request)
    assert (metrics.results, metrics.tries, metrics.dropped) == ({"answered": 1}, (1, 0), {reason: 1})
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "request_id", [make_id(), None, "", "None", "ü" * 100], ids=["new", "none", "empty", "word", "long"]
)
def test_a_reply_to_an_unknown_request_is_discarded(
    request_id: str | None, link: Broker, queue: str, metrics: Watched
) -> None:
    with control_worker(link, queue) as worker, make_client(link, queue, LONG, metrics) as client:
        request = make_request()
        future = client.submit(request)
        taken = worker.take()
        worker.reply(taken, correlation_id=request_id)
        wait_until(lambda: metrics.dropped == {"duplicate": 1})
        worker.reply(taken)
        assert answered(future, request)
        assert metrics.value("connection_losses_total") == 0


def test_ten_thousand_invalid_replies_do_not_use_memory_or_hide_the_real_one(
    link: Broker, queue: str, metrics: Watched, held_bytes: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)  # a record of each would be kept for the report
    request = make_request(3)
    spoiled = [reply for reply in mutate_body(make_answer(request), 7, 11_000) if not is_valid(reply, request)]
    with control_worker(link, queue) as worker, make_client(link, queue, LONG, metrics) as client:
        future = client.submit(request)
        taken, held, sent = worker.take(), 0, 0
        for replies in (spoiled[:5000], spoiled[5000:]):
            held = held_bytes()  # in the end that after the first 5,000
            for reply in replies:
                worker.flood(taken, reply)
            sent += len(replies)
            wait_until(lambda: sum(metrics.dropped.values()) == sent)  # noqa: B023
        assert sent > 10_000
        assert held_bytes() - held < sum(map(len, spoiled[5000:])) / 10
        worker.reply(taken)
        assert answered(future, request)
    assert (metrics.results, metrics.tries, metrics.value("connection_losses_total")) == ({"answered": 1}, (1, 0), 0)


# Faults on the way


@pytest.mark.parametrize("count", [1, 7, 50, 4096, 131_072, 1_000_000])
def test_no_request_is_lost_when_the_connection_is_cut_during_a_publish(
    count: int, link: Broker, queue: str, metrics: Watched
) -> None:
    relay = FailingRelay(link.hosts[0].port)
    with (
        control_worker(link, queue) as worker,
        relay.running() as port,
        make_client(at(link, port), queue, LONG, metrics) as client,
    ):
        relay.cut_after(count)
        request = make_large_request(100)
        future = client.submit(request)
        worker.reply(worker.take())
        assert (future.result(PATIENCE).logits == request.tensor[:, 0, 0, :2]).all()
    assert (metrics.results, metrics.tries) == ({"answered": 1}, (2, 1))
    assert (metrics.value("connection_losses_total"), metrics.dropped) == (1, {})
    assert count_waiting(link, queue) == 0


def test_many_requests_survive_a_connection_that_is_cut_repeatedly(link: Broker, queue: str, metrics: Watched) -> None:
    relay, cuts = FailingRelay(link.hosts[0].port), (100_000, 1_000_000, 300, 1, 300_000)
    with (
        run_worker(make_worker(link, queue, Sleeper(seconds=0.02))),
        relay.running() as port,
        make_client(at(link, port), queue, replace(LONG, persistent=True), metrics) as client,
    ):
        relay.cut_after(*cuts)
        requests = [make_request(50) for _ in range(200)]
        futures = [client.submit(request) for request in requests]
        assert all(answered(future, request) for future, request in zip(futures, requests, strict=True))
        assert client._pending == {}
    assert metrics.results == {"answered": 200}
    assert metrics.value("connection_losses_total") == 3  # two of the cuts were in a greeting


def test_requests_end_in_time_if_the_broker_does_not_return(link: Broker, queue: str, metrics: Watched) -> None:
    relay = FailingRelay(link.hosts[0].port)
    with control_worker(link, queue), contextlib.ExitStack() as stack:
        port = stack.enter_context(relay.running())
        with make_client(at(link, port), queue, RetryPolicy(2, 0, 2), metrics) as client:
            future = client.submit(make_request())
            wait_until(lambda: count_waiting(link, queue))
            stack.close()
            assert why(future) == "no-connection"
            assert "no RabbitMQ at" in str(future.exception())
    assert metrics.results == {"no-connection": 1}


@pytest.mark.parametrize("retries", [0, 3])
def test_the_client_reconnects_if_the_broker_confirms_nothing(
    retries: int, link: Broker, queue: str, metrics: Watched
) -> None:
    relay = FailingRelay(link.hosts[0].port)
    with (
        run_worker(make_worker(link, queue)),
        relay.running() as port,
        make_client(at(link, port), queue, RetryPolicy.from_options(1.5, retries), metrics) as client,
    ):
        relay.fall_silent()
        request = make_request()
        future = client.submit(request)
        assert answered(future, request) if retries else why(future) == "timed-out"
        wait_until(lambda: client.is_connected)
        assert answered(client.submit(request), request)
    assert metrics.value("connection_losses_total") == 1


def test_slow_workers_do_not_cause_a_reconnection(link: Broker, queue: str, metrics: Watched) -> None:
    relay = FailingRelay(link.hosts[0].port)
    with (
        control_worker(link, queue),
        relay.running() as port,
        make_client(at(link, port), queue, RetryPolicy(1, 2, 60), metrics) as client,
    ):
        futures = [client.submit(make_request()) for _ in range(200)]
        wait_until(lambda: count_waiting(link, queue) == 200)
        relay.cut()
        assert {why(future) for future in futures} == {"timed-out"}
        assert client.is_connected
    assert metrics.value("connection_losses_total") == 1


def test_requests_survive_a_deleted_queue(link: Broker, queue: str, metrics: Watched) -> None:
    sleeper = Sleeper()
    sleeper.hold.clear()
    with (
        run_worker(make_worker(link, queue, sleeper)) as ready,
        make_client(link, queue, RetryPolicy(3, 5, 60), metrics) as client,
    ):
        requests = [make_request() for _ in range(30)]
        futures = [client.submit(request) for request in requests]
        wait_until(lambda: sleeper.batches)
        with open_channel(link) as channel:
            channel.queue_delete(queue)
        sleeper.hold.set()
        wait_until(lambda: len(ready) == 2)
        assert all(answered(future, request) for future, request in zip(futures, requests, strict=True))
    assert metrics.results == {"answered": 30}
    assert metrics.value("retries_total") >= 30
    assert metrics.value("connection_losses_total") == 0


def test_after_a_reconnection_a_missing_queue_does_not_use_up_retries(
    link: Broker, queue: str, metrics: Watched
) -> None:
    relay, request = FailingRelay(link.hosts[0].port), make_request()
    with relay.running() as port, make_client(at(link, port), queue, LONG, metrics) as client:
        with control_worker(link, queue):
            future = client.submit(request)
            wait_until(lambda: count_waiting(link, queue))
            with open_channel(link) as channel:
                channel.queue_delete(queue)
            relay.cut()
            wait_until(lambda: metrics.value("attempts_total") > 3)  # LONG has no retries
            assert not future.done()
        with run_worker(make_worker(link, queue)):
            assert answered(future, request)
    assert metrics.results == {"answered": 1}


def test_a_queue_that_stays_missing_after_a_reconnection_is_reported_in_time(
    link: Broker, queue: str, metrics: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = FailingRelay(link.hosts[0].port)
    with relay.running() as port, make_client(at(link, port), queue, LONG, metrics) as client:
        relay.cut()
        wait_until(lambda: metrics.value("connection_losses_total") == 1 and client.is_connected)
        future = client.submit(make_request())
        wait_until(lambda: metrics.value("attempts_total") > 2)
        monkeypatch.setattr(client_module, "QUEUE_RETURN", 0.0)
        assert why(future) == "no-queue"
    assert metrics.results == {"no-queue": 1}


# The circuit breaker


def test_after_failures_in_a_row_no_request_is_sent_until_a_try_succeeds(
    link: Broker, queue: str, metrics: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker_module, "SHORTEST_PAUSE", 1.0)
    with control_worker(link, queue), make_client(link, queue, RetryPolicy.from_options(1, 0), metrics) as client:
        futures = [client.submit(make_request()) for _ in range(breaker_module.FAILURES)]
        assert {why(future) for future in futures} == {"timed-out"}
        vain = client.submit(make_request())
        assert vain.done() and why(vain) == "circuit-open"
        assert client.check_readiness() == "the cloud failed to answer" and metrics.value("breaker_open") == 1
        with run_worker(make_worker(link, queue)):
            wait_until(lambda: client.submit(make_request()).exception(PATIENCE) is None)
            assert client.check_readiness() is None and metrics.value("breaker_open") == 0
            assert client.submit(make_request()).exception(PATIENCE) is None
    results = metrics.results
    assert results.pop("circuit-open") >= 1
    assert results == {"timed-out": breaker_module.FAILURES, "answered": 2}


@pytest.mark.parametrize("was_away", [False, True])
def test_only_a_broker_that_was_down_closes_the_breaker_when_it_returns(
    was_away: bool, link: Broker, queue: str, metrics: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker_module, "SHORTEST_PAUSE", 600.0)
    relay = FailingRelay(link.hosts[0].port)
    with (
        control_worker(link, queue),
        relay.running() as port,
        make_client(at(link, port), queue, RetryPolicy.from_options(0.3, 0), metrics) as client,
    ):
        futures = [client.submit(make_request()) for _ in range(breaker_module.FAILURES)]
        assert {why(future) for future in futures} == {"timed-out"}
        if was_away:
            relay.cut_after(1)  # which is in the next greeting
        relay.cut()
        wait_until(lambda: metrics.value("connection_losses_total") == 1 and client.is_connected)
        if was_away:
            wait_until(lambda: client.check_readiness() is None)
        assert why(client.submit(make_request())) == ("timed-out" if was_away else "circuit-open")


# A node of our own, which fails


@pytest.fixture(scope="module")
def node(broker: ControlledBroker) -> Iterator[ControlledBroker]:
    """A second node."""
    del broker  # requested so that this is skipped, too, where RabbitMQ is missing
    with ControlledBroker() as running:
        yield running


@pytest.fixture
def fragile(node: ControlledBroker) -> Broker:
    return node.connection


def test_requests_survive_a_broker_that_is_killed_and_returns(
    node: ControlledBroker, fragile: Broker, metrics: Watched
) -> None:
    queue, sleeper = f"requests.{make_id()}", Sleeper()
    sleeper.hold.clear()
    with run_worker(make_worker(fragile, queue, sleeper)), contextlib.ExitStack() as stack:
        hasty = stack.enter_context(make_client(fragile, queue, LONG, metrics))
        patient = stack.enter_context(make_client(fragile, queue, replace(LONG, persistent=True)))
        requests = [make_request() for _ in range(40)]
        futures = [hasty.submit(request) for request in requests[:20]]
        wait_until(lambda: sleeper.batches)
        node.kill()
        sleeper.hold.set()
        wait_until(lambda: not hasty.is_connected and not patient.is_connected)
        futures += [patient.submit(request) for request in requests[20:]]
        assert why(hasty.submit(make_request())) == "no-connection"
        node.start()
        assert all(answered(future, request) for future, request in zip(futures, requests, strict=True))
    assert metrics.results == {"answered": 20, "no-connection": 1}
    assert metrics.value("connection_losses_total") == 1


@pytest.mark.parametrize("command", ["close_all_connections", "delete_queue"])
def test_requests_survive_what_an_operator_closes_or_deletes(
    command: str, node: ControlledBroker, fragile: Broker, metrics: Watched
) -> None:
    queue, request = f"requests.{make_id()}", make_request()
    with make_client(fragile, queue, replace(LONG, persistent=True), metrics) as client:
        with control_worker(fragile, queue) as worker:
            future = client.submit(request)
            lost = worker.take()
        node.control(command, "for repair" if command == "close_all_connections" else lost.reply_to)
        with control_worker(fragile, queue) as worker:
            again = worker.take()
            assert again.reply_to != lost.reply_to
            worker.reply(again)
            assert answered(future, request)
    assert (metrics.tries, metrics.value("connection_losses_total")) == ((2, 1), 1)


def test_a_password_that_is_changed_meanwhile_ends_all_requests_with_the_refusal(
    node: ControlledBroker, fragile: Broker, metrics: Watched
) -> None:
    queue, relay = f"requests.{make_id()}", FailingRelay(node.port)
    with control_worker(fragile, queue), relay.running() as port:
        with make_client(at(fragile, port), queue, LONG, metrics) as client:
            futures = [client.submit(make_request()) for _ in range(3)]
            node.control("change_password", fragile.username, SECRET)
            relay.cut_after(1)
            futures.append(client.submit(make_request()))
            assert all(isinstance(future.exception(PATIENCE), BrokerRefusedError) for future in futures)
            assert isinstance(client.submit(make_request()).exception(), BrokerRefusedError)
            assert client.check_liveness() is not None
        node.control("change_password", fragile.username, fragile.password)
    assert metrics.results == {"closed": 5}
