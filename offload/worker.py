"""The worker: one thread owns the connection, another computes, and requests that wait are computed together.

So a long inference never starves heartbeats, and many small requests cost little more than one large one.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from offload.broker import Broker
from offload.logs import Sparing
from offload.metrics import ABANDONED, EXPIRED, WorkerMetrics
from offload.protocol import Answer, Refusal, Request, encode_answer, encode_refusal, too_large
from offload.rabbitmq.problems import BROKER_FAILED
from offload.rabbitmq.worker_end import Delivery, RequestQueue
from offload.service import Answering, Batch, Service
from utils.errors import CloudUnavailableError

DRAIN_TIMEOUT: Final = 25.0
_JOIN_TIMEOUT: Final = 4.0
_POLL: Final = 0.1
_EARLY_TRIES: Final = 8  # of a broker that is there, but fails to give us the queue

log = logging.getLogger(__name__)
_seldom = Sparing(log)


@dataclass
class _Task:
    """A request that waits here."""

    delivery: Delivery
    received: float
    request: Request | Refusal | None = field(default=None)  # None until it was decoded


class Worker:
    """Takes requests off the queue and hands replies back until it is told to stop.

    Args:
        broker: where RabbitMQ is.
        queue_name: the request queue.
        answering: decodes and computes, in the computing thread alone. What it raises ends ``run``, and the broker
            hands its requests to another worker.
        service: how requests are taken.
        metrics: count what happens.
        on_batch: called in the computing thread after each batch.

    Attributes:
        answered, refused: requests that were replied to.
        events: in those answered.
        dropped: messages that named no one to reply to, and replies to clients that had left.
    """

    def __init__(
        self,
        broker: Broker,
        queue_name: str,
        answering: Answering,
        service: Service,
        metrics: WorkerMetrics,
        on_batch: Callable[[Batch], object] = lambda _batch: None,
    ) -> None:
        self._answering = answering
        self._service = service
        self._metrics = metrics
        self._on_batch = on_batch
        self._on_ready: Callable[[], object] = lambda: None
        self._requests = RequestQueue(
            broker, queue_name, self, service.prefetch, service.queue_type, service.largest_body
        )
        self._waiting: deque[_Task] = deque()
        self._changed = threading.Condition()  # guards the two below and what waits
        self._computing = self._ending = False
        self._together = 1  # how many requests were in the last batch
        self._stopping = False  # not an Event: its lock could be held by the very code that a signal interrupts
        self._was_ready = False
        self._early_tries = 0
        self._outage: float | None = None
        self._blocked: tuple[float, CloudUnavailableError] | None = None  # since when, and why
        self._failure: BaseException | None = None
        self.answered = self.refused = self.events = self.dropped = 0
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            for name, work in (("rabbitmq", self._requests.run), ("compute", self._compute))
        ]

    def stop(self) -> None:
        """Finish what is being computed, give the rest back, and let ``run`` return; safe in a signal handler."""
        self._stopping = True

    def alive(self) -> str | None:
        """Return what is wrong with this process, if anything."""
        dead = [thread.name for thread in self._threads if not thread.is_alive()]
        return f"thread {dead[0]} has ended" if dead else None

    def ready(self) -> str | None:
        """Return why no requests are being taken, if so."""
        if self._stopping:
            return "stopping"
        if not self._requests.is_ready:
            return "no connection to RabbitMQ"
        return None if (blocked := self._blocked) is None else str(blocked[1])

    def run(self, on_ready: Callable[[], object]) -> None:
        """Serve until ``stop``; after the first success, connect again whenever the broker goes away.

        Args:
            on_ready: called each time the queue is being consumed.

        Raises:
            CloudUnavailableError: no broker answered the first time.
            BrokerRefusedError: it refuses the user; asking again would not help.
            CloudError: the queue exists with other settings.
        """
        if self._stopping:
            self._requests.stop()
            self._requests.run()  # it connects to nothing, and closes what it has open
            return
        self._on_ready = on_ready
        for thread in self._threads:
            thread.start()
        while not self._stopping and self._failure is None:
            time.sleep(_POLL)  # a signal ends no wait for a lock, but this
        self._stopping = True
        if self._failure is None:
            self._drain()
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._requests.stop()
        # Not for long: without a connection, what is still being computed is for another worker to answer.
        deadline = time.monotonic() + _JOIN_TIMEOUT
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._metrics.connected.set(0)
        if self._failure is not None:
            raise self._failure

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as problem:  # raised again by ``run``: who cannot compute must not go on taking requests
            self._failure = self._failure or problem

    def _drain(self) -> None:
        """Give back the requests that wait here, and answer those that are being computed."""
        deadline = time.monotonic() + DRAIN_TIMEOUT
        cancelled = threading.Event()
        try:
            self._requests.call_soon(lambda: self._requests.stop_receiving(cancelled.set))
            while not cancelled.wait(_POLL) and self._is_heard() and time.monotonic() < deadline:
                pass
            with self._changed:
                tasks = list(self._waiting)
                self._waiting.clear()
                self._metrics.waiting.set(0)
            for task in tasks:
                self._requests.call_soon(partial(self._requests.give_back, task.delivery))
            self._metrics.given_back.inc(len(tasks))
        except CloudUnavailableError:  # then the broker does it
            return
        with self._changed:
            # In vain once there is no one to reply to, or nothing to come.
            while self._computing and self._failure is None and self._is_heard() and time.monotonic() < deadline:
                self._changed.wait(_POLL)

    def _is_heard(self) -> bool:
        """Return whether RabbitMQ reads what we send."""
        return self._requests.is_ready and not self._requests.is_blocked

    # Called in the thread that owns the connection.

    def on_ready(self) -> None:
        """Note that the queue is being consumed."""
        if self._outage is not None:
            log.warning("RabbitMQ is back after %.1f s", time.monotonic() - self._outage)
        self._outage, self._was_ready = None, True
        self._metrics.connected.set(1)
        self._on_ready()

    def on_lost(self, problem: CloudUnavailableError) -> None:
        """Forget the requests that wait here: the broker hands them out again."""
        if not self._was_ready:
            self._early_tries += 1
            if problem.code != BROKER_FAILED or self._early_tries == _EARLY_TRIES:
                raise problem  # a wrong host or port is told at once, and not tried for ever
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
        """Note that replies do not reach RabbitMQ for now, or that they do again."""
        if problem is not None:
            self._blocked = time.monotonic(), problem
            log.warning("%s", problem)
        elif self._blocked is not None:
            log.warning("RabbitMQ takes messages again after %.1f s", time.monotonic() - self._blocked[0])
            self._blocked = None
        self._metrics.blocked.set(problem is not None)

    def on_request(self, delivery: Delivery) -> None:
        """Put a request among those that wait."""
        self._metrics.received_bytes.inc(delivery.size)
        self._metrics.redelivered.inc(delivery.redelivered)
        refusal = None
        if delivery.size > self._service.largest_body:
            refusal = Refusal(delivery.request_id, "too-large", too_large(delivery.size, self._service.largest_body))
        with self._changed:
            self._waiting.append(_Task(delivery, time.monotonic(), refusal))
            self._metrics.waiting.set(len(self._waiting))
            self._changed.notify_all()

    def on_abandoned(self, delivery: Delivery) -> None:
        """Count a request of a client that has left, which is not computed."""
        self._metrics.received_bytes.inc(delivery.size)
        self._metrics.redelivered.inc(delivery.redelivered)
        self._metrics.requests.labels(code=ABANDONED).inc()

    def on_dropped(self) -> None:
        """Count a message that names no one to reply to."""
        self.dropped += 1
        self._metrics.dropped_messages.inc()
        _seldom.warning("dropped", "dropped a message that names no request id or no queue to reply to")

    def on_unroutable(self) -> None:
        """Count a reply to a client that has left."""
        self.dropped += 1
        self._metrics.unroutable_replies.inc()
        _seldom.warning("unroutable", "a client left before its reply came")

    # All that follows runs in the computing thread.

    def _compute(self) -> None:
        while tasks := self._gather():
            start = time.monotonic()
            self._answer(tasks, start)
            with self._changed:
                self._computing = False
                self._changed.notify_all()

    def _gather(self) -> list[_Task]:
        """Wait for a request, take those that can be computed with it, and return them; none at the end."""
        tasks: list[_Task] = []
        events, until = 0, None
        while events < self._service.max_batch and len(tasks) != self._service.prefetch:  # more cannot come
            task = self._head(until)
            if task is None:
                break
            if time.monotonic() - task.received > task.delivery.seconds:
                self._discard(task, EXPIRED)
                continue
            if self._requests.is_abandoned(task.delivery):
                self._discard(task, ABANDONED)
                continue
            task.request = task.request or self._answering.decode(task.delivery.body, task.delivery.request_id)
            size = 0 if isinstance(task.request, Refusal) else len(task.request.tensor)
            if tasks and events + size > self._service.max_batch:
                break
            with self._changed:
                if not self._waiting or self._waiting[0] is not task:
                    continue  # given back, or lost with its connection
                self._waiting.popleft()
                self._computing = True
                self._metrics.waiting.set(len(self._waiting))
            tasks.append(task)
            events += size
            if len(tasks) in (1, self._together):
                until = time.monotonic() + (self._service.batch_wait if len(tasks) < self._together else 0.0)
        self._together = len(tasks)
        return tasks

    def _discard(self, task: _Task, code: str) -> None:
        """Drop a request whose client waits no longer, and count it under a code."""
        with self._changed:
            if not self._waiting or self._waiting[0] is not task:
                return  # given back, or lost with its connection: acknowledged now, it would close the channel
            self._waiting.popleft()
            self._metrics.waiting.set(len(self._waiting))
        self._metrics.requests.labels(code=code).inc()
        with contextlib.suppress(CloudUnavailableError):
            self._requests.call_soon(lambda: self._requests.discard(task.delivery))

    def _head(self, until: float | None) -> _Task | None:
        """Return the request that has waited longest, once there is one; None at the end, or when the time is up."""
        with self._changed:
            seconds = None if until is None else max(0.0, until - time.monotonic())
            self._changed.wait_for(lambda: self._waiting or self._ending, seconds)
            return self._waiting[0] if self._waiting and not self._ending else None

    def _answer(self, tasks: Sequence[_Task], start: float) -> None:
        requests = [task.request for task in tasks if isinstance(task.request, Request)]
        answers = iter(self._answering.answer(requests) if requests else ())
        replies = [task.request if isinstance(task.request, Refusal) else next(answers) for task in tasks]
        seconds = time.monotonic() - start
        bodies = [encode_refusal(reply) if isinstance(reply, Refusal) else encode_answer(reply) for reply in replies]
        self._count(tasks, replies, start, seconds)
        try:
            self._requests.call_soon(lambda: self._reply(tasks, replies, bodies))
        except CloudUnavailableError:
            log.warning("the connection broke before replies went out; the broker hands the requests out again")

    def _reply(self, tasks: Sequence[_Task], replies: Sequence[Answer | Refusal], bodies: Sequence[bytes]) -> None:
        """Send replies and count them, in the thread that owns the connection."""
        for task, reply, body in zip(tasks, replies, bodies, strict=True):
            if not self._requests.reply(task.delivery, body):
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

    def _count(self, tasks: Sequence[_Task], replies: Sequence[Answer | Refusal], start: float, seconds: float) -> None:
        sizes = [len(reply.logits) for reply in replies if isinstance(reply, Answer)]
        refusals = tuple(reply for reply in replies if isinstance(reply, Refusal))
        clients = {task.request.client_id for task in tasks if isinstance(task.request, Request)}
        for task in tasks:
            self._metrics.queue_wait.observe(start - task.received)
        if sizes:
            self._metrics.batch_events.observe(sum(sizes))
            self._metrics.batch_requests.observe(len(sizes))
            self._metrics.inference.observe(seconds)
        self._on_batch(Batch(len(sizes), sum(sizes), len(clients), refusals, seconds, start - tasks[0].received))
