"""Helpers that run both ends of the link in a thread and record their callbacks."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from offload.link.broker import Broker
from offload.link.rabbitmq.client_end import RequestSender
from offload.link.rabbitmq.connection import Connection
from offload.link.rabbitmq.worker_end import Delivery, RequestQueue
from tests.offload.link_ends import PATIENCE, wait_until
from utils.errors import CloudUnavailableError

T = TypeVar("T")


@dataclass(frozen=True)
class Loss:
    """A call of ``on_lost``: the problem and the time."""

    problem: CloudUnavailableError
    at: float


class Log:
    """Records the callbacks of either end.

    Attributes:
        ready: times of ``on_ready``.
        lost: calls of ``on_lost``.
        threads: identifiers of the threads that called these two.
        blocked: arguments of ``on_blocked``.
        requests, abandoned, dropped, unroutable: callbacks of a worker's end.
        replies, oversize, confirmed, returned: callbacks of a client's end.
    """

    def __init__(self) -> None:
        self.ready: list[float] = []
        self.lost: list[Loss] = []
        self.threads: set[int] = set()
        self.blocked: list[CloudUnavailableError | None] = []
        self.requests: list[Delivery] = []
        self.abandoned: list[Delivery] = []
        self.dropped = self.unroutable = 0
        self.replies: list[tuple[str, bytes]] = []
        self.oversize: list[int] = []
        self.confirmed: list[str] = []
        self.returned: list[tuple[str, str]] = []

    def on_ready(self) -> None:
        self.threads.add(threading.get_ident())
        self.ready.append(time.monotonic())

    def on_lost(self, problem: CloudUnavailableError) -> None:
        self.threads.add(threading.get_ident())
        self.lost.append(Loss(problem, time.monotonic()))

    def on_blocked(self, problem: CloudUnavailableError | None) -> None:
        self.blocked.append(problem)

    def on_request(self, delivery: Delivery) -> None:
        self.requests.append(delivery)

    def on_abandoned(self, delivery: Delivery) -> None:
        self.abandoned.append(delivery)

    def on_dropped(self) -> None:
        self.dropped += 1

    def on_unroutable(self) -> None:
        self.unroutable += 1

    def on_reply(self, request_id: str, body: bytes) -> None:
        self.replies.append((request_id, body))

    def on_oversize_reply(self, size: int) -> None:
        self.oversize.append(size)

    def on_confirmed(self, request_id: str) -> None:
        self.confirmed.append(request_id)

    def on_returned(self, request_id: str, why: str) -> None:
        self.returned.append((request_id, why))


def client_end(broker: Broker, queue: str, log: Log) -> RequestSender:
    return RequestSender(broker, queue, log)


def worker_end(broker: Broker, queue: str, log: Log) -> RequestQueue:
    return RequestQueue(broker, queue, log, prefetch=16)


BOTH_ENDS = (client_end, worker_end)


@contextmanager
def running(
    end: Connection, within: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
) -> Iterator[threading.Thread]:
    """Run an end of the link in a thread, and stop it afterwards. Raise an exception of ``run`` at the end."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with within():
                end.run()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        end.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive(), "it did not stop"
        if failures:
            raise failures[0]


@contextmanager
def ready(end: Connection, log: Log) -> Iterator[threading.Thread]:
    """Run an end in a thread, once it is ready."""
    with running(end) as thread:
        wait_until(lambda: log.ready or not thread.is_alive())
        yield thread


def run_to_its_end(end: Connection) -> None:
    """Run an end until it ends itself; stop it if it does not."""
    watchdog = threading.Timer(PATIENCE, end.stop)
    watchdog.start()
    try:
        end.run()
    finally:
        watchdog.cancel()
        watchdog.join()


def first_loss(end: Connection, log: Log) -> Loss:
    """Run an end until the first call of ``on_lost``."""
    with running(end) as thread:
        wait_until(lambda: log.lost or not thread.is_alive())
    return log.lost[0]


def in_owner(end: Connection, work: Callable[[], T]) -> T:
    """Run a function in the thread that owns an end, and return its result."""
    outcome: Future[T] = Future()

    def do() -> None:
        try:
            outcome.set_result(work())
        except BaseException as problem:
            outcome.set_exception(problem)

    end.call_soon(do)
    return outcome.result(PATIENCE)


def is_one_line(error: BaseException) -> bool:
    return "\n" not in str(error)


def open_sockets() -> set[str]:
    """Return the sockets and pollers that this process has open."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(str(descriptor.readlink()))
    return {name for name in found if name.startswith("socket:") or "eventpoll" in name}
