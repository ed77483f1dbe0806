"""A worker and its requests during failures; with a real broker."""

import contextlib
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from offload.link import worker as worker_module
from offload.link.broker import PASSWORD_VARIABLE, Broker, Host
from offload.link.pending_requests import RetryPolicy
from offload.link.private_broker import PrivateBroker, find_free_port
from offload.link.protocol import Answer, Refusal, Request
from offload.link.rabbitmq import connection
from offload.link.rabbitmq.worker_end import Delivery, RequestQueue
from offload.link.worker import Worker
from offload.link.worker_settings import WorkerSettings
from offload.operations.metrics import ClientMetrics
from tests.offload.link.rabbitmq.ends import open_sockets
from tests.offload.link_ends import (
    AGES,
    PATIENCE,
    Program,
    Relay,
    Sleeper,
    SleepingWorker,
    at,
    count_waiting,
    listening,
    make_client,
    make_worker,
    open_channel,
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
    submit,
)
from utils.errors import CloudError, CloudUnavailableError


def consumers_of(link: Broker, queue: str) -> int:
    with open_channel(link) as channel:
        return int(channel.queue_declare(queue, passive=True).method.consumer_count)


def test_another_worker_answers_the_request_of_a_killed_worker(link: Broker, queue: str, tmp_path: Path) -> None:
    counted, metrics = WorkerCounts(), ClientMetrics()
    with (
        SleepingWorker(tmp_path, link, queue, AGES) as victim,
        make_client(link, queue, metrics=metrics) as client,
    ):
        victim.wait_for("ready")
        submitted = submit(client, 1)
        victim.wait_for("computing 1")
        submitted += submit(client, 1, 1)
        with run_worker(make_worker(link, queue, metrics=counted.metrics)):
            victim.send(signal.SIGKILL)
            assert are_all_answered(submitted)
        assert victim.end() == -signal.SIGKILL
    assert counted("redelivered_requests_total") >= 1
    assert metrics.registry.get_sample_value("ee_client_retries_total") == 0, "the broker did not hand it on"
    assert count_waiting(link, queue) == 0


_DIES_BEFORE_ITS_ACKNOWLEDGEMENT = """
import os, signal, sys
from pika.channel import Channel
from offload.link.broker import Broker, Host
from tests.offload.link_ends import make_worker

def die(channel, *_arguments):
    channel.connection.ioloop.call_later(0.2, lambda: os.kill(os.getpid(), signal.SIGKILL))

Channel.basic_ack = die
broker = Broker((Host("127.0.0.1", int(sys.argv[1])),), sys.argv[2], os.environ["EE_MQ_PASSWORD"])
make_worker(broker, sys.argv[3]).run(lambda: print("ready", flush=True))
"""


def test_a_worker_killed_before_the_acknowledgement_causes_a_second_answer(
    link: Broker, queue: str, tmp_path: Path
) -> None:
    counted, metrics = WorkerCounts(), ClientMetrics()
    arguments = (link.hosts[0].port, link.username, queue)
    program = ("-c", _DIES_BEFORE_ITS_ACKNOWLEDGEMENT, *arguments)
    with (
        Program(tmp_path, *program, **{PASSWORD_VARIABLE: link.password}) as victim,
        make_client(link, queue, metrics=metrics) as client,
    ):
        victim.wait_for("ready")
        assert are_all_answered(submit(client, 1))
        assert victim.end() == -signal.SIGKILL
        with run_worker(worker := make_worker(link, queue, metrics=counted.metrics)):
            duplicates = "ee_client_dropped_replies_total", {"reason": "duplicate"}
            wait_until(lambda: metrics.registry.get_sample_value(*duplicates) == 1)
    assert counted("redelivered_requests_total") == worker.answered == 1
    assert metrics.registry.get_sample_value("ee_client_requests_total", {"result": "answered"}) == 1
    assert count_waiting(link, queue) == 0


@pytest.mark.parametrize("signals", [1, 3])
def test_a_worker_stopped_under_load_finishes_its_batch_and_requeues_the_rest(
    signals: int, link: Broker, queue: str, tmp_path: Path
) -> None:
    metrics = ClientMetrics()
    with SleepingWorker(tmp_path, link, queue, 2.0) as leaving, make_client(link, queue, metrics=metrics) as client:
        leaving.wait_for("ready")
        submitted = submit(client, 1)
        leaving.wait_for("computing 1")
        submitted += submit(client, *[1] * 40)
        wait_until(lambda: 0 < count_waiting(link, queue) <= 25)  # it holds 16
        for _ in range(signals):
            leaving.send(signal.SIGTERM)
            time.sleep(0.05)
        with run_worker(worker := make_worker(link, queue)):
            assert are_all_answered(submitted)
        assert leaving.end() == 0
    begun = sum(int(size) for size in re.findall(r"^computing (\d+)$", leaving.out, re.M))
    assert leaving.out.endswith(f"\nanswered {begun}\n")
    assert begun + worker.answered == 41
    assert leaving.err == ""
    assert metrics.registry.get_sample_value("ee_client_retries_total") == 0
    assert metrics.registry.get_sample_value("ee_client_dropped_replies_total", {"reason": "duplicate"}) == 0


def test_requeued_requests_are_counted_at_both_workers(link: Broker, queue: str) -> None:
    sleeper, first, second = Sleeper(), WorkerCounts(), WorkerCounts()
    leaving = make_worker(link, queue, sleeper, WorkerSettings(prefetch=5), first.metrics)
    with make_client(link, queue) as client:
        with run_worker(leaving), keep_busy(sleeper, client):
            submitted = submit(client, 1, 1, 1, 1)
            first.wait_for("waiting_requests", 4)
            leaving.stop()
            wait_until(lambda: count_waiting(link, queue) == 4)
            assert first("waiting_requests") == 0
            assert leaving.check_readiness() == "stopping"
            assert leaving.check_liveness() is None
        with run_worker(make_worker(link, queue, metrics=second.metrics)):
            assert are_all_answered(submitted)
    assert first("given_back_requests_total") == second("redelivered_requests_total") == 4
    assert first("requests_total", code="answered") == leaving.answered == 1
    assert first("connected") == 0


def test_a_batch_that_exceeds_the_drain_timeout_goes_to_another_worker(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker_module.DRAIN_TIMEOUT + worker_module._JOIN_TIMEOUT < 30
    monkeypatch.setattr(worker_module, "DRAIN_TIMEOUT", 0.5)
    monkeypatch.setattr(worker_module, "_JOIN_TIMEOUT", 0.5)
    sleeper = Sleeper()
    sleeper.hold.clear()
    with make_client(link, queue) as client:
        with run_worker(stuck := make_worker(link, queue, sleeper)):
            submitted = submit(client, 1)
            wait_until(lambda: sleeper.batches)
        with run_worker(make_worker(link, queue)):
            assert are_all_answered(submitted)
    sleeper.hold.set()
    wait_until(lambda: stuck.check_liveness() is not None)
    assert stuck.answered == 0


def test_an_idle_worker_stops_at_once(link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "DRAIN_TIMEOUT", AGES)
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", AGES)
    with run_worker(make_worker(link, queue)):
        pass  # ``run_worker`` waits for its end, and not for ages


def test_a_worker_stopped_before_its_run_does_not_connect(queue: str) -> None:
    worker = make_worker(Broker((Host("127.0.0.1", find_free_port()),)), queue)
    worker.stop()
    worker.run(lambda: pytest.fail("it connected"))


def test_a_worker_stopped_before_it_is_ready_ends_without_an_error(queue: str, tmp_path: Path) -> None:
    called = threading.Event()
    with listening(lambda _connection: called.set()) as port:
        broker = Broker((Host("127.0.0.1", port),))
        with SleepingWorker(tmp_path, broker, queue) as worker:
            assert called.wait(PATIENCE)
            worker.send(signal.SIGTERM)
            assert worker.end() == 0
    assert worker.err == ""


def test_a_worker_stopped_without_a_broker_ends_without_an_error(link: Broker, queue: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as away:
        port = away.enter_context(Relay(link.hosts[0].port).running())
        with SleepingWorker(tmp_path, at(link, port), queue) as worker:
            worker.wait_for("ready")
            away.close()
            wait_until(lambda: "no RabbitMQ at" in worker.err)
            worker.send(signal.SIGTERM)
            assert worker.end() == 0


def test_a_batch_without_a_connection_does_not_delay_a_stop(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "DRAIN_TIMEOUT", AGES)
    monkeypatch.setattr(worker_module, "_JOIN_TIMEOUT", 0.5)
    sleeper, counted = Sleeper(), WorkerCounts()
    with contextlib.ExitStack() as away, make_client(link, queue) as client:
        port = away.enter_context(Relay(link.hosts[0].port).running())
        with run_worker(worker := make_worker(at(link, port), queue, sleeper, metrics=counted.metrics)):
            sleeper.hold.clear()
            submit(client, 1)
            wait_until(lambda: sleeper.batches)
            away.close()
            counted.wait_for("connected", 0)
            assert worker.check_readiness() == "no connection to RabbitMQ"
        sleeper.hold.set()


def test_a_silent_broker_does_not_delay_a_stop(link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "DRAIN_TIMEOUT", 0.5)
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.5)
    relay = Relay(link.hosts[0].port)
    with relay.running() as port:
        with run_worker(make_worker(at(link, port), queue)):
            relay.fall_silent()
            stopped = time.monotonic()
        assert time.monotonic() - stopped >= 1.0


@pytest.mark.system
def test_a_worker_whose_broker_restarts_answers_each_request_once() -> None:
    sleeper, counted, metrics = Sleeper(), WorkerCounts(), ClientMetrics()
    with PrivateBroker() as node:
        link = node.connection
        worker = make_worker(link, "q", sleeper, None, counted.metrics)
        # A queue made just before its node is killed may not have reached the disk: until the worker declares it again,
        # requests come back, and are sent once more.
        retry_policy = RetryPolicy(attempt=AGES, retries=100, deadline=AGES)
        with run_worker(worker) as ready, make_client(link, "q", retry_policy, metrics) as client:
            with keep_busy(sleeper, client):
                submitted = submit(client, 1, 1, 1)
                counted.wait_for("waiting_requests", 3)
                node.kill()
                counted.wait_for("waiting_requests", 0)
                assert counted("connected") == 0
                node.start()
                wait_until(lambda: len(ready) == 2)
                counted.wait_for("waiting_requests", 4)  # the one that is still being computed among them
            assert are_all_answered(submitted)
    assert [len(batch) for batch in sleeper.batches] == [1, 4]
    assert worker.answered == counted("requests_total", code="answered") == 4, "a stale reply was counted"
    assert counted("connection_losses_total") == 1
    assert metrics.registry.get_sample_value("ee_client_dropped_replies_total", {"reason": "duplicate"}) == 0


def test_a_deleted_queue_is_declared_again(link: Broker, queue: str) -> None:
    sleeper, counted = Sleeper(), WorkerCounts()
    worker = make_worker(link, queue, sleeper, None, counted.metrics)
    with run_worker(worker) as ready, make_client(link, queue, IMPATIENT) as client:
        with keep_busy(sleeper, client):
            submitted = submit(client, 1, 1)
            counted.wait_for("waiting_requests", 2)
            delete_queue(link, queue)
            wait_until(lambda: len(ready) == 2)
        assert are_all_answered(submitted)


class Failing(Sleeper):
    """Fails at a chosen step, once it is released."""

    where = ""

    def decode(self, body: bytes, request_id: str) -> Request | Refusal:
        self.fail("decode")
        return super().decode(body, request_id)

    def answer(self, requests: Sequence[Request]) -> list[Answer | Refusal]:
        replies = super().answer(requests)
        self.fail("answer")
        return replies

    def fail(self, where: str) -> None:
        if self.where == where:
            raise BrokenPipeError("no one reads the log")


@contextmanager
def ending_with(
    error: type[BaseException], worker: Worker, on_ready: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Run a worker that must fail by the end of the block."""
    with ThreadPoolExecutor() as executor:
        running = executor.submit(worker.run, on_ready)
        try:
            wait_until(lambda: worker.check_readiness() is None or running.done())
            yield
            with pytest.raises(error):
                running.result(PATIENCE)
        finally:
            worker.stop()


@pytest.mark.parametrize("where", ["decode", "answer", "on_batch"])
def test_a_worker_that_fails_to_compute_ends_and_its_request_is_requeued(where: str, link: Broker, queue: str) -> None:
    failing = Failing()
    failing.where = where
    worker = make_worker(link, queue, failing, on_batch=lambda _batch: failing.fail("on_batch"))
    with make_client(link, queue) as client:
        with ending_with(BrokenPipeError, worker):
            submitted = submit(client, 1)
        with run_worker(make_worker(link, queue)):
            assert are_all_answered(submitted)


def test_a_batch_that_fails_during_a_stop_ends_the_worker_soon(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "DRAIN_TIMEOUT", AGES)
    failing = Failing()
    failing.where = "answer"
    failing.hold.clear()
    with (
        make_client(link, queue) as client,
        ending_with(BrokenPipeError, worker := make_worker(link, queue, failing)),
    ):
        submit(client, 1)
        wait_until(lambda: failing.batches)
        worker.stop()
        wait_until(lambda: consumers_of(link, queue) == 0)
        failing.hold.set()


def break_pipe(*_arguments: object) -> None:
    raise BrokenPipeError("no one reads the log")


def test_an_error_of_the_ready_callback_ends_the_worker(link: Broker, queue: str) -> None:
    with ending_with(BrokenPipeError, make_worker(link, queue), break_pipe):
        pass


def test_an_error_of_a_later_ready_callback_ends_the_worker(link: Broker, queue: str) -> None:
    announce = iter((lambda: None, break_pipe))
    with ending_with(BrokenPipeError, make_worker(link, queue), lambda: next(announce)()):
        delete_queue(link, queue)


def test_a_worker_whose_connection_thread_fails_ends_and_its_request_is_requeued(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_client(link, queue) as client:
        with monkeypatch.context() as patched:
            patched.setattr(RequestQueue, "reply", break_pipe)
            with ending_with(BrokenPipeError, make_worker(link, queue)):
                submitted = submit(client, 1)
        with run_worker(make_worker(link, queue)):
            assert are_all_answered(submitted)


@contextmanager
def leaving_nothing_behind() -> Iterator[None]:
    threads, open_before = {*threading.enumerate()}, open_sockets()
    yield
    assert {*threading.enumerate()} <= threads
    assert open_sockets() <= open_before


def test_a_worker_that_ended_leaves_no_thread_and_no_socket(link: Broker, queue: str) -> None:
    with make_client(link, queue) as client, leaving_nothing_behind(), run_worker(make_worker(link, queue)):
        assert are_all_answered(submit(client, 1))


def test_a_worker_that_failed_leaves_no_thread_and_no_socket(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(link, password="wrong")
    nowhere = Broker((Host("127.0.0.1", find_free_port()),))
    monkeypatch.setattr(RequestQueue, "reply", break_pipe)
    with make_client(link, queue) as client, leaving_nothing_behind():
        for broker in (wrong, nowhere):
            with pytest.raises(CloudError):
                make_worker(broker, queue).run(lambda: pytest.fail("it was let in"))
        with ending_with(BrokenPipeError, make_worker(link, queue)):
            submit(client, 1)


def test_a_worker_stopped_without_a_broker_leaves_no_thread_and_no_socket(link: Broker, queue: str) -> None:
    relay = Relay(link.hosts[0].port)
    with contextlib.ExitStack() as away, leaving_nothing_behind():
        with run_worker(worker := make_worker(at(link, away.enter_context(relay.running())), queue)):
            away.close()
            wait_until(lambda: worker.check_readiness() is not None)
        worker.stop()


def test_an_expired_request_is_not_computed(link: Broker, queue: str) -> None:
    sleeper, counted = Sleeper(), WorkerCounts()
    worker = make_worker(link, queue, sleeper, metrics=counted.metrics)
    hurried = RetryPolicy(attempt=0.5, retries=0, deadline=0.5)
    with run_worker(worker), make_client(link, queue) as client, make_client(link, queue, hurried) as leaving:
        with keep_busy(sleeper, client):
            late = submit(leaving, 2)[0][1]
            assert isinstance(late.exception(PATIENCE), CloudUnavailableError)
            patient = submit(client, 3)
            counted.wait_for("waiting_requests", 2)
        assert are_all_answered(patient)
        counted.wait_for("requests_total", 1, code="expired")
    assert [2] not in count_events(sleeper.batches)
    assert count_waiting(link, queue) == 0


def test_a_request_that_expires_while_it_is_requeued_does_not_close_the_channel(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper, counted, metrics = Sleeper(), WorkerCounts(), ClientMetrics()
    hurried = RetryPolicy(attempt=0.5, retries=0, deadline=0.5)
    worker = make_worker(link, queue, sleeper, metrics=counted.metrics)
    discard = worker._discard

    def discard_after_it_was_given_back(delivery: Delivery, code: str) -> None:
        worker.stop()
        wait_until(lambda: counted("given_back_requests_total") == 1)
        discard(delivery, code)

    monkeypatch.setattr(worker, "_discard", discard_after_it_was_given_back)
    with make_client(link, queue, metrics=metrics) as client, make_client(link, queue, hurried) as leaving:
        with run_worker(worker):
            with keep_busy(sleeper, client):
                submitted = submit(client, 1)
                counted.wait_for("waiting_requests", 1)
                late = submit(leaving, 2)[0][1]
                assert isinstance(late.exception(PATIENCE), CloudUnavailableError)
                counted.wait_for("waiting_requests", 2)
                time.sleep(hurried.deadline)  # the request's time begins where it arrives
            assert are_all_answered(submitted)
        assert worker.answered == 2
    assert counted("connection_losses_total") == counted("requests_total", code="expired") == 0
    assert metrics.registry.get_sample_value("ee_client_retries_total") == 0


def test_further_requests_of_a_client_that_left_are_not_computed(link: Broker, queue: str) -> None:
    sleeper, counted = Sleeper(0.1), WorkerCounts()
    worker = make_worker(link, queue, sleeper, WorkerSettings(max_batch=1), counted.metrics)
    with run_worker(worker), make_client(link, queue) as client:
        with keep_busy(sleeper, client):
            with make_client(link, queue) as leaving:
                submit(leaving, *[2] * 10)
                counted.wait_for("waiting_requests", 10)
            submitted = submit(client, 3)
            counted.wait_for("waiting_requests", 11)
        assert are_all_answered(submitted)
        wait_until(lambda: counted("requests_total", code="abandoned") + counted("unroutable_replies_total") == 10)
    assert counted("requests_total", code="abandoned") >= 1
    assert count_waiting(link, queue) == 0
