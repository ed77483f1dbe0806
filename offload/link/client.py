"""The client: send requests to cloud workers, several at a time; each ends exactly once, also when the link fails.

One thread owns the connection and the state of the requests. Other threads submit requests, and each gets a future of
the answer.
"""

import logging
import math
import threading
import time
from concurrent.futures import Future
from typing import Final

from offload.link.broker import Broker
from offload.link.circuit_breaker import CircuitBreaker
from offload.link.pending_requests import PendingRequest, RetryPolicy, name_result
from offload.link.protocol import LARGEST_REPLY, Answer, Refusal, Request, decode_reply, encode_request
from offload.link.rabbitmq.broker_errors import BROKER_BLOCKED
from offload.link.rabbitmq.client_end import RequestSender
from offload.operations.logs import RateLimitedLog
from offload.operations.metrics import ClientMetrics
from utils.errors import CloudUnavailableError, MessageError

QUEUE_RETURN: Final = 30.0
"""Seconds after a reconnection in which a missing queue does not count as a failure: a broker that was killed may have
lost it, and workers declare it again when they reconnect."""
_FIRST_CONNECTION: Final = 15.0
_JOIN: Final = 5.0

log = logging.getLogger(__name__)
_rate_limited = RateLimitedLog(log)


class Client:
    """Sends requests and matches the replies; use it in a ``with`` block.

    Entering waits for the first attempt to connect, whether it succeeds or not.

    Args:
        broker: connection settings.
        queue_name: the request queue.
        retry_policy: timeouts and retries of each request.
        metrics: are updated.

    Attributes:
        bytes_sent, bytes_received: of message bodies.

    Raises:
        BrokerRefusedError: on entering: the broker refuses user, password, virtual host or certificate.
        InputFileError: a file for TLS is not what it should be.
    """

    def __init__(self, broker: Broker, queue_name: str, retry_policy: RetryPolicy, metrics: ClientMetrics) -> None:
        self._queue = queue_name
        self._broker = broker
        self._policy = retry_policy
        self._metrics = metrics
        self._pending: dict[str, PendingRequest] = {}
        self._breaker = CircuitBreaker()
        self._sender = RequestSender(broker, queue_name, self)
        self.bytes_sent = self.bytes_received = 0
        self._has_tried = threading.Event()  # set once the first attempt to connect has ended
        self._failure: BaseException | None = None
        self._outage: float | None = None  # when the connection was lost, on the monotonic clock; None: it was not
        self._back = -math.inf  # when the connection last came back, on the monotonic clock
        self._blocked: tuple[float, CloudUnavailableError] | None = None  # since when, and why
        self._was_away = False  # whether an attempt to connect has failed since the connection was lost
        self._thread = threading.Thread(target=self._run, name="rabbitmq", daemon=True)

    def __enter__(self) -> "Client":
        self._thread.start()
        self._has_tried.wait(_FIRST_CONNECTION)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_exception: object) -> None:
        self._sender.stop()
        self._thread.join(_JOIN)

    def close(self) -> None:
        """Begin to close the connection; pending requests fail as ``closed``. Safe in any thread, also twice."""
        self._sender.stop()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to RabbitMQ."""
        return self._sender.is_ready

    def check_liveness(self) -> str | None:
        """Return why this process must be restarted, None if it works."""
        return None if self._thread.is_alive() else "the thread that owns the connection has ended"

    def check_readiness(self) -> str | None:
        """Return why no requests are sent at the moment, None if they are."""
        if not self.is_connected:
            return "no connection to RabbitMQ"
        if (blocked := self._blocked) is not None:
            return str(blocked[1])
        return "the cloud failed to answer" if self._breaker.is_open else None

    def submit(self, request: Request) -> Future[Answer]:
        """Send a request; safe in any thread.

        Returns:
            a future of the answer. It raises CloudUnavailableError if no answer came in time, and MessageError if the
            workers refuse the request. It is done at once if no answer can be expected.
        """
        future: Future[Answer] = Future()
        future.set_running_or_notify_cancel()  # so that it cannot be cancelled
        failure = self._failure or self._find_obstacle()
        if failure is None:
            pending = PendingRequest(request, encode_request(request), future, time.monotonic())
            try:
                self._sender.call_soon(lambda: self._begin(pending))
                return future
            except CloudUnavailableError as problem:
                failure = CloudUnavailableError(str(problem), "closed")
        self._metrics.requests.labels(result=name_result(failure)).inc()
        future.set_exception(failure)
        return future

    def _find_obstacle(self) -> CloudUnavailableError | None:
        """Return why a request cannot be sent now; None if it can, or if it waits until it can."""
        if self._policy.persistent:
            return None
        if not self.is_connected:
            why = "no-connection"
        elif self._blocked is not None:
            why = BROKER_BLOCKED
        elif not self._breaker.allow_request():
            why = "circuit-open"
        else:
            return None
        return CloudUnavailableError(f"{self._broker} was not asked: {why}", why)

    def _run(self) -> None:
        try:
            self._sender.run()
        except BaseException as problem:  # raised again in the thread that entered the block
            self._failure = problem
        finally:
            self._failure = self._failure or CloudUnavailableError("the connection to RabbitMQ was closed", "closed")
            self._metrics.connected.set(0)
            for pending in list(self._pending.values()):
                self._end(pending, self._failure)
            self._has_tried.set()

    # The methods below run in the thread that owns the connection.

    def _begin(self, pending: PendingRequest) -> None:
        self._pending[pending.request.request_id] = pending
        self._metrics.in_flight.set(len(self._pending))
        deadline = self._policy.deadline - (time.monotonic() - pending.started)
        pending.cancel_deadline = self._sender.call_later(max(deadline, 0), lambda: self._handle_deadline(pending))
        if self._sender.is_ready:
            self._attempt(pending)

    def _attempt(self, pending: PendingRequest) -> None:
        """Publish a request, for the first time or again.

        Without a connection ``on_ready`` does it later; while RabbitMQ blocks publishers, ``on_blocked``.
        """
        if pending.future.done() or not self._sender.is_ready or self._blocked is not None:
            return
        left = self._policy.deadline - (time.monotonic() - pending.started)
        seconds = max(min(self._policy.attempt, left), 0.001)
        pending.attempts += 1
        pending.confirmed, pending.under_way, pending.published = False, True, time.monotonic()
        pending.cancel_attempt = self._sender.call_later(self._policy.attempt, lambda: self._handle_timeout(pending))
        self._sender.publish(pending.request.request_id, pending.body, seconds)
        self._metrics.attempts.inc()
        self._metrics.retries.inc(pending.attempts > 1)
        self.bytes_sent += len(pending.body)
        self._metrics.sent_bytes.inc(len(pending.body))

    def _handle_failure(
        self, pending: PendingRequest, failure: CloudUnavailableError | MessageError, pause: float, *,
        is_waited_out: bool = False,
    ) -> None:  # fmt: skip
        """Retry after ``pause`` seconds, or end the request; a failure that is waited out does not count as a try."""
        pending.cancel_attempt()
        pending.under_way, pending.failure = False, failure
        pending.failures += not is_waited_out
        permanent = isinstance(failure, MessageError) or not self._policy.persistent
        if permanent and pending.failures > self._policy.retries:
            self._end(pending, failure)
        else:
            pending.cancel_attempt = self._sender.call_later(pause, lambda: self._attempt(pending))

    def _handle_timeout(self, pending: PendingRequest) -> None:
        failure = self._explain_silence(self._policy.attempt, ", or raise --request-timeout")
        self._abort_if_silent(pending)
        self._handle_failure(pending, failure, 0.0)

    def _explain_silence(self, seconds: float, advice: str = "") -> CloudUnavailableError:
        """Return the error of a request that was published and has no answer."""
        if self._blocked is not None:  # the workers' replies are blocked as well
            return self._blocked[1]
        return CloudUnavailableError(
            f"no worker answered within {seconds:g} s on queue {self._queue!r} of {self._broker}; "
            f"start one with offload/ee-processor-server.py{advice}",
            "timed-out",
        )

    def _abort_if_silent(self, pending: PendingRequest) -> None:
        """Drop the connection if the broker has not confirmed the request in time."""
        in_time = min(self._policy.attempt, self._policy.deadline) / 2
        if self._blocked is not None:
            return  # RabbitMQ has reported why it does not confirm
        if pending.under_way and not pending.confirmed and time.monotonic() - pending.published > in_time:
            self._sender.abort(CloudUnavailableError(f"RabbitMQ at {self._broker} stopped answering"))

    def _handle_deadline(self, pending: PendingRequest) -> None:
        failure = pending.failure
        if not isinstance(failure, MessageError) and (pending.under_way or self._blocked is not None):
            failure = self._explain_silence(self._policy.deadline)
        elif failure is None:
            failure = CloudUnavailableError(
                f"no RabbitMQ at {self._broker} within {self._policy.deadline:g} s; start it, or check --mq-hostname "
                "and --mq-port",
                "no-connection",
            )
        self._abort_if_silent(pending)
        self._end(pending, failure)

    def _end(self, pending: PendingRequest, outcome: Answer | BaseException) -> None:
        """Complete the future of a request, once."""
        pending.cancel_attempt()
        pending.cancel_deadline()
        if self._pending.pop(pending.request.request_id, None) is None:
            return
        self._metrics.in_flight.set(len(self._pending))
        self._metrics.requests.labels(result=name_result(outcome)).inc()
        if isinstance(outcome, Answer):
            self._metrics.round_trip.observe(time.monotonic() - pending.started)
            self._breaker.record_success()
            pending.future.set_result(outcome)
        else:
            self._breaker.record_failure()
            pending.future.set_exception(outcome)
        self._metrics.breaker_open.set(self._breaker.is_open)

    def on_ready(self) -> None:
        """Publish all pending requests again: the reply queue of the old connection is gone."""
        self._metrics.connected.set(1)
        if self._was_away:  # otherwise it may be the same broker, which is silent because of its memory alarm
            self._breaker.record_success()
            self._metrics.breaker_open.set(0)
        if self._outage is not None:
            self._back = time.monotonic()
            log.warning("RabbitMQ is back after %.1f s", self._back - self._outage)
        self._outage, self._was_away = None, False
        for pending in list(self._pending.values()):
            pending.cancel_attempt()
            self._attempt(pending)
        self._has_tried.set()

    def on_lost(self, problem: CloudUnavailableError) -> None:
        """Keep pending requests until their deadline, and publish nothing."""
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
        self._has_tried.set()

    def on_blocked(self, problem: CloudUnavailableError | None) -> None:
        """Publish nothing while RabbitMQ blocks publishers; afterwards publish the requests that waited."""
        self._metrics.blocked.set(problem is not None)
        if problem is not None:
            self._blocked = time.monotonic(), problem
            log.warning("%s", problem)
            return
        if self._blocked is not None:
            log.warning("RabbitMQ accepts messages again after %.1f s", time.monotonic() - self._blocked[0])
        self._blocked = None
        self._breaker.record_success()
        self._metrics.breaker_open.set(0)
        for pending in list(self._pending.values()):
            if not pending.under_way:
                pending.cancel_attempt()
                self._attempt(pending)

    def on_reply(self, request_id: str, body: bytes) -> None:
        """Check a reply and complete its request; replies to no pending request are discarded."""
        self.bytes_received += len(body)
        self._metrics.received_bytes.inc(len(body))
        pending = self._pending.get(request_id)
        if pending is None:
            self._metrics.dropped_replies.labels(reason="duplicate").inc()
            log.debug("discarded a reply to no pending request")
            return
        try:
            reply = decode_reply(body, pending.request)
        except MessageError as problem:
            # Another worker may send a valid reply before the request times out.
            self._metrics.dropped_replies.labels(reason=problem.code).inc()
            _rate_limited.warning(problem.code, f"discarded a reply: {problem}")
            return
        if isinstance(reply, Refusal):
            refusal = MessageError(reply.code, f"the worker refused a request: {reply.text}")
            self._handle_failure(pending, refusal, pending.choose_pause())
            return
        log.debug(
            "%s: %d bytes, answered by %s in %.3f s",
            request_id, len(pending.body), reply.worker, time.monotonic() - pending.started,
        )  # fmt: skip
        self._end(pending, reply)

    def on_oversize_reply(self, size: int) -> None:
        """Count a message that was discarded because it is too large for a reply."""
        self.bytes_received += size
        self._metrics.received_bytes.inc(size)
        self._metrics.dropped_replies.labels(reason="too-large").inc()
        _rate_limited.warning("too-large", f"discarded a reply: {size} bytes, at most {LARGEST_REPLY} are accepted")

    def on_confirmed(self, request_id: str) -> None:
        """Record that a request is in the queue."""
        pending = self._pending.get(request_id)
        if pending is not None:
            pending.confirmed = True

    def on_returned(self, request_id: str, why: str) -> None:
        """Retry a little later: a worker may be starting, or the queue may have room again."""
        pending = self._pending.get(request_id)
        if pending is not None:
            code = "no-queue" if why == "does not exist" else "queue-full"
            remedy = "start a worker with offload/ee-processor-server.py, or check --mq-queue"
            if code == "queue-full":
                remedy = "start more workers with offload/ee-processor-server.py"
            failure = CloudUnavailableError(f"queue {self._queue!r} of {self._broker} {why}; {remedy}", code)
            may_return = code == "no-queue" and time.monotonic() - self._back < QUEUE_RETURN
            self._handle_failure(pending, failure, pending.choose_pause(), is_waited_out=may_return)
