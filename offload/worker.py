"""The worker: one thread owns its connection, a second computes, so that a long inference never starves heartbeats."""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from offload.broker import Broker
from offload.rabbitmq import Delivery, RequestQueue
from utils.errors import CloudUnavailableError

SHORTEST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 4.0  # so that a worker is back within 5 s of its broker
DRAIN_TIMEOUT: Final = 25.0
_JOIN_TIMEOUT: Final = 2.0
_POLL: Final = 0.2

log = logging.getLogger(__name__)


class Worker:
    """Takes requests off the queue and hands replies back until it is told to stop.

    The thread that calls ``run`` owns the connection.

    Args:
        broker: where RabbitMQ is.
        queue_name: the request queue.
        answer: (body, request id) -> reply body, called in the computing thread. What it raises ends ``run``, and
            the broker hands its request to another worker.

    Attributes:
        answered: requests that were replied to.
        dropped: messages that named no one to reply to, and replies to clients that had left.
    """

    def __init__(self, broker: Broker, queue_name: str, answer: Callable[[bytes, str], bytes]) -> None:
        self._broker = broker
        self._queue = queue_name
        self._answer = answer
        self._waiting: queue.SimpleQueue[tuple[RequestQueue, Delivery] | None] = queue.SimpleQueue()
        self._unanswered = 0
        self._stopping = False  # not an Event: its lock could be held by the very code that a signal interrupts
        self._failure: BaseException | None = None
        self._pause: float | None = None  # before the next attempt to connect; None until one succeeded
        self.answered = 0
        self.dropped = 0

    def stop(self) -> None:
        """Finish what is being computed, give the rest back, and let ``run`` return; safe in a signal handler."""
        self._stopping = True

    def run(self, on_ready: Callable[[], object]) -> None:
        """Serve until ``stop``; after the first success, reconnect whenever the broker goes away.

        Args:
            on_ready: called each time the queue is being consumed.

        Raises:
            CloudUnavailableError: no broker answered the first time.
            BrokerRefusedError: it refuses the user; asking again would not help.
            CloudError: the queue exists with other settings.
        """
        computing = threading.Thread(target=self._compute, name="compute", daemon=True)
        computing.start()
        try:
            while not self._stopping:
                try:
                    self._serve(on_ready)
                except CloudUnavailableError as problem:
                    if self._pause is None:
                        raise
                    log.warning("%s; trying again in %.1f s", problem, self._pause)
                    self._rest(self._pause)
                    self._pause = min(2 * self._pause, LONGEST_PAUSE)
        finally:
            self._waiting.put(None)
            # Not for long: without a connection, what is still being computed is for another worker to answer.
            computing.join(_JOIN_TIMEOUT)
        if self._failure is not None:
            raise self._failure

    def _rest(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, _POLL))

    def _serve(self, on_ready: Callable[[], object]) -> None:
        requests = RequestQueue(self._broker, self._queue)
        self._unanswered, self._pause = 0, SHORTEST_PAUSE
        try:
            on_ready()
            while not self._stopping:
                for delivery in requests.receive(_POLL):
                    self._unanswered += 1
                    self._waiting.put((requests, delivery))
            self._drain(requests)
        finally:
            requests.close()
            self._take_waiting()
            self.dropped += requests.dropped

    def _drain(self, requests: RequestQueue) -> None:
        """Give back the requests that wait here, and answer the one that is being computed."""
        requests.stop_receiving()
        for delivery in self._take_waiting():
            requests.give_back(delivery)
            self._unanswered -= 1
        deadline = time.monotonic() + DRAIN_TIMEOUT
        while self._unanswered and self._failure is None and time.monotonic() < deadline:
            requests.receive(_POLL)

    def _take_waiting(self) -> list[Delivery]:
        """Take away from the computing thread the requests that it has not begun."""
        taken = []
        with contextlib.suppress(queue.Empty):  # no look whether it is empty: the other thread may be quicker
            while (waiting := self._waiting.get_nowait()) is not None:
                taken.append(waiting[1])
        return taken

    def _compute(self) -> None:
        try:
            while (waiting := self._waiting.get()) is not None:
                requests, delivery = waiting
                reply = self._answer(delivery.body, delivery.request_id)
                try:
                    requests.call_soon(partial(self._finish, requests, delivery, reply))
                except CloudUnavailableError:
                    log.warning("the connection broke before a reply went out; the broker hands the request out again")
        except BaseException as problem:  # raised again by ``run``: who cannot compute must not go on taking requests
            self._failure = problem
            self.stop()

    def _finish(self, requests: RequestQueue, delivery: Delivery, reply: bytes) -> None:
        requests.reply(delivery, reply)
        self._unanswered -= 1
        self.answered += 1
