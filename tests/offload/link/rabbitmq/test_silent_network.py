"""The kernel's timers detect a network that drops all packets, and both ends reconnect afterwards."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from offload.link.broker import Broker
from offload.link.protocol import make_id
from offload.link.rabbitmq import connection
from offload.link.rabbitmq.connection import Connection
from tests.controlled_broker import ControlledBroker
from tests.offload.blackhole import Blackhole
from tests.offload.link.rabbitmq.ends import BOTH_ENDS, Log, client_end, in_owner, running
from tests.offload.link_ends import PATIENCE, wait_until

NOTICED_WITHIN = 15


@pytest.fixture(scope="module")
def network(broker: ControlledBroker) -> Iterator[Blackhole]:
    with Blackhole(broker.port) as network:
        yield network


@pytest.fixture
def remote(network: Blackhole, link: Broker) -> Broker:
    """The broker beyond that network."""
    return replace(link, hosts=(network.host,))


def is_noticed_and_survived(network: Blackhole, log: Log, meanwhile: Callable[[], object] = lambda: None) -> None:
    count = len(log.ready)
    assert not log.lost
    with network.silence():
        meanwhile()
        wait_until(lambda: log.lost)
        # By the kernel, whose timers are those below, and not by heartbeats or by a request's time.
        assert "(connection timed out)" in str(log.lost[0].problem)
    wait_until(lambda: len(log.ready) > count)


def test_the_timers_detect_silence_within_15_seconds() -> None:
    timers = connection.TCP_OPTIONS
    idle = timers["TCP_KEEPIDLE"] + timers["TCP_KEEPINTVL"] * timers["TCP_KEEPCNT"]
    assert idle + timers["TCP_USER_TIMEOUT"] / 1000 < NOTICED_WITHIN
    assert 2 * connection.CONNECT_TIMEOUT < NOTICED_WITHIN


@pytest.mark.parametrize("make_end", BOTH_ENDS)
def test_silence_on_an_idle_connection_is_detected(
    make_end: Callable[[Broker, str, Log], Connection], network: Blackhole, remote: Broker, queue: str
) -> None:
    log = Log()
    with running(make_end(remote, queue, log), network.inside):
        wait_until(lambda: log.ready)
        is_noticed_and_survived(network, log)


@pytest.mark.parametrize("seconds", [0.0, 5.5], ids=["at once", "just before it would have been noticed"])
def test_silence_during_a_request_is_detected(seconds: float, network: Blackhole, remote: Broker, queue: str) -> None:
    assert seconds < connection.TCP_OPTIONS["TCP_USER_TIMEOUT"] / 1000
    log = Log()
    end = client_end(remote, queue, log)

    def publish() -> None:
        time.sleep(seconds)
        in_owner(end, lambda: end.publish(make_id(), b"hello", 10.0))

    with running(end, network.inside):
        wait_until(lambda: log.ready)
        is_noticed_and_survived(network, log, publish)
    assert not log.confirmed
    assert not log.returned


def test_a_client_started_in_a_silent_network_connects_when_it_returns(
    network: Blackhole, remote: Broker, queue: str
) -> None:
    network.fall_silent()
    log = Log()
    with running(client_end(remote, queue, log), network.inside):
        wait_until(lambda: len(log.lost) == 2)
        time.sleep(connection.LONGEST_PAUSE)  # until an attempt is under way
        network.recover()
        wait_until(lambda: log.ready)
    assert all("(no answer in time)" in str(loss.problem) for loss in log.lost)
    for earlier, later in itertools.pairwise(log.lost):
        assert later.at - earlier.at > connection.CONNECT_TIMEOUT


def test_a_connection_in_a_silent_network_closes_within_the_timeout(
    network: Blackhole, remote: Broker, queue: str
) -> None:
    log = Log()
    end = client_end(remote, queue, log)
    with running(end, network.inside) as thread:
        wait_until(lambda: log.ready)
        with network.silence():
            end.stop()
            thread.join(PATIENCE)
            assert not thread.is_alive()
    assert not log.lost
