"""Both ends while the broker dies, stops, hangs or blocks publishers; on a separate node."""

import time
from collections.abc import Iterator

import pytest

from offload.link.broker import Broker
from offload.link.protocol import make_id
from offload.link.rabbitmq import connection
from tests.controlled_broker import ControlledBroker
from tests.offload.link.rabbitmq.ends import Log, client_end, in_owner, ready, worker_end
from tests.offload.link_ends import wait_until

ROUNDS_TO_THE_LONGEST_PAUSE = 5
QUEUE = "requests"


@pytest.fixture(scope="module")
def node(broker: ControlledBroker) -> Iterator[ControlledBroker]:
    """A node that each test may break and must repair."""
    assert broker.port, "where the session has a node, there can be another"
    with ControlledBroker() as another:
        yield another


@pytest.fixture
def brittle(node: ControlledBroker) -> Broker:
    """Connection settings of that node."""
    return node.connection


def test_both_ends_reconnect_after_a_killed_broker(node: ControlledBroker, brittle: Broker) -> None:
    logs = Log(), Log()
    with ready(client_end(brittle, QUEUE, logs[0]), logs[0]), ready(worker_end(brittle, QUEUE, logs[1]), logs[1]):
        node.kill()
        wait_until(lambda: all(len(log.lost) >= ROUNDS_TO_THE_LONGEST_PAUSE for log in logs))
        node.start()
        wait_until(lambda: all(len(log.ready) == 2 for log in logs))
    for log in logs:
        assert log.lost[-1].at < log.ready[1]


def test_a_broker_that_shuts_down_is_quoted(node: ControlledBroker, brittle: Broker) -> None:
    log = Log()
    with ready(client_end(brittle, QUEUE, log), log):
        node.control("stop_app")
        wait_until(lambda: log.lost)
        node.control("start_app")
        wait_until(lambda: len(log.ready) == 2)
    assert "(CONNECTION_FORCED - broker forced connection closure with reason 'shutdown')" in str(log.lost[0].problem)


def test_a_hanging_broker_is_detected_by_its_heartbeats(
    node: ControlledBroker, brittle: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEARTBEAT", 1)
    log = Log()
    with ready(client_end(brittle, QUEUE, log), log):
        node.pause()
        try:
            wait_until(lambda: log.lost)
        finally:
            node.resume()
        wait_until(lambda: len(log.ready) == 2)
    assert "(it stopped answering)" in str(log.lost[0].problem)


def test_a_blocking_broker_gives_the_reason_and_keeps_the_connection(
    node: ControlledBroker, brittle: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEARTBEAT", 1)
    log, worker_log = Log(), Log()
    end, request_id = client_end(brittle, QUEUE, log), make_id()
    with ready(worker_end(brittle, QUEUE, worker_log), worker_log), ready(end, log):
        node.control("set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            in_owner(end, lambda: end.publish(request_id, b"hello", 60.0))
            wait_until(lambda: log.blocked)
            assert end.is_blocked
            assert [line.split("\t") for line in node.control("list_connections", "state").splitlines()].count(
                ["blocked"]
            ) == 1
            time.sleep(4)  # twice as long as either side waits for heartbeats
            assert not log.confirmed
        finally:
            node.control("set_vm_memory_high_watermark", "0.9")
        wait_until(lambda: log.confirmed == [request_id])
        assert not end.is_blocked
    why, over = log.blocked
    assert "blocks publishers: its memory or disk alarm is on (low on memory)" in str(why)
    assert over is None
    assert not log.lost
