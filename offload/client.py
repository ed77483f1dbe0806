"""The client: many requests to cloud workers at once, each of which ends exactly once, whatever becomes of the link.

A thread of its own owns the connection and all that is noted of the requests; other threads hand requests in and get
a future of the answer.
"""

import logging
import math
import threading
import time
from concurrent.futures import Future
from typing import Final

from offload.breaker import Breaker
from offload.broker import Broker
from offload.logs import Sparing
from offload.metrics import ClientMetrics
from offload.pending_requests import Patience, PendingRequest
from offload.protocol import LARGEST_REPLY, Answer, Refusal, Request, decode_reply, encode_request
from offload.rabbitmq.client_end import RequestSender
from offload.rabbitmq.problems import BROKER_BLOCKED
from utils.errors import CloudUnavailableError, MessageError

QUEUE_RETURN: Final = 30.0
"""Seconds after a reconnection within which a missing queue may still come back: workers reconnect, too, and declare it
anew, for a broker that was killed may have lost it."""
_FIRST_CONNECTION: Final = 15.0
_JOIN: Final = 5.0

log = logging.getLogger(__name__)
_seldom = Sparing(log)


class Client:
    """Use it in a ``with`` block, which waits until it is known whether there is a broker, not for the broker.

    Args:
        broker: where RabbitMQ is.
        queue_name: the request queue.
        patience: with each request.
        metrics: count what happens.

    Attributes:
        bytes_sent, bytes_received: bodies of messages.

    Raises:
        BrokerRefusedError: on entering: the broker refuses user, password, virtual host or certificate.
        InputFileError: a file for TLS is not what it should be.
    """

    def __init__(self, broker: Broker, queue_name: str, patience: Patience, metrics: ClientMetrics) -> None:
        self._queue = queue_name
        self._broker = broker
        self._patience = patience
        self._metrics = metrics
        self._pending: dict[str, PendingRequest] = {}
        self._breaker = Breaker()
        self._sender = RequestSender(broker, queue_name, self)
        self.bytes_sent = self.bytes_received = 0
        self._known = threading.Event()  # whether there is a broker
        self._failure: BaseException | None = None
        self._outage: float | None = None  # since when, on the monotonic clock
        self._back = -math.inf  # when the connection last came back, on the monotonic clock
        self._blocked: tuple[float, CloudUnavailableError] | None = None  # since when, and why
        self._was_away = False  # whether an attempt to connect has failed since then
        self._thread = threading.Thread(target=self._run, name="rabbitmq", daemon=True)

    def __enter__(self) -> "Client":
        self._thread.start()
        self._known.wait(_FIRST_CONNECTION)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_exception: object) -> None:
        self._sender.stop()
        self._thread.join(_JOIN)

    def close(self) -> None:
        """Begin to close the connection; all requests under way fail, as ``closed``. Safe in any thread, and again."""
        self._sender.stop()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to RabbitMQ."""
        return self._sender.is_ready

    def alive(self) -> str | None:
        """Return what is wrong with this process, if anything."""
        return None if self._thread.is_alive() else "the thread that owns the connection has ended"

    def ready(self) -> str | None:
        """Return why the cloud is not being asked, if so."""
        if not self.is_connected:
            return "no connection to RabbitMQ"
        if (blocked := self._blocked) is not None:
            return str(blocked[1])
        return "the cloud failed to answer" if self._breaker.is_open else None

    def submit(self, request: Request) -> Future[Answer]:
        """Ask for exit 2; safe in any thread.

        Returns:
            the answer to come, or CloudUnavailableError where none came in time, or MessageError where the workers
            refuse the request. Where it is known that asking is vain, it is done at once.
        """
        future: Future[Answer] = Future()
        future.set_running_or_notify_cancel()  # so that no one cancels what will be done
        if self._failure is not None:
            self._metrics.requests.labels(result="closed").inc()
            future.set_exception(self._failure)
        elif (why := self._why_vain()) is not None:
            self._metrics.requests.labels(result=why).inc()
            future.set_exception(CloudUnavailableError(f"{self._broker} was not asked: {why}", why))
        else:
            pending = PendingRequest(request, encode_request(request), future, time.monotonic())
            try:
                self._sender.call_soon(lambda: self._begin(pending))
            except CloudUnavailableError as problem:
                self._metrics.requests.labels(result="closed").inc()
                future.set_exception(CloudUnavailableError(str(problem), "closed"))
        return future

    def _why_vain(self) -> str | None:
        if self._patience.persistent:
            return None
        if not self.is_connected:
            return "no-connection"
        if self._blocked is not None:
            return BROKER_BLOCKED
        return None if self._breaker.allows() else "circuit-open"

    def _run(self) -> None:
        try:
            self._sender.run()
        except BaseException as problem:  # the caller's thread raises it
            self._failure = problem
        finally:
            self._failure = self._failure or CloudUnavailableError("the connection to RabbitMQ was closed", "closed")
            self._metrics.connected.set(0)
            for pending in list(self._pending.values()):
                self._end(pending, self._failure, "closed")
            self._known.set()

    # All that follows runs in the thread that owns the connection.

    def _begin(self, pending: PendingRequest) -> None:
        self._pending[pending.request.request_id] = pending
        self._metrics.in_flight.set(len(self._pending))
        deadline = self._patience.deadline - (time.monotonic() - pending.started)
        pending.cancel_deadline = self._sender.call_later(max(deadline, 0), lambda: self._too_late(pending))
        if self._sender.is_ready:
            self._attempt(pending)

    def _attempt(self, pending: PendingRequest) -> None:
        """Publish a request, for the first time or again.

        Without a connection ``on_ready`` will, and while RabbitMQ blocks publishers ``on_blocked``.
        """
        if pending.future.done() or not self._sender.is_ready or self._blocked is not None:
            return
        left = self._patience.deadline - (time.monotonic() - pending.started)
        seconds = max(min(self._patience.attempt, left), 0.001)
        pending.attempts += 1
        pending.confirmed, pending.under_way, pending.published = False, True, time.monotonic()
        pending.cancel_attempt = self._sender.call_later(self._patience.attempt, lambda: self._unanswered(pending))
        self._sender.publish(pending.request.request_id, pending.body, seconds)
        self._metrics.attempts.inc()
        self._metrics.retries.inc(pending.attempts > 1)
        self.bytes_sent += len(pending.body)
        self._metrics.sent_bytes.inc(len(pending.body))

    def _failed(
        self,
        pending: PendingRequest,
        failure: CloudUnavailableError | MessageError,
        result: str,
        pause: float,
        *,
        is_waited_out: bool = False,
    ) -> None:
        """Note that an attempt failed; try again or give up.

        One that is waited out does not count as one of the retries.
        """
        pending.cancel_attempt()
        pending.under_way, pending.failure = False, failure
        pending.failures += not is_waited_out
        permanent = isinstance(failure, MessageError) or not self._patience.persistent
        if permanent and pending.failures > self._patience.retries:
            self._end(pending, failure, result)
        else:
            pending.cancel_attempt = self._sender.call_later(pause, lambda: self._attempt(pending))

    def _unanswered(self, pending: PendingRequest) -> None:
        failure = self._no_answer(self._patience.attempt, ", or raise --request-timeout")
        self._abort_if_silent(pending)
        self._failed(pending, failure, failure.code, 0.0)

    def _no_answer(self, seconds: float, advice: str = "") -> CloudUnavailableError:
        """Return why a request that was published has no answer."""
        if self._blocked is not None:  # to us, and so to the workers, whose replies do not get through either
            return self._blocked[1]
        return CloudUnavailableError(
            f"no worker answered within {seconds:g} s on queue {self._queue!r} of {self._broker}; "
            f"start one with offload/ee-processor-server.py{advice}",
            "timed-out",
        )

    def _abort_if_silent(self, pending: PendingRequest) -> None:
        """Give the connection up where not even the broker has said in time that it has the request."""
        in_time = min(self._patience.attempt, self._patience.deadline) / 2
        if self._blocked is not None:
            return  # it has said why
        if pending.under_way and not pending.confirmed and time.monotonic() - pending.published > in_time:
            # Such a connection is dead, whatever the kernel thinks.
            self._sender.abort(CloudUnavailableError(f"RabbitMQ at {self._broker} fell silent"))

    def _too_late(self, pending: PendingRequest) -> None:
        failure = pending.failure
        if not isinstance(failure, MessageError) and (pending.under_way or self._blocked is not None):
            failure = self._no_answer(self._patience.deadline)
        elif failure is None:
            failure = CloudUnavailableError(
                f"no RabbitMQ at {self._broker} within {self._patience.deadline:g} s; start it, or check --mq-hostname "
                "and --mq-port",
                "no-connection",
            )
        self._abort_if_silent(pending)
        self._end(pending, failure, "refused" if isinstance(failure, MessageError) else failure.code)

    def _end(self, pending: PendingRequest, outcome: Answer | BaseException, result: str) -> None:
        """Have a request's future done, once."""
        pending.cancel_attempt()
        pending.cancel_deadline()
        if self._pending.pop(pending.request.request_id, None) is None:
            return
        self._metrics.in_flight.set(len(self._pending))
        self._metrics.requests.labels(result=result).inc()
        if isinstance(outcome, Answer):
            self._metrics.round_trip.observe(time.monotonic() - pending.started)
            self._breaker.succeeded()
            pending.future.set_result(outcome)
        else:
            self._breaker.failed()
            pending.future.set_exception(outcome)
        self._metrics.breaker_open.set(self._breaker.is_open)

    def on_ready(self) -> None:
        """Publish again whatever was under way, for the queue of its replies is gone."""
        self._metrics.connected.set(1)
        if self._was_away:  # else it may be the same broker that answered nothing, as with its memory alarm on
            self._breaker.succeeded()
            self._metrics.breaker_open.set(0)
        if self._outage is not None:
            self._back = time.monotonic()
            log.warning("RabbitMQ is back after %.1f s", self._back - self._outage)
        self._outage, self._was_away = None, False
        for pending in list(self._pending.values()):
            pending.cancel_attempt()
            self._attempt(pending)
        self._known.set()

    def on_lost(self, problem: CloudUnavailableError) -> None:
        """Hold requests back, and keep those that are under way until their deadline."""
        if self._outage is None:
            self._outage = time.monotonic()
            self._metrics.connection_losses.inc()
            log.warning("%s", problem)
        else:
            self._was_away = True
        self._metrics.connected.set(0)
        self._blocked = None
        self._metrics.blocked.set(0)
        for pending in self._pending.values():
            pending.cancel_attempt()
            pending.under_way, pending.failure = False, CloudUnavailableError(str(problem), "no-connection")
        self._known.set()

    def on_blocked(self, problem: CloudUnavailableError | None) -> None:
        """Publish nothing while RabbitMQ blocks publishers; afterwards publish what was held back."""
        self._metrics.blocked.set(problem is not None)
        if problem is not None:
            self._blocked = time.monotonic(), problem
            log.warning("%s", problem)
            return
        if self._blocked is not None:
            log.warning("RabbitMQ takes messages again after %.1f s", time.monotonic() - self._blocked[0])
        self._blocked = None
        self._breaker.succeeded()
        self._metrics.breaker_open.set(0)
        for pending in list(self._pending.values()):
            if not pending.under_way:
                pending.cancel_attempt()
                self._attempt(pending)

    def on_reply(self, request_id: str, body: bytes) -> None:
        """Check a reply and hand it on; what answers nothing that was asked is dropped."""
        self.bytes_received += len(body)
        self._metrics.received_bytes.inc(len(body))
        pending = self._pending.get(request_id)
        if pending is None:
            self._metrics.dropped_replies.labels(reason="duplicate").inc()
            log.debug("dropped a reply that no request waits for")
            return
        try:
            reply = decode_reply(body, pending.request)
        except MessageError as problem:
            # A better one may come: the request's time goes on.
            self._metrics.dropped_replies.labels(reason=problem.code).inc()
            _seldom.warning(problem.code, f"dropped a reply: {problem}")
            return
        if isinstance(reply, Refusal):
            refusal = MessageError(reply.code, f"the worker refused a request: {reply.text}")
            self._failed(pending, refusal, "refused", pending.retry_pause())
            return
        log.debug(
            "%s: %d bytes, answered by %s in %.3f s",
            request_id, len(pending.body), reply.worker, time.monotonic() - pending.started,
        )  # fmt: skip
        self._end(pending, reply, "answered")

    def on_oversize_reply(self, size: int) -> None:
        """Count a message that is too large to be a reply."""
        self.bytes_received += size
        self._metrics.received_bytes.inc(size)
        self._metrics.dropped_replies.labels(reason="too-large").inc()
        _seldom.warning("too-large", f"dropped a reply: {size} bytes, at most {LARGEST_REPLY} are taken")

    def on_confirmed(self, request_id: str) -> None:
        """Note that a request is in the queue."""
        pending = self._pending.get(request_id)
        if pending is not None:
            pending.confirmed = True

    def on_returned(self, request_id: str, why: str) -> None:
        """Try again a little later: a worker may be about to start, or to make room."""
        pending = self._pending.get(request_id)
        if pending is not None:
            code = "no-queue" if why == "does not exist" else "queue-full"
            failure = CloudUnavailableError(
                f"queue {self._queue!r} of {self._broker} {why}; start a worker with offload/ee-processor-server.py, "
                "or check --mq-queue",
                code,
            )
            may_return = code == "no-queue" and time.monotonic() - self._back < QUEUE_RETURN
            self._failed(pending, failure, code, pending.retry_pause(), is_waited_out=may_return)
