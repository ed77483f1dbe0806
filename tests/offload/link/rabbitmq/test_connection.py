"""A connection is made, aborted, and made again."""

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from offload.link.broker import Broker, Host
from offload.link.private_broker import find_free_port
from offload.link.protocol import make_id
from offload.link.rabbitmq import connection
from offload.link.rabbitmq.connection import Connection
from tests.controlled_broker import ControlledBroker
from tests.offload.link.rabbitmq.ends import BOTH_ENDS, Log, client_end, first_loss, in_owner, ready, running
from tests.offload.link_ends import PATIENCE, Relay, at, listening, wait_until
from utils.errors import BrokerRefusedError, CloudUnavailableError

NEVER = 10 * PATIENCE
DECLARE_A_QUEUE = bytes((0, 50, 0, 10))
"""AMQP's class and method, as they begin a frame's payload."""
BACK_WITHIN = 5.0


@contextmanager
def closing_server() -> Iterator[tuple[int, list[float]]]:
    """Yield the port of a server that hangs up at once, and the times at which it did."""
    times: list[float] = []

    def hang_up(peer: socket.socket) -> None:
        times.append(time.monotonic())
        peer.close()

    with listening(hang_up) as port:
        yield port, times


def test_a_dead_host_is_skipped_at_once_without_a_report(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SHORTEST_PAUSE", NEVER)
    monkeypatch.setattr(connection, "LONGEST_PAUSE", NEVER)
    log = Log()
    with ready(client_end(at(link, find_free_port(), find_free_port(), link.hosts[0].port), queue, log), log):
        assert log.ready
    assert not log.lost


@pytest.mark.parametrize("make_end", BOTH_ENDS)
def test_a_broker_that_is_silent_after_the_login_is_dropped(
    make_end: Callable[[Broker, str, Log], Connection], link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FallsSilent(Relay):
        def on_data(self, data: bytes) -> None:
            if DECLARE_A_QUEUE in data and not log.lost:
                self.fall_silent()

    monkeypatch.setattr(connection, "OPEN_TIMEOUT", 1.0)
    log, relay = Log(), FallsSilent(link.hosts[0].port)
    with relay.running() as port, running(make_end(at(link, port), queue, log)):
        wait_until(lambda: log.lost)
        assert "accepts the login but does not answer" in str(log.lost[0].problem)
        relay.recover()
        wait_until(lambda: log.ready)
        assert len(log.lost) == 1


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_host_is_a_name_or_an_address(name: str, link: Broker, queue: str) -> None:
    log = Log()
    with ready(client_end(replace(link, hosts=(Host(name, link.hosts[0].port),)), queue, log), log):
        assert log.ready


def test_an_address_of_an_unsupported_family_is_skipped(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def look_up_more(*arguments: Any, **options: Any) -> list[Any]:
        found = look_up(*arguments, **options)
        return [(socket.AF_IPX, *rest) for _family, *rest in found] + found

    monkeypatch.setattr(socket, "getaddrinfo", look_up_more)
    log = Log()
    with ready(client_end(link, queue, log), log):
        assert log.ready
    assert not log.lost


def test_a_host_with_only_unsupported_addresses_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    only = [(socket.AF_IPX, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 5672))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: only)
    log = Log()
    loss = first_loss(client_end(Broker((Host("mq.example"),)), "q", log), log)
    assert "(address family not supported by protocol)" in str(loss.problem)


def test_the_owner_is_notified_once_per_round_of_failed_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SHORTEST_PAUSE", 0.1)
    monkeypatch.setattr(connection, "LONGEST_PAUSE", 0.1)
    log = Log()
    with ExitStack() as servers:
        ports, times = zip(*(servers.enter_context(closing_server()) for _ in range(3)), strict=True)
        broker = Broker(tuple(Host("127.0.0.1", port) for port in ports))
        with running(client_end(broker, "q", log)):
            wait_until(lambda: len(log.lost) >= 4)
    tries = sorted(itertools.chain(*times))
    for count, loss in enumerate(log.lost[:3], 1):
        assert tries[3 * count - 1] < loss.at < tries[3 * count]
    assert f"127.0.0.1:{ports[-1]}" in str(log.lost[0].problem)


def test_after_a_lost_host_the_next_is_tried(link: Broker, queue: str) -> None:
    relays, log = [Relay(link.hosts[0].port) for _ in range(2)], Log()
    with relays[1].running() as second, ExitStack() as first:
        broker = at(link, first.enter_context(relays[0].running()), second)
        with ready(client_end(broker, queue, log), log):
            first.close()
            wait_until(lambda: len(log.ready) == 2)
    assert len(log.lost) == 1


def test_pauses_grow_up_to_a_limit_below_five_seconds_and_are_random() -> None:
    for rounds in range(100):
        pauses = {connection._choose_pause(rounds) for _ in range(50)}
        longest = min(connection.LONGEST_PAUSE, connection.SHORTEST_PAUSE * 2 ** max(0, rounds - 1))
        assert longest / 2 <= min(pauses) < max(pauses) <= longest < BACK_WITHIN
        assert len(pauses) > 25


def test_attempts_at_a_missing_broker_have_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SHORTEST_PAUSE", 0.1)
    monkeypatch.setattr(connection, "LONGEST_PAUSE", 0.8)
    with closing_server() as (port, times), running(client_end(Broker((Host("127.0.0.1", port),)), "q", Log())):
        wait_until(lambda: len(times) == 7)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    for pause, shortest in zip(pauses, (0.05, 0.1, 0.2, 0.4, 0.4, 0.4), strict=True):
        assert pause >= shortest


@contextmanager
def fickle_user(node: ControlledBroker, link: Broker) -> Iterator[Broker]:
    """Yield the node as seen by a user of its own, with a password that can be changed."""
    name = f"user{make_id()}"
    node.control("add_user", name, "right")
    node.control("set_permissions", name, ".*", ".*", ".*")
    try:
        yield Broker(link.hosts, name, "right")
    finally:
        node.control("delete_user", name)


def test_a_password_that_was_once_accepted_is_retried_a_few_times_with_pauses(
    broker: ControlledBroker, link: Broker, queue: str
) -> None:
    log = Log()
    with fickle_user(broker, link) as mine:
        end = client_end(mine, queue, log)
        with pytest.raises(BrokerRefusedError, match="refuses user"), ready(end, log) as thread:
            broker.control("change_password", mine.username, "other")
            in_owner(end, lambda: end.abort(CloudUnavailableError("given up")))
            thread.join(PATIENCE)
            over = time.monotonic()
    assert [type(loss.problem) for loss in log.lost] == [CloudUnavailableError] * connection.REFUSALS
    assert ["refuses user" in str(loss.problem) for loss in log.lost] == [False, True, True]
    for earlier, later in itertools.pairwise([*(loss.at for loss in log.lost), over]):
        assert later - earlier >= connection.SHORTEST_PAUSE / 2
    assert len(log.ready) == 1


def test_a_single_refusal_after_a_success_is_retried(
    broker: ControlledBroker, link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REFUSALS", 1000)
    monkeypatch.setattr(connection, "LONGEST_PAUSE", 1.0)
    log = Log()
    with fickle_user(broker, link) as mine:
        end = client_end(mine, queue, log)
        with ready(end, log):
            broker.control("change_password", mine.username, "other")
            in_owner(end, lambda: end.abort(CloudUnavailableError("given up")))
            wait_until(lambda: any("refuses user" in str(loss.problem) for loss in log.lost))
            broker.control("change_password", mine.username, "right")
            wait_until(lambda: len(log.ready) == 2)


def test_a_deleted_virtual_host_is_a_refusal_in_the_end(broker: ControlledBroker, link: Broker, queue: str) -> None:
    name, log = f"vhost{make_id()}", Log()
    broker.control("add_vhost", name)
    broker.control("set_permissions", "-p", name, link.username, ".*", ".*", ".*")
    end = client_end(Broker(link.hosts, link.username, link.password, name), queue, log)
    with pytest.raises(BrokerRefusedError, match="--mq-vhost"), ready(end, log) as thread:
        broker.control("delete_vhost", name)
        thread.join(PATIENCE)
    assert len(log.ready) == 1


def test_an_aborted_connection_is_replaced(link: Broker, queue: str) -> None:
    log = Log()
    end = client_end(link, queue, log)
    reason = CloudUnavailableError("it does not work")

    def give_up() -> bool:
        end.abort(reason)
        return end.is_ready

    with ready(end, log):
        assert in_owner(end, give_up) is False
        wait_until(lambda: len(log.ready) == 2)
        assert end.is_ready
    assert [loss.problem for loss in log.lost] == [reason]
    assert not end.is_ready


def test_all_callbacks_run_in_the_thread_that_runs_the_connection(link: Broker, queue: str) -> None:
    log = Log()
    end = client_end(link, queue, log)
    with ready(end, log) as thread:
        in_owner(end, lambda: end.abort(CloudUnavailableError("given up")))
        wait_until(lambda: len(log.ready) == 2)
        assert in_owner(end, threading.get_ident) == thread.ident
    assert log.threads == {thread.ident}


def test_a_scheduled_call_is_made_unless_it_is_cancelled(link: Broker, queue: str) -> None:
    log, called = Log(), list[str]()
    end = client_end(link, queue, log)
    with ready(end, log):
        start = time.monotonic()
        cancel = in_owner(end, lambda: end.call_later(0.2, lambda: called.append("cancelled")))
        in_owner(end, lambda: end.call_later(0.3, lambda: called.append("kept")))
        in_owner(end, cancel)
        wait_until(lambda: called)
        assert time.monotonic() - start >= 0.3
    assert called == ["kept"]


def test_heartbeats_keep_a_connection_alive_during_a_computation(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEARTBEAT", 1)  # the broker hangs up after 2 to 3 s without one
    log = Log()
    with ready(client_end(link, queue, log), log):
        until = time.monotonic() + 6
        while time.monotonic() < until:
            sum(range(10_000))
    assert len(log.ready) == 1
    assert not log.lost
