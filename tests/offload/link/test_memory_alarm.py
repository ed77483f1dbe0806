"""Client, worker and load generator while RabbitMQ blocks publishers; on a separate node."""

import contextlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from offload.link.broker import PASSWORD_VARIABLE, Broker
from offload.link.client import Client
from offload.link.pending_requests import RetryPolicy
from offload.link.protocol import make_id
from offload.link.rabbitmq import connection
from offload.operations.metrics import ClientMetrics
from tests.controlled_broker import ControlledBroker
from tests.offload.hostile_peers import control_worker, make_large_request
from tests.offload.link_ends import PATIENCE, Sleeper, make_client, make_request, make_worker, run_worker, wait_until
from tests.offload.submitting import WorkerCounts, are_all_answered, keep_busy, submit
from tests.scripts import GENERATOR, call
from utils.errors import CloudUnavailableError

LONG = RetryPolicy(attempt=60.0, retries=0, deadline=60.0)
SHORT = RetryPolicy(attempt=0.5, retries=1, deadline=1.0)
WHY = "blocks publishers: its memory or disk alarm is on (low on memory); free memory or disk space"


@pytest.fixture(scope="module")
def node(broker: ControlledBroker) -> Iterator[ControlledBroker]:
    """A node besides the session's, whose alarm goes off."""
    del broker  # requested so that this is skipped, too, where RabbitMQ is missing
    with ControlledBroker() as running:
        yield running


@pytest.fixture
def full(node: ControlledBroker) -> Broker:
    return node.connection


@contextmanager
def alarm(node: ControlledBroker) -> Iterator[None]:
    """Keep a node's memory alarm on during the block."""
    node.control("set_vm_memory_high_watermark", "0")
    try:
        yield
    finally:
        node.control("set_vm_memory_high_watermark", "0.4")


def told(client: Client) -> CloudUnavailableError:
    """Return why a new request fails."""
    problem = client.submit(make_request()).exception(PATIENCE)
    assert isinstance(problem, CloudUnavailableError)
    return problem


@pytest.mark.parametrize("persistent", [False, True])
def test_a_blocked_client_reports_the_broker_and_not_a_missing_worker(
    persistent: bool, node: ControlledBroker, full: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    queue, metrics = f"requests.{make_id()}", ClientMetrics()
    retry_policy = replace(SHORT, persistent=persistent)
    with run_worker(make_worker(full, queue)), make_client(full, queue, retry_policy, metrics) as client:
        with alarm(node):
            problem = told(client)
            assert problem.code == "broker-blocked"
            assert WHY in str(problem) and "worker" not in str(problem)
            assert WHY in (client.check_readiness() or "")
            assert client.check_liveness() is None
            assert metrics.registry.get_sample_value("ee_client_blocked") == 1
            later = client.submit(make_request())
            assert persistent or later.done(), "known to be vain"
            problem = told(client)
            assert problem.code == "broker-blocked"
        wait_until(lambda: client.check_readiness() is None)
        request = make_request()
        assert are_all_answered([(request, client.submit(request))])
    results = {result: metrics.requests.labels(result=result)._value.get() for result in ("broker-blocked", "answered")}
    assert results == {"broker-blocked": 3, "answered": 1}
    assert metrics.registry.get_sample_value("ee_client_connection_losses_total") == 0
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 2
    assert WHY in lines[0]
    assert "accepts messages again after" in lines[1]


def test_requests_that_wait_for_the_end_of_an_alarm_are_published_once(node: ControlledBroker, full: Broker) -> None:
    queue, metrics = f"requests.{make_id()}", ClientMetrics()
    retry_policy = replace(LONG, attempt=0.5, persistent=True)
    with run_worker(make_worker(full, queue)), make_client(full, queue, retry_policy, metrics) as client:
        with alarm(node):
            submitted = submit(client, 1)
            wait_until(lambda: client.check_readiness() is not None)
            first = metrics.attempts._value.get()
            submitted += submit(client, *[1] * 9)
            wait_until(lambda: client._pending[submitted[0][0].request_id].failure is not None)  # its attempt is over
            assert metrics.attempts._value.get() == first == 1
        assert are_all_answered(submitted)
    assert metrics.retries._value.get() <= 1


def test_requests_that_fill_a_blocked_connection_do_not_close_it(node: ControlledBroker, full: Broker) -> None:
    queue, metrics = f"requests.{make_id()}", ClientMetrics()
    requests = [make_large_request(1024) for _ in range(2)]  # 14 MB each, more than the kernel's buffers hold
    with (
        control_worker(full, queue) as worker,
        make_client(full, queue, replace(LONG, persistent=True), metrics) as client,
    ):
        with alarm(node):
            futures = [client.submit(request) for request in requests]
            wait_until(lambda: client.check_readiness() is not None)
            time.sleep(2 * connection.TCP_OPTIONS["TCP_USER_TIMEOUT"] / 1000)
            assert WHY in (client.check_readiness() or "")
        for _ in requests:
            worker.reply(worker.take())
        for future, request in zip(futures, requests, strict=True):
            assert (future.result(PATIENCE).logits == request.tensor[:, 0, 0, :2]).all()
    assert metrics.connection_losses._value.get() == 0


def test_a_blocked_worker_is_not_ready_and_answers_afterwards(
    node: ControlledBroker, full: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.5)
    queue, sleeper, counted = f"requests.{make_id()}", Sleeper(), WorkerCounts()
    worker = make_worker(full, queue, sleeper, metrics=counted.metrics)
    with make_client(full, queue, LONG) as client, contextlib.ExitStack() as blocked, run_worker(worker):
        with keep_busy(sleeper, client):
            submitted = submit(client, 1)
            counted.wait_for("waiting_requests", 1)
            blocked.enter_context(alarm(node))
            sleeper.hold.set()
            wait_until(lambda: WHY in (worker.check_readiness() or ""))
            assert counted("blocked") == 1
            assert worker.check_liveness() is None
            blocked.close()
        wait_until(lambda: worker.check_readiness() is None)
        assert counted("blocked") == 0
        assert are_all_answered(submitted)
    assert counted("connection_losses_total") == 0
    assert worker.answered == 2


def test_a_blocked_worker_stops_at_once_and_another_answers(
    node: ControlledBroker, full: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.5)
    monkeypatch.setattr("offload.link.worker.DRAIN_TIMEOUT", 10 * PATIENCE)
    queue, sleeper = f"requests.{make_id()}", Sleeper()
    with make_client(full, queue, LONG) as client:
        with contextlib.ExitStack() as blocked, run_worker(worker := make_worker(full, queue, sleeper)):
            sleeper.hold.clear()
            submitted = submit(client, 1)
            wait_until(lambda: sleeper.batches)
            blocked.enter_context(alarm(node))
            sleeper.hold.set()
            wait_until(lambda: WHY in (worker.check_readiness() or ""))
        with run_worker(make_worker(full, queue)):
            assert are_all_answered(submitted)


def test_the_load_generator_reports_that_the_broker_blocks_it(
    node: ControlledBroker, full: Broker, checkpoint: Path, sample: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv(PASSWORD_VARIABLE, full.password)
    queue = f"requests.{make_id()}"
    with run_worker(make_worker(full, queue)), alarm(node):
        ended = call(
            capsys, GENERATOR, "--mq-hostname", "127.0.0.1", "--mq-port", full.hosts[0].port, "--mq-username",
            full.username, "--mq-queue", queue, "--trained-network-file", checkpoint, "--network", "mobilenet",
            "--dataset", sample / "2016_03.csv", "--clients", 1, "--count", 2, "--request-timeout", 1,
        )  # fmt: skip
    assert ended.code == 3
    assert "errors: 2 broker-blocked" in ended.out
    assert WHY in ended.err
    assert "2 of 2 requests were not answered: 2 broker-blocked" in ended.err
