"""A worker receives, merges and shares requests, and counts them; with a real broker."""

import contextlib
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from offload.link.batch_report import BatchReport
from offload.link.broker import Broker, Host
from offload.link.private_broker import find_free_port
from offload.link.protocol import Answer, Refusal, Request, encode_request, make_id
from offload.link.rabbitmq import connection
from offload.link.rabbitmq.broker_errors import BROKER_FAILED
from offload.link.worker_settings import WorkerSettings
from tests.offload.link_ends import (
    AGES,
    REPLY_TO,
    Relay,
    Sleeper,
    at,
    count_waiting,
    make_client,
    make_request,
    make_worker,
    open_channel,
    publish,
    run_worker,
    wait_until,
)
from tests.offload.submitting import (
    IMPATIENT,
    WorkerCounts,
    are_all_answered,
    count_events,
    delete_queue,
    keep_busy,
    make_clients,
    submit,
)
from utils.errors import BrokerRefusedError, CloudError, CloudUnavailableError


def test_requests_of_many_clients_get_their_own_replies(link: Broker, queue: str) -> None:
    worker = make_worker(link, queue, Sleeper(0.01))
    with run_worker(worker), make_clients(link, queue, 4) as many:
        submitted = [pair for client in many * 10 for pair in submit(client, 1, 3)]
        assert are_all_answered(submitted)
    assert (worker.answered, worker.refused, worker.events, worker.dropped) == (80, 0, 160, 0)


def test_an_internal_error_of_the_broker_is_retried_and_reported_in_the_end(link: Broker, queue: str) -> None:
    worker = make_worker(link, queue, Sleeper())
    problem = CloudUnavailableError("RabbitMQ failed", BROKER_FAILED)
    for _ in range(7):
        worker.on_lost(problem)
    with pytest.raises(CloudUnavailableError, match="RabbitMQ failed"):
        worker.on_lost(problem)
    worker.stop()
    worker.run(lambda: None)  # it closes what it has open


def test_waiting_requests_of_all_clients_are_merged_in_order_up_to_the_limit(link: Broker, queue: str) -> None:
    sleeper, counted, submitted = Sleeper(), WorkerCounts(), []
    worker = make_worker(link, queue, sleeper, WorkerSettings(max_batch=10), counted.metrics)
    with run_worker(worker), make_clients(link, queue, 3) as many:
        with keep_busy(sleeper, many[0]):
            # 4 + 3 + 3 fill a pass; 6 does not fit beside 5 and 2 must not overtake it; 30 is more than a pass holds.
            for number, size in enumerate((4, 3, 3, 5, 6, 2, 30, 1, 1, 9)):
                submitted += submit(many[number % 3], size)
                counted.wait_for("waiting_requests", len(submitted))
        assert are_all_answered(submitted)
    assert count_events(sleeper.batches) == [[1], [4, 3, 3], [5], [6, 2], [30], [1, 1], [9]]
    computed = [request.request_id for batch in sleeper.batches[1:] for request in batch]
    assert computed == [request.request_id for request, _ in submitted]
    assert counted("waiting_requests") == 0


def test_a_refused_request_does_not_affect_the_others_of_its_batch(link: Broker, queue: str) -> None:
    sleeper, counted = Sleeper(), WorkerCounts()
    worker = make_worker(link, queue, sleeper, WorkerSettings(max_batch=4), counted.metrics)
    with run_worker(worker), make_client(link, queue) as client:
        with keep_busy(sleeper, client):
            submitted = submit(client, 2)
            counted.wait_for("waiting_requests", 1)
            publish(link, queue, b"garbage", correlation_id=make_id(), reply_to=REPLY_TO)
            counted.wait_for("waiting_requests", 2)
            submitted += submit(client, 2)
            counted.wait_for("waiting_requests", 3)
        assert are_all_answered(submitted)
    assert count_events(sleeper.batches) == [[1], [2, 2]]
    assert (worker.answered, worker.refused) == (3, 1)


def test_a_batch_waits_for_as_many_requests_as_the_last_one_had(link: Broker, queue: str) -> None:
    sleeper, counted = Sleeper(), WorkerCounts()
    worker = make_worker(link, queue, sleeper, WorkerSettings(max_batch=6, batch_wait=AGES), counted.metrics)
    with run_worker(worker), make_clients(link, queue, 3) as many:
        with keep_busy(sleeper, many[0]):
            submitted = [pair for client in many for pair in submit(client, 1)]
            counted.wait_for("waiting_requests", 3)
        assert are_all_answered(submitted)
        for client in many:
            assert len(sleeper.batches) == 2
            submitted += submit(client, 1)
            time.sleep(0.2)  # so that one that did not wait would be computed
        assert are_all_answered(submitted)
        # Two now, which leave no room for a third.
        submitted += [pair for client in many[:2] for pair in submit(client, 3)]
        assert are_all_answered(submitted)
    assert count_events(sleeper.batches) == [[1], [1, 1, 1], [1, 1, 1], [3, 3]]


def test_a_single_request_does_not_wait(link: Broker, queue: str) -> None:
    with (
        run_worker(make_worker(link, queue, None, WorkerSettings(batch_wait=AGES))),
        make_client(link, queue) as client,
    ):
        for _ in range(3):
            assert are_all_answered(submit(client, 1))


def test_a_batch_waits_no_longer_than_the_limit(link: Broker, queue: str) -> None:
    batches: list[BatchReport] = []
    sleeper = Sleeper()
    worker = make_worker(link, queue, sleeper, WorkerSettings(batch_wait=1.0), on_batch=batches.append)
    with run_worker(worker), make_clients(link, queue, 2) as many:
        assert are_all_answered(submit(many[0], 1))
        with keep_busy(sleeper, many[0]):
            submitted = [pair for client in many for pair in submit(client, 1)]
            wait_until(lambda: len(worker._waiting) == 2)
        assert are_all_answered(submitted)
        assert are_all_answered(submit(many[0], 1))
    assert [batch.requests for batch in batches] == [1, 1, 2, 1]
    assert batches[-1].waited >= 1.0


def test_batches_are_computed_one_at_a_time_outside_the_connections_thread(link: Broker, queue: str) -> None:
    class Watched(Sleeper):
        running = most = 0

        def answer(self, requests: Sequence[Request]) -> list[Answer | Refusal]:
            self.running += 1
            self.most = max(self.most, self.running)
            replies = super().answer(requests)
            self.running -= 1
            return replies

    sleeper = Watched(0.01)
    with (
        run_worker(make_worker(link, queue, sleeper, WorkerSettings(max_batch=2))),
        make_clients(link, queue, 3) as many,
    ):
        assert are_all_answered([pair for client in many * 5 for pair in submit(client, 1)])
    assert sleeper.threads == {"compute"}
    assert sleeper.most == 1
    assert len(sleeper.batches) >= 8


def test_a_long_inference_does_not_stop_the_heartbeats(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEARTBEAT", 1)  # the broker gives up on a connection after two of them
    sleeper, counted = Sleeper(3.0), WorkerCounts()
    worker = make_worker(link, queue, sleeper, None, counted.metrics)
    with run_worker(worker) as ready, make_client(link, queue) as client:
        assert are_all_answered(submit(client, 1))
    assert len(ready) == len(sleeper.batches) == 1
    assert counted("connection_losses_total") == 0


def test_a_worker_holds_no_more_requests_than_its_prefetch(link: Broker, queue: str) -> None:
    sleeper, counted = Sleeper(), WorkerCounts()
    worker = make_worker(link, queue, sleeper, WorkerSettings(prefetch=3), counted.metrics)
    with run_worker(worker), make_client(link, queue) as client:
        with keep_busy(sleeper, client):
            submitted = submit(client, *[1] * 9)
            counted.wait_for("waiting_requests", 2)
            wait_until(lambda: count_waiting(link, queue) == 7)
            assert counted("waiting_requests") == 2
        assert are_all_answered(submitted)
    assert max(map(len, sleeper.batches)) <= 3


def test_two_workers_share_the_requests_of_a_queue(link: Broker, queue: str) -> None:
    first, second = (make_worker(link, queue, Sleeper(0.02), WorkerSettings(max_batch=1, prefetch=2)) for _ in range(2))
    with run_worker(first), run_worker(second), make_client(link, queue) as client:
        assert are_all_answered(submit(client, *[1] * 40))
    assert first.answered + second.answered == 40
    assert min(first.answered, second.answered) >= 1


def test_a_slow_second_worker_gets_fewer_requests(link: Broker, queue: str) -> None:
    service = WorkerSettings(max_batch=1, prefetch=1)
    fast, slow = (make_worker(link, queue, Sleeper(seconds), service) for seconds in (0.01, 0.5))
    with run_worker(fast), run_worker(slow), make_client(link, queue) as client:
        assert are_all_answered(submit(client, *range(1, 61)))
    assert fast.answered + slow.answered == 60
    assert 1 <= slow.answered < fast.answered / 3


def test_the_report_of_a_batch_has_its_requests_events_and_clients(link: Broker, queue: str) -> None:
    sleeper, counted, batches = Sleeper(0.2), WorkerCounts(), list[BatchReport]()
    worker = make_worker(link, queue, sleeper, None, counted.metrics, batches.append)
    with run_worker(worker), make_client(link, queue) as client:
        with keep_busy(sleeper, client):
            start = time.monotonic()
            submitted = submit(client, 2, 3)
            other = make_request(4, client_id="edge:2")
            submitted.append((other, client.submit(other)))
            publish(link, queue, b"garbage", correlation_id=(garbage := make_id()), reply_to=REPLY_TO)
            counted.wait_for("waiting_requests", 4)
            arrived = time.monotonic()
            time.sleep(0.1)
            released = time.monotonic()  # or a little later
        assert are_all_answered(submitted)
    alone, together = batches
    assert (alone.requests, alone.events, alone.clients, alone.refusals) == (1, 1, 1, ())
    assert (together.requests, together.events, together.clients) == (3, 9, 2)
    assert [(refusal.request_id, refusal.code) for refusal in together.refusals] == [(garbage, "malformed")]
    assert together.seconds >= 0.2
    assert released - arrived <= together.waited <= time.monotonic() - start


def test_the_metrics_count_requests_events_and_bytes(link: Broker, queue: str) -> None:
    sleeper, counted, requests = Sleeper(), WorkerCounts(), [make_request(size) for size in (2, 3)]
    gone, wrong = make_request(4), replace(make_request(1), fingerprint="ab" * 32)
    worker = make_worker(link, queue, sleeper, None, counted.metrics)
    assert counted("connected") == 0
    with run_worker(worker), make_client(link, queue) as client:
        assert counted("connected") == 1
        with keep_busy(sleeper, client):
            submitted = [(request, client.submit(request)) for request in requests]
            for body, request_id in (
                (encode_request(gone), gone.request_id), (encode_request(wrong), wrong.request_id), (b"", make_id()),
            ):  # fmt: skip
                publish(link, queue, body, correlation_id=request_id, reply_to=REPLY_TO)
            publish(link, queue, b"from no one")
            counted.wait_for("dropped_messages_total", 1)
            assert counted("waiting_requests") == 5
            assert counted("requests_total", code="answered") == 0, "nothing was replied to yet"
        assert are_all_answered(submitted)
        counted.wait_for("unroutable_replies_total", 3)
    assert counted("requests_total", code="answered") == worker.answered == 4
    assert counted("requests_total", code="malformed") == counted("requests_total", code="wrong-model") == 1
    assert worker.refused == 2
    assert counted("events_total") == counted("batch_events_sum") == worker.events == 10
    assert counted("batch_requests_sum") == 4
    assert counted("batch_events_count") == counted("batch_requests_count") == counted("inference_seconds_count") == 2
    assert counted("queue_wait_seconds_count") == 6
    assert counted("received_bytes_total") == client.bytes_sent + sum(
        len(encode_request(request)) for request in (gone, wrong)
    )
    assert counted("sent_bytes_total") > client.bytes_received > 0
    assert worker.dropped == 4
    for never in ("redelivered_requests_total", "given_back_requests_total", "connection_losses_total"):
        assert counted(never) == 0
    assert counted("waiting_requests") == counted("connected") == 0


def test_a_client_that_left_before_its_reply_is_counted_and_its_request_acknowledged(link: Broker, queue: str) -> None:
    sleeper, counted = Sleeper(), WorkerCounts()
    worker = make_worker(link, queue, sleeper, None, counted.metrics)
    with run_worker(worker):
        sleeper.hold.clear()
        with make_client(link, queue) as client:
            submit(client, 1)  # of two, the worker may know before the second that the client has left
            wait_until(lambda: counted("received_bytes_total") == client.bytes_sent > 0)
        sleeper.hold.set()
        counted.wait_for("unroutable_replies_total", 1)
    assert (worker.answered, worker.dropped) == (1, 1)
    assert count_waiting(link, queue) == 0


NO_ONE_TO_REPLY_TO: tuple[dict[str, Any], ...] = (
    {},
    {"correlation_id": make_id()},
    {"reply_to": REPLY_TO},
    {"correlation_id": "1", "reply_to": REPLY_TO},
    {"correlation_id": make_id(), "reply_to": "payroll"},
    {"correlation_id": make_id(), "reply_to": "amq.rabbitmq.reply-to.g1h2AAVyZXBseQAAAA==.x"},
    {"correlation_id": b"\xff" * 32, "reply_to": b"\xff" * 41, "headers": {"x-death": [{"count": -1}]}},
)


def test_messages_without_a_reply_queue_are_counted_and_acknowledged(link: Broker, queue: str) -> None:
    counted = WorkerCounts()
    worker = make_worker(link, queue, metrics=counted.metrics)
    with run_worker(worker) as ready, make_client(link, queue) as client:
        for properties in NO_ONE_TO_REPLY_TO:
            publish(link, queue, b"hostile", **properties)
        assert are_all_answered(submit(client, 1))
        assert len(ready) == 1
    assert worker.dropped == counted("dropped_messages_total") == len(NO_ONE_TO_REPLY_TO)
    assert worker.answered == 1
    assert count_waiting(link, queue) == 0


def test_counts_continue_after_reconnections(link: Broker, queue: str) -> None:
    worker = make_worker(link, queue)
    with run_worker(worker) as ready, make_client(link, queue, IMPATIENT) as client:
        for number in (1, 2):
            wait_until(lambda: len(ready) == number)  # noqa: B023
            publish(link, queue, b"from no one")
            assert are_all_answered(submit(client, 1))
            delete_queue(link, queue)
        wait_until(lambda: len(ready) == 3)
    assert (worker.answered, worker.dropped) == (2, 2)


def test_a_worker_reports_liveness_and_readiness(link: Broker, queue: str) -> None:
    relay = Relay(link.hosts[0].port)
    with contextlib.ExitStack() as away:
        worker = make_worker(at(link, away.enter_context(relay.running())), queue)
        with run_worker(worker):
            assert worker.check_liveness() is worker.check_readiness() is None
            away.close()
            wait_until(lambda: worker.check_readiness() == "no connection to RabbitMQ")
            assert worker.check_liveness() is None
    assert worker.check_readiness() == "stopping"
    assert worker.check_liveness() == "thread rabbitmq has ended"


def test_a_missing_broker_at_the_start_is_an_error_at_once(queue: str) -> None:
    worker = make_worker(Broker((Host("127.0.0.1", find_free_port()),)), queue)
    with pytest.raises(CloudUnavailableError, match="connection refused"):
        worker.run(lambda: pytest.fail("it connected"))


class CountingRelay(Relay):
    calls = 0

    def _join(self, client: socket.socket) -> None:
        self.calls += 1
        super()._join(client)


def test_a_broker_that_refuses_the_worker_is_not_retried(link: Broker, queue: str) -> None:
    relay = CountingRelay(link.hosts[0].port)
    with relay.running() as port:
        worker = make_worker(replace(at(link, port), password="wrong"), queue)
        with pytest.raises(BrokerRefusedError):
            worker.run(lambda: pytest.fail("it was let in"))
    assert relay.calls == 1


def test_a_queue_with_other_settings_ends_the_worker(link: Broker, queue: str) -> None:
    with open_channel(link) as channel:
        channel.queue_declare(queue)
    with pytest.raises(CloudError, match="exists with other settings"):
        make_worker(link, queue).run(lambda: pytest.fail("it is ready"))
