"""Oversize messages are refused by the broker, or discarded on arrival by both ends."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pika import exceptions

from offload.link.broker import Broker
from offload.link.protocol import LARGEST_MESSAGE, LARGEST_REPLY, Limits, make_id
from offload.link.rabbitmq.connection import REPLY_QUEUE
from offload.link.rabbitmq.worker_end import RequestQueue
from offload.link.worker_settings import MAX_HELD_BYTES, WorkerSettings, bound_prefetch
from offload.operations.metrics import ClientMetrics
from tests.controlled_broker import ControlledBroker
from tests.offload.hostile_peers import control_worker
from tests.offload.link.rabbitmq.ends import Log, ready
from tests.offload.link_ends import (
    REPLY_TO,
    SleepingWorker,
    count_waiting,
    is_answer_to,
    make_client,
    make_request,
    make_worker,
    open_channel,
    publish,
    run_worker,
    wait_until,
)
from tests.offload.submitting import WorkerCounts
from tests.scripts import ROOT
from utils.errors import MessageError

README = (ROOT / "offload" / "systemd" / "README.md").read_text()
OVERSIZE = 48 * 2**20
COUNT = 6
KEPT = 24 * 2**20
"""Bytes by which a worker's memory may grow meanwhile: half of what one such body would take, and it gets six."""


@pytest.fixture(scope="module")
def generous(broker: ControlledBroker) -> Iterator[Broker]:
    """A node that takes messages of up to 128 MiB, which is what RabbitMQ 3 does of itself."""
    del broker  # requested so that this is skipped, too, where RabbitMQ is missing
    with ControlledBroker(settings=f"max_message_size = {128 * 2**20}") as node:
        yield node.connection


def peak_memory(worker: SleepingWorker) -> int:
    """Return the most bytes that a process has had in memory so far."""
    status = Path(f"/proc/{worker._process.pid}/status").read_text()
    return 1024 * int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.M)[0])


@contextmanager
def reply_queue(broker: Broker) -> Iterator[str]:
    """Yield the name of a reply queue that can be looked at from any connection."""
    name = f"{REPLY_QUEUE}{make_id()}"
    with open_channel(broker) as channel:
        channel.queue_declare(name)
        yield name
        channel.queue_delete(name)


def test_a_worker_does_not_hold_oversize_messages_and_answers_others(generous: Broker, tmp_path: Path) -> None:
    queue, request = f"requests.{make_id()}", make_request()
    with SleepingWorker(tmp_path, generous, queue) as worker:
        worker.wait_for("ready")
        with reply_queue(generous) as reply_to, make_client(generous, queue) as client:
            assert is_answer_to(client.submit(request).result(), request)
            before = peak_memory(worker)
            for _ in range(COUNT):
                publish(generous, queue, bytes(OVERSIZE), correlation_id=make_id(), reply_to=reply_to)
            wait_until(lambda: count_waiting(generous, reply_to) == COUNT)  # each was refused
            assert is_answer_to(client.submit(request).result(), request)
            assert peak_memory(worker) - before < KEPT
    assert worker.err == ""


def test_an_oversize_request_is_refused_and_counted(generous: Broker) -> None:
    queue, counted = f"requests.{make_id()}", WorkerCounts()
    with (
        run_worker(worker := make_worker(generous, queue, None, WorkerSettings(largest_body=1000), counted.metrics)),
        make_client(generous, queue) as client,
    ):
        problem = client.submit(make_request(10)).exception()
        assert isinstance(problem, MessageError) and problem.code == "too-large"
        assert "bytes, at most 1000 are accepted" in str(problem)
        request = make_request()
        assert is_answer_to(client.submit(request).result(), request)
    assert counted("requests_total", code="too-large") == worker.refused == 2  # it is sent twice
    assert counted("received_bytes_total") == client.bytes_sent


@pytest.mark.parametrize(("excess", "kept"), [(0, True), (1, False)])
def test_a_body_is_kept_up_to_the_limit_and_not_beyond(excess: int, kept: bool, link: Broker, queue: str) -> None:
    log, size = Log(), 300_000 + excess  # of three frames
    worker = RequestQueue(link, queue, log, prefetch=16, largest_body=300_000)
    with ready(worker, log):
        publish(link, queue, bytes(size), correlation_id=make_id(), reply_to=REPLY_TO)
        publish(link, queue, b"next", correlation_id=make_id(), reply_to=REPLY_TO)
        wait_until(lambda: len(log.requests) == 2)
    first, following = log.requests
    assert (len(first.body), first.size) == (size if kept else 0, size)
    assert (following.body, following.size) == (b"next", 4)
    assert not log.lost


def test_an_oversize_reply_is_discarded_and_counted(link: Broker, queue: str) -> None:
    metrics = ClientMetrics()
    with control_worker(link, queue) as worker, make_client(link, queue, metrics=metrics) as client:
        request = make_request()
        future = client.submit(request)
        taken = worker.take()
        worker.reply(taken, bytes(LARGEST_REPLY + 1))
        worker.reply(taken)
        assert is_answer_to(future.result(), request)
    assert metrics.registry.get_sample_value("ee_client_dropped_replies_total", {"reason": "too-large"}) == 1
    assert metrics.registry.get_sample_value("ee_client_connection_losses_total") == 0


def test_the_private_node_refuses_messages_larger_than_any_request(link: Broker, queue: str) -> None:
    with open_channel(link) as channel:
        channel.queue_declare(queue)
        channel.basic_publish("", queue, bytes(LARGEST_MESSAGE), mandatory=True)
        with pytest.raises(exceptions.ChannelClosedByBroker, match=r"message size .* is larger than configured max"):
            channel.basic_publish("", queue, bytes(LARGEST_MESSAGE + 1), mandatory=True)


def test_the_readme_sets_the_same_limit() -> None:
    assert f"\nmax_message_size = {LARGEST_MESSAGE}\n" in README
    assert Limits("", (24, 12, 12)).largest_body < LARGEST_MESSAGE


@pytest.mark.parametrize(
    ("wanted", "largest", "prefetch"),
    [(32, LARGEST_MESSAGE, 32), (1000, LARGEST_MESSAGE, 32), (1000, 10_000, 1000), (5, 2 * MAX_HELD_BYTES, 1)],
)
def test_the_requests_that_a_worker_holds_fit_into_memory(wanted: int, largest: int, prefetch: int) -> None:
    assert bound_prefetch(wanted, largest) == prefetch
