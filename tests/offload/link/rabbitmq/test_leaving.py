"""A connection is stopped in every state, while other threads call it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from offload.link.broker import Broker, Host, Tls
from offload.link.private_broker import find_free_port
from offload.link.rabbitmq import client_end as client_end_module
from offload.link.rabbitmq import connection
from offload.link.rabbitmq.connection import Connection
from tests.offload.link.rabbitmq.ends import (
    BOTH_ENDS,
    Log,
    client_end,
    in_owner,
    open_sockets,
    ready,
    run_to_its_end,
    running,
)
from tests.offload.link_ends import PATIENCE, Relay, at, listening, wait_until
from utils.errors import BrokerRefusedError, CloudUnavailableError

NEVER = 10 * PATIENCE


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever waits for a timeout or a pause would wait too long for its test."""
    for name in ("CLOSE_TIMEOUT", "CONNECT_TIMEOUT", "SHORTEST_PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(connection, name, NEVER)


@pytest.fixture(autouse=True)
def _no_socket_is_left_behind(link: Broker) -> Iterator[None]:
    assert link.hosts, "the node runs, and has its sockets"
    before = open_sockets()
    yield
    wait_until(lambda: open_sockets() <= before)


def local(port: int, tls: Tls | None = None) -> Broker:
    return Broker((Host("127.0.0.1", port),), tls=tls)


def silence(_peer: socket.socket) -> None:
    pass


@contextmanager
def resolving() -> Iterator[Broker]:
    """Yield a broker whose name takes long to look up."""
    over, look_up = threading.Event(), socket.getaddrinfo

    def wait(*arguments: Any, **options: Any) -> Any:
        over.wait(PATIENCE)
        return look_up(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", wait)
        try:
            yield local(find_free_port())
        finally:
            over.set()


@contextmanager
def knocking() -> Iterator[Broker]:
    """Yield a broker at whose port no connection is taken: its backlog is full."""
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):
            knock = sockets.enter_context(socket.socket())
            knock.setblocking(False)
            with suppress(BlockingIOError):
                knock.connect(listener.getsockname())
        yield local(listener.getsockname()[1])


@contextmanager
def greeting() -> Iterator[Broker]:
    with listening(silence) as port:
        yield local(port)


@contextmanager
def shaking_hands() -> Iterator[Broker]:
    with listening(silence) as port:
        yield local(port, Tls())


@contextmanager
def between_attempts() -> Iterator[Broker]:
    yield local(find_free_port())


STAGES = (resolving, knocking, greeting, shaking_hands, between_attempts)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("stage", STAGES)
def test_an_attempt_to_connect_can_be_stopped_at_once(stage: Callable[[], Any], times: int) -> None:
    log = Log()
    with stage() as broker:
        end = client_end(broker, "q", log)
        with running(end) as thread:
            if stage is between_attempts:
                wait_until(lambda: log.lost)
            else:
                time.sleep(0.3)  # nothing tells how far it is
                assert not log.lost
            for _ in range(times):
                end.stop()
            thread.join(PATIENCE)
            assert not thread.is_alive()
    assert not log.ready


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("make_end", BOTH_ENDS)
@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_a_connection_to_a_responsive_broker_closes_at_once(
    make_end: Callable[[Broker, str, Log], Connection], times: int, link: Broker, queue: str
) -> None:
    log = Log()
    end = make_end(link, queue, log)
    with ready(end, log) as thread:
        for _ in range(times):
            end.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not log.lost, "it was not lost but left"
    assert not end.is_ready


def test_a_connection_to_a_silent_broker_closes_within_the_timeout(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.5)
    relay, log = Relay(link.hosts[0].port), Log()
    with relay.running() as port:
        end = client_end(at(link, port), queue, log)
        with ready(end, log) as thread:
            relay.fall_silent()
            start = time.monotonic()
            end.stop()
            thread.join(PATIENCE)
            assert time.monotonic() - start >= 0.5
            assert not thread.is_alive()
    assert not log.lost


@pytest.mark.usefixtures("slow")
def test_an_end_stopped_before_its_run_does_not_connect(link: Broker, queue: str) -> None:
    log = Log()
    end = client_end(link, queue, log)
    end.stop()
    run_to_its_end(end)
    assert not log.ready
    assert not log.lost


@pytest.mark.usefixtures("slow")
def test_a_connection_that_is_being_aborted_closes_at_once(link: Broker, queue: str) -> None:
    log = Log()
    end = client_end(link, queue, log)

    def give_up_and_leave() -> None:
        end.abort(CloudUnavailableError("given up"))
        end.stop()

    with ready(end, log) as thread:
        in_owner(end, give_up_and_leave)
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.usefixtures("slow")
def test_nothing_can_be_sent_after_a_stop(link: Broker, queue: str) -> None:
    log = Log()
    end = client_end(link, queue, log)
    is_ready: list[bool] = []

    def leave() -> None:
        end.stop()
        end.call_soon(lambda: is_ready.append(end.is_ready))

    with ready(end, log) as thread:
        in_owner(end, leave)
        thread.join(PATIENCE)
    assert is_ready == [False]


def test_a_second_stop_is_harmless(link: Broker, queue: str) -> None:
    log = Log()
    end = client_end(link, queue, log)
    with ready(end, log):
        pass
    end.stop()


@pytest.mark.usefixtures("slow")
def test_a_failing_owner_ends_the_run(link: Broker, queue: str) -> None:
    log = Log()
    end = client_end(link, queue, log)
    with pytest.raises(ZeroDivisionError), ready(end, log) as thread:
        end.call_soon(lambda: 1 // 0)
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not end.is_ready


@pytest.mark.usefixtures("slow")
def test_a_failing_ready_callback_ends_the_run(link: Broker, queue: str) -> None:
    class Failing(Log):
        def on_ready(self) -> None:
            super().on_ready()
            raise ZeroDivisionError

    log = Failing()
    with pytest.raises(ZeroDivisionError):
        run_to_its_end(client_end(link, queue, log))
    assert len(log.ready) == 1
    assert not log.lost


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("stage", STAGES)
def test_a_failing_owner_during_an_attempt_ends_the_run(stage: Callable[[], Any]) -> None:
    with stage() as broker:
        end = client_end(broker, "q", Log())
        with pytest.raises(ZeroDivisionError), running(end) as thread:
            time.sleep(0.3)  # nothing tells how far it is
            end.call_soon(lambda: 1 // 0)
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_calls_of_other_threads_run_at_once_in_the_owner(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEARTBEAT", 0)  # so that nothing else happens meanwhile
    log = Log()
    end = client_end(link, queue, log)
    with ready(end, log) as thread:
        for _ in range(10):
            assert in_owner(end, threading.get_ident) == thread.ident


def test_calls_after_the_end_are_refused(link: Broker, queue: str) -> None:
    log = Log()
    end = client_end(link, queue, log)
    with ready(end, log):
        pass
    with pytest.raises(CloudUnavailableError, match="was closed"):
        end.call_soon(lambda: None)


def test_accepted_calls_run_even_if_the_run_fails() -> None:
    end, done = client_end(local(find_free_port()), "q", Log()), list[str]()
    end.call_soon(lambda: 1 // 0)
    end.call_soon(lambda: done.append("after"))
    with pytest.raises(ZeroDivisionError):
        run_to_its_end(end)
    assert done == ["after"]


def test_calls_during_a_stop_either_run_or_are_refused(link: Broker, queue: str) -> None:
    log, done, taken = Log(), list[int](), list[int]()
    end = client_end(link, queue, log)

    def ask(number: int) -> None:
        with suppress(CloudUnavailableError):
            for task in range(number, 10**9, 3):
                end.call_soon(lambda task=task: done.append(task))  # type: ignore[misc]
                taken.append(task)

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(3)]
    with ready(end, log):
        for thread in threads:
            thread.start()
        wait_until(lambda: len(done) > 100)
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert sorted(done) == sorted(taken)


def test_a_refusal_leaves_no_connection_behind(link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_end_module, "REPLY_QUEUE", "amq.")  # which the broker keeps to itself
    relay = Relay(link.hosts[0].port)
    with relay.running() as port:
        with pytest.raises(BrokerRefusedError, match="ACCESS_REFUSED"):
            run_to_its_end(client_end(at(link, port), queue, Log()))
        wait_until(relay.hung_up.is_set)


def test_aborted_connections_leave_no_socket_behind(link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SHORTEST_PAUSE", 0.01)
    log = Log()
    end = client_end(link, queue, log)
    with ready(end, log):
        count = len(open_sockets())
        for times in range(2, 12):
            in_owner(end, lambda: end.abort(CloudUnavailableError("given up")))
            wait_until(lambda times=times: len(log.ready) == times)  # type: ignore[misc]
        assert len(open_sockets()) == count


def test_the_timeout_of_an_attempt_that_was_aborted_during_the_greeting_does_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a busy machine, it is due in the same turn of the loop in which the connection is closed."""
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 0.2)  # twice that for the whole attempt
    with listening(silence) as port:
        end = client_end(local(port), "q", Log())

        def stop_late() -> None:
            assert end._attempt is not None and end._attempt._connector._amqp_conn is not None
            end.stop()
            time.sleep(0.5)  # the loop stops the end in its next turn, in which the timeout is due as well

        end.call_later(0.1, stop_late)
        end.run()
