"""The worker: answer requests; one thread owns the connection, another one computes waiting requests together.

A long inference therefore never delays heartbeats, and many small requests cost little more than one large one.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from offload.link.batch_report import BatchReport, make_report
from offload.link.broker import Broker
from offload.link.protocol import Answer, Refusal, Request, describe_oversize, encode_answer, encode_refusal
from offload.link.rabbitmq.broker_errors import BROKER_FAILED
from offload.link.rabbitmq.worker_end import Delivery, RequestQueue
from offload.link.responder import Responder
from offload.link.worker_settings import WorkerSettings
from offload.operations.logs import RateLimitedLog
from offload.operations.metrics import ABANDONED, EXPIRED, WorkerMetrics
from utils.errors import CloudUnavailableError

DRAIN_TIMEOUT: Final = 25.0
_JOIN_TIMEOUT: Final = 4.0
_POLL: Final = 0.1
_EARLY_TRIES: Final = 8  # if the broker runs, but fails while the worker consumes the queue for the first time

log = logging.getLogger(__name__)
_rate_limited = RateLimitedLog(log)


class Worker:
    """Consumes requests and publishes replies until it is stopped.

    Args:
        broker: connection settings.
        queue_name: the request queue.
        responder: decodes and answers requests, in the computing thread. An exception that it raises ends ``run``, and
            the broker delivers its requests to another worker.
        settings: how requests are received and merged.
        metrics: are updated.
        on_batch: called in the computing thread after each batch.

    Attributes:
        answered, refused: number of requests with such a reply.
        events: number of events in the answered requests.
        dropped: number of messages without a reply queue, and of replies to clients that had left.
    """

    def __init__(
        self,
        broker: Broker,
        queue_name: str,
        responder: Responder,
        settings: WorkerSettings,
        metrics: WorkerMetrics,
        on_batch: Callable[[BatchReport], object] = lambda _batch: None,
    ) -> None:
        self._responder = responder
        self._settings = settings
        self._metrics = metrics
        self._on_batch = on_batch
        self._on_ready: Callable[[], object] = lambda: None
        self._requests = RequestQueue(
            broker, queue_name, self, settings.prefetch, settings.queue_type, settings.largest_body
        )
        self._waiting: deque[Delivery] = deque()
        self._changed = threading.Condition()  # guards the waiting requests and the two attributes below
        self._computing = self._ending = False
        self._together = 1  # number of requests in the last batch
        self._stopping = False  # not an Event: the code that a signal interrupts could hold its lock
        self._was_ready = False
        self._early_tries = 0
        self._outage: float | None = None
        self._blocked: tuple[float, CloudUnavailableError] | None = None  # since when, and why
        self._failure: BaseException | None = None
        self.answered = self.refused = self.events = self.dropped = 0
        self._threads = [
            threading.Thread(target=self._run_guarded, args=(work,), name=name, daemon=True)
            for name, work in (("rabbitmq", self._requests.run), ("compute", self._compute))
        ]

    def stop(self) -> None:
        """Finish the current batch, requeue the other requests, and let ``run`` return; safe in a signal handler."""
        self._stopping = True

    def check_liveness(self) -> str | None:
        """Return why this process must be restarted, None if it works."""
        dead = [thread.name for thread in self._threads if not thread.is_alive()]
        return f"thread {dead[0]} has ended" if dead else None

    def check_readiness(self) -> str | None:
        """Return why no requests are consumed at the moment, None if they are."""
        if self._stopping:
            return "stopping"
        if not self._requests.is_ready:
            return "no connection to RabbitMQ"
        return None if (blocked := self._blocked) is None else str(blocked[1])

    def run(self, on_ready: Callable[[], object]) -> None:
        """Serve until ``stop``; after the first connection, reconnect whenever it is lost.

        Args:
            on_ready: called whenever the worker begins to consume the queue.

        Raises:
            CloudUnavailableError: no broker answered the first attempt to connect.
            BrokerRefusedError: the broker refuses user, password, virtual host or certificate.
            CloudError: the queue exists with other settings.
        """
        if self._stopping:
            self._requests.stop()
            self._requests.run()  # closes the event loop, without connecting
            return
        self._on_ready = on_ready
        for thread in self._threads:
            thread.start()
        while not self._stopping and self._failure is None:
            time.sleep(_POLL)  # a signal interrupts a sleep, but not the wait for a lock
        self._stopping = True
        if self._failure is None:
            self._drain()
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._requests.stop()
        # Not for long: without a connection, another worker answers the requests that are still computed here.
        deadline = time.monotonic() + _JOIN_TIMEOUT
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._metrics.connected.set(0)
        if self._failure is not None:
            raise self._failure

    def _run_guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as problem:  # ``run`` raises it again: the worker must not continue to consume
            self._failure = self._failure or problem

    def _drain(self) -> None:
        """Requeue the waiting requests, and answer the current batch."""
        deadline = time.monotonic() + DRAIN_TIMEOUT
        cancelled = threading.Event()
        try:
            self._requests.call_soon(lambda: self._requests.stop_receiving(cancelled.set))
            while not cancelled.wait(_POLL) and self._can_send() and time.monotonic() < deadline:
                pass
            with self._changed:
                deliveries = list(self._waiting)
                self._waiting.clear()
                self._metrics.waiting.set(0)
            for delivery in deliveries:
                self._requests.call_soon(partial(self._requests.requeue, delivery))
            self._metrics.requeued.inc(len(deliveries))
        except CloudUnavailableError:  # the broker requeues them itself
            return
        with self._changed:
            # Stop waiting if no reply can be sent, or if the computation has failed.
            while self._computing and self._failure is None and self._can_send() and time.monotonic() < deadline:
                self._changed.wait(_POLL)

    def _can_send(self) -> bool:
        """Return whether RabbitMQ accepts replies."""
        return self._requests.is_ready and not self._requests.is_blocked

    # The methods below run in the thread that owns the connection.

    def on_ready(self) -> None:
        """Record that the queue is being consumed."""
        if self._outage is not None:
            log.warning("RabbitMQ is back after %.1f s", time.monotonic() - self._outage)
        self._outage, self._was_ready = None, True
        self._metrics.connected.set(1)
        self._on_ready()

    def on_lost(self, problem: CloudUnavailableError) -> None:
        """Discard the waiting requests: the broker requeues them."""
        if not self._was_ready:
            self._early_tries += 1
            if problem.code != BROKER_FAILED or self._early_tries == _EARLY_TRIES:
                raise problem  # a wrong host or port is reported at once
        if self._outage is None:
            self._outage = time.monotonic()
            self._metrics.connection_losses.inc()
            log.warning("%s", problem)
        self._metrics.connected.set(0)
        self._blocked = None
        self._metrics.blocked.set(0)
        with self._changed:
            self._waiting.clear()
            self._metrics.waiting.set(0)

    def on_blocked(self, problem: CloudUnavailableError | None) -> None:
        """Record that RabbitMQ blocks replies, or accepts them again."""
        if problem is not None:
            self._blocked = time.monotonic(), problem
            log.warning("%s", problem)
        elif self._blocked is not None:
            log.warning("RabbitMQ accepts messages again after %.1f s", time.monotonic() - self._blocked[0])
            self._blocked = None
        self._metrics.blocked.set(problem is not None)

    def on_request(self, delivery: Delivery) -> None:
        """Add a request to the waiting requests."""
        self._metrics.received_bytes.inc(delivery.size)
        self._metrics.redelivered.inc(delivery.redelivered)
        largest, refusal = self._settings.largest_body, None
        if delivery.size > largest:
            refusal = Refusal(delivery.request_id, "too-large", describe_oversize(delivery.size, largest))
        with self._changed:
            delivery.received, delivery.request = time.monotonic(), refusal
            self._waiting.append(delivery)
            self._metrics.waiting.set(len(self._waiting))
            self._changed.notify_all()

    def on_abandoned(self, delivery: Delivery) -> None:
        """Count a request that was discarded because its client has left."""
        self._metrics.received_bytes.inc(delivery.size)
        self._metrics.redelivered.inc(delivery.redelivered)
        self._metrics.requests.labels(code=ABANDONED).inc()

    def on_dropped(self) -> None:
        """Count a message without a reply queue."""
        self.dropped += 1
        self._metrics.dropped_messages.inc()
        _rate_limited.warning("dropped", "discarded a message without a request id or a reply queue")

    def on_unroutable(self) -> None:
        """Count a reply to a client that has left."""
        self.dropped += 1
        self._metrics.unroutable_replies.inc()
        _rate_limited.warning("unroutable", "discarded a reply: its client has left")

    # The methods below run in the computing thread.

    def _compute(self) -> None:
        while deliveries := self._gather():
            start = time.monotonic()
            self._answer(deliveries, start)
            with self._changed:
                self._computing = False
                self._changed.notify_all()

    def _gather(self) -> list[Delivery]:
        """Wait for requests and return the next batch; an empty list at the end."""
        deliveries: list[Delivery] = []
        events, until = 0, None
        while events < self._settings.max_batch and len(deliveries) < self._settings.prefetch:
            delivery = self._wait_for_oldest(until)
            if delivery is None:
                break
            if time.monotonic() - delivery.received > delivery.seconds:
                self._discard(delivery, EXPIRED)
                continue
            if self._requests.is_abandoned(delivery):
                self._discard(delivery, ABANDONED)
                continue
            delivery.request = delivery.request or self._responder.decode(delivery.body, delivery.request_id)
            size = 0 if isinstance(delivery.request, Refusal) else len(delivery.request.tensor)
            if deliveries and events + size > self._settings.max_batch:
                break
            with self._changed:
                if not self._waiting or self._waiting[0] is not delivery:
                    continue  # requeued, or lost with its connection
                self._waiting.popleft()
                self._computing = True
                self._metrics.waiting.set(len(self._waiting))
            deliveries.append(delivery)
            events += size
            if len(deliveries) in (1, self._together):  # wait for as many as last time, then take only what is here
                until = time.monotonic() + (self._settings.batch_wait if len(deliveries) < self._together else 0.0)
        self._together = len(deliveries)
        return deliveries

    def _discard(self, delivery: Delivery, code: str) -> None:
        """Acknowledge a request whose client no longer waits, and count it under a code."""
        with self._changed:
            if not self._waiting or self._waiting[0] is not delivery:
                return  # requeued, or lost with its connection: to acknowledge it now would close the channel
            self._waiting.popleft()
            self._metrics.waiting.set(len(self._waiting))
        self._metrics.requests.labels(code=code).inc()
        with contextlib.suppress(CloudUnavailableError):
            self._requests.call_soon(lambda: self._requests.discard(delivery))

    def _wait_for_oldest(self, until: float | None) -> Delivery | None:
        """Wait for a request and return the oldest one; None at the end, or after ``until``."""
        with self._changed:
            seconds = None if until is None else max(0.0, until - time.monotonic())
            self._changed.wait_for(lambda: self._waiting or self._ending, seconds)
            return self._waiting[0] if self._waiting and not self._ending else None

    def _answer(self, deliveries: Sequence[Delivery], start: float) -> None:
        requests = [delivery.request for delivery in deliveries if isinstance(delivery.request, Request)]
        answers = iter(self._responder.answer(requests) if requests else ())
        replies = [
            delivery.request if isinstance(delivery.request, Refusal) else next(answers) for delivery in deliveries
        ]
        seconds = time.monotonic() - start
        bodies = [encode_refusal(reply) if isinstance(reply, Refusal) else encode_answer(reply) for reply in replies]
        report = make_report(deliveries, replies, start, seconds)
        self._observe_batch(deliveries, report, start)
        self._on_batch(report)
        try:
            self._requests.call_soon(lambda: self._reply(deliveries, replies, bodies))
        except CloudUnavailableError:
            log.warning("the connection was lost before replies were sent; the broker requeues the requests")

    def _reply(
        self, deliveries: Sequence[Delivery], replies: Sequence[Answer | Refusal], bodies: Sequence[bytes]
    ) -> None:
        """Send replies and count them, in the thread that owns the connection."""
        for delivery, reply, body in zip(deliveries, replies, bodies, strict=True):
            if not self._requests.reply(delivery, body):
                continue
            self._metrics.sent_bytes.inc(len(body))
            if isinstance(reply, Refusal):
                self.refused += 1
                self._metrics.requests.labels(code=reply.code).inc()
            else:
                self.answered += 1
                self.events += len(reply.logits)
                self._metrics.requests.labels(code="answered").inc()
                self._metrics.events.inc(len(reply.logits))

    def _observe_batch(self, deliveries: Sequence[Delivery], report: BatchReport, start: float) -> None:
        for delivery in deliveries:
            self._metrics.queue_wait.observe(start - delivery.received)
        if report.requests:
            self._metrics.batch_events.observe(report.events)
            self._metrics.batch_requests.observe(report.requests)
            self._metrics.inference.observe(report.seconds)
