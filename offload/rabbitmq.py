"""RabbitMQ, for both sides of the link; the only module that imports pika.

One thread owns a connection. Other threads reach it through ``call_soon`` alone.
"""

import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pika
from pika import exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from offload.broker import Broker
from offload.protocol import is_id, new_id
from utils.errors import BrokerRefusedError, CloudError, CloudUnavailableError

HEARTBEAT: Final = 30
BLOCKED_TIMEOUT: Final = 10
CONNECT_TIMEOUT: Final = 5
QUEUE_LIMIT: Final = 1000
CONTENT_TYPE: Final = "application/vnd.safetensors"
PREFETCH: Final = 4
CLOSE_TIMEOUT: Final = 2.0
_REPLY_QUEUE: Final = "ee-reply."
# A worker replies to such names alone. Some others are orders to the broker: a reply to ``amq.rabbitmq.reply-to.`` and
# rubbish would cost every worker in turn its connection.
_REPLY_QUEUE_FORM: Final = re.compile(re.escape(_REPLY_QUEUE) + "[0-9a-f]{32}")
_REFUSAL: Final = re.compile(r"\((403|530)\)")  # as pika quotes the broker: access refused, not allowed

log = logging.getLogger(__name__)
# What pika reports of failed connections comes back as an exception; it is logged only where someone asked for it.
if logging.getLogger("pika").level == logging.NOTSET:
    logging.getLogger("pika").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def _plain_errors(broker: Broker) -> Iterator[None]:
    """Turn what pika and the sockets raise into the toolkit's errors."""
    try:
        yield
    except (exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError) as problem:
        if not _REFUSAL.search(str(problem)):
            raise CloudUnavailableError(
                f"RabbitMQ at {broker} broke off the greeting, as a node does that starts or stops; try again"
            ) from problem
        if isinstance(problem, exceptions.ProbableAccessDeniedError):
            raise BrokerRefusedError(
                f"RabbitMQ at {broker} refuses user {broker.username!r} the virtual host {broker.virtual_host!r}; "
                "check --mq-vhost"
            ) from problem
        raise BrokerRefusedError(
            f"RabbitMQ at {broker} refuses user {broker.username!r} or the password; "
            "check --mq-username and --mq-password"
        ) from problem
    except exceptions.ChannelClosedByBroker as problem:
        if problem.reply_code == 403:
            raise BrokerRefusedError(
                f"RabbitMQ at {broker} refuses user {broker.username!r}: {problem.reply_text}"
            ) from problem
        raise CloudError(f"RabbitMQ at {broker} closed the channel: {problem.reply_text}") from problem
    except exceptions.IncompatibleProtocolError as problem:
        raise CloudUnavailableError(f"what answers at {broker} is not RabbitMQ; check --mq-port") from problem
    except (exceptions.AMQPError, AMQPConnectorException, OSError, UnicodeError) as problem:
        raise CloudUnavailableError(
            f"no RabbitMQ at {broker} ({_reason(problem)}); start it, or check --mq-hostname and --mq-port"
        ) from problem


def _reason(problem: BaseException) -> str:
    causes = [problem, *getattr(problem, "args", ())]
    inner = next((cause for cause in causes if isinstance(cause, BaseException) and cause is not problem), problem)
    inner = getattr(inner, "exception", inner)
    if isinstance(inner, AMQPConnectorException):
        return f"no answer within {2 * CONNECT_TIMEOUT} s"
    if isinstance(inner, socket.gaierror | UnicodeError):
        return "unknown host name"
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror.lower()
    return type(inner).__name__ if not str(inner) else str(inner)[:100]


def _connect(broker: Broker) -> pika.BlockingConnection:
    parameters = pika.ConnectionParameters(
        host=broker.hostname,
        port=broker.port,
        virtual_host=broker.virtual_host,
        credentials=pika.PlainCredentials(broker.username, broker.password),
        heartbeat=HEARTBEAT,
        blocked_connection_timeout=BLOCKED_TIMEOUT,
        socket_timeout=CONNECT_TIMEOUT,
        stack_timeout=2 * CONNECT_TIMEOUT,
        connection_attempts=1,
    )
    return pika.BlockingConnection(parameters)


def _close(connection: pika.BlockingConnection) -> None:
    """Take leave of the broker, but do not wait for one that has gone silent: pika alone would, for a minute."""
    leaving = threading.Thread(target=_take_leave, args=(connection,), name="close", daemon=True)
    leaving.start()
    leaving.join(CLOSE_TIMEOUT)


def _take_leave(connection: pika.BlockingConnection) -> None:
    try:
        if connection.is_open:
            connection.close()
    except (exceptions.AMQPError, OSError) as problem:
        log.debug("closing the connection: %r", problem)


class _Properties(pika.BasicProperties):  # type: ignore[misc]  # pika is untyped
    """A message's properties, in which a sender may write anything; what pika fails to read is left out.

    Else it would drop the connection, and the broker hand the same message to the next worker, and so on for ever.
    """

    def decode(self, encoded: bytes, offset: int = 0) -> "_Properties":
        """Read the properties from a frame."""
        with contextlib.suppress(Exception):  # a date out of range, tables nested too deep
            super().decode(encoded, offset)
        return self


pika.spec.props[pika.BasicProperties.INDEX] = _Properties


class RequestChannel:
    """The client's end: sends a request and waits for the reply.

    Args:
        broker: where RabbitMQ is.
        queue_name: the request queue, which the workers declare.

    Raises:
        CloudUnavailableError: no broker answers.
        BrokerRefusedError: it refuses the user.
    """

    def __init__(self, broker: Broker, queue_name: str) -> None:
        self._broker = broker
        self._queue = queue_name
        self._replies: dict[str, bytes | None] = {}
        # Exclusive and fresh: no one else can read it, and it goes with the connection.
        self._reply_to = f"{_REPLY_QUEUE}{new_id()}"
        with _plain_errors(broker):
            self._connection = _connect(broker)
            try:
                self._channel = self._connection.channel()
                self._channel.confirm_delivery()
                self._channel.queue_declare(self._reply_to, exclusive=True, auto_delete=True)
                self._channel.basic_consume(self._reply_to, self._on_reply, auto_ack=True)
            except BaseException:
                _close(self._connection)
                raise

    def ask(self, body: bytes, request_id: str, timeout: float) -> bytes:
        """Return the reply's body to a request.

        While there is no worker's queue, or it is full, the request is offered again until the timeout.

        Args:
            body: the request.
            request_id: its correlation id.
            timeout: seconds in all.

        Raises:
            CloudUnavailableError: the connection broke, or no reply came in time.
        """
        start = time.monotonic()
        deadline = start + timeout
        self._replies[request_id] = None
        try:
            with _plain_errors(self._broker):
                self._publish(body, request_id, deadline)
                while (reply := self._replies[request_id]) is None:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise CloudUnavailableError(
                            f"no worker answered within {timeout:g} s on queue {self._queue!r} of {self._broker}; "
                            "start one with offload/ee-processor-server.py, or raise --request-timeout"
                        )
                    self._connection.process_data_events(time_limit=min(left, 1.0))
                seconds = time.monotonic() - start
                log.debug("%s: %d bytes, answered by %d in %.3f s", request_id, len(body), len(reply), seconds)
                return reply
        finally:
            del self._replies[request_id]

    def _publish(self, body: bytes, request_id: str, deadline: float) -> None:
        pause = 0.1
        while True:
            left = deadline - time.monotonic()
            properties = pika.BasicProperties(
                content_type=CONTENT_TYPE,
                correlation_id=request_id,
                reply_to=self._reply_to,
                # Work that no one waits for any more is dropped by the broker, not computed.
                expiration=str(max(1, int(1000 * left))),
            )
            try:
                self._channel.basic_publish("", self._queue, body, properties, mandatory=True)
                return
            except (exceptions.UnroutableError, exceptions.NackError) as problem:
                if left <= pause:
                    why = "is full" if isinstance(problem, exceptions.NackError) else "does not exist"
                    raise CloudUnavailableError(
                        f"queue {self._queue!r} of {self._broker} {why}; start a worker with "
                        "offload/ee-processor-server.py, or check --mq-queue"
                    ) from problem
            self._connection.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _on_reply(self, _channel: Any, _method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        if properties.correlation_id in self._replies:
            self._replies[properties.correlation_id] = body
        else:
            log.warning("dropped a reply that no request waits for")

    def close(self) -> None:
        """Close the connection; the reply queue goes with it."""
        _close(self._connection)

    def __enter__(self) -> "RequestChannel":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


@dataclass(frozen=True)
class Delivery:
    """One request as the broker handed it over, checked only in that there is someone to reply to."""

    body: bytes
    request_id: str
    reply_to: str
    tag: int


class RequestQueue:
    """The worker's end: requests come in, replies go out, and a request is acknowledged after its reply.

    Args:
        broker: where RabbitMQ is.
        queue_name: the request queue; declared here, durable and bounded.

    Attributes:
        dropped: messages that named no one to reply to, and replies to clients that had left.

    Raises:
        CloudUnavailableError: no broker answers.
        BrokerRefusedError: it refuses the user.
        CloudError: the queue exists with other settings.
    """

    def __init__(self, broker: Broker, queue_name: str) -> None:
        self._broker = broker
        self._queue = queue_name
        self._received: list[Delivery] = []
        self.dropped = 0
        with _plain_errors(broker):
            self._connection = _connect(broker)
            try:
                self._channel = self._connection.channel()
                self._declare()
                self._channel.basic_qos(prefetch_count=PREFETCH)
                self._channel.add_on_return_callback(self._on_unroutable)
                self._consumer: str | None = self._channel.basic_consume(self._queue, self._on_message)
            except BaseException:
                _close(self._connection)
                raise

    def _declare(self) -> None:
        limits = {"x-max-length": QUEUE_LIMIT, "x-overflow": "reject-publish"}
        try:
            self._channel.queue_declare(self._queue, durable=True, arguments=limits)
        except exceptions.ChannelClosedByBroker as problem:
            if problem.reply_code not in {405, 406}:  # locked by its owner, declared otherwise
                raise
            raise CloudError(
                f"queue {self._queue!r} of {self._broker} exists with other settings; delete it, or choose another "
                f"with --mq-queue ({problem.reply_text})"
            ) from problem

    def receive(self, seconds: float) -> list[Delivery]:
        """Return the requests that came in, after at most that long; run what ``call_soon`` was given meanwhile.

        Raises:
            CloudUnavailableError: the connection broke, or the queue was deleted.
        """
        with _plain_errors(self._broker):
            self._connection.process_data_events(time_limit=seconds)
        if self._consumer is not None and not self._channel.consumer_tags:
            raise CloudUnavailableError(f"queue {self._queue!r} of {self._broker} was deleted")
        received, self._received = self._received, []
        return received

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Have the owner's ``receive`` call something; safe in any thread.

        Raises:
            CloudUnavailableError: the connection is closed.
        """
        with _plain_errors(self._broker):
            self._connection.add_callback_threadsafe(callback)

    def reply(self, delivery: Delivery, body: bytes) -> None:
        """Reply, then acknowledge: a worker that dies in between answers twice rather than never."""
        properties = pika.BasicProperties(content_type=CONTENT_TYPE, correlation_id=delivery.request_id)
        with _plain_errors(self._broker):
            self._channel.basic_publish("", delivery.reply_to, body, properties, mandatory=True)
            self._channel.basic_ack(delivery.tag)

    def stop_receiving(self) -> None:
        """Take no further requests; those received can still be replied to or given back."""
        with _plain_errors(self._broker):
            consumer, self._consumer = self._consumer, None
            self._channel.basic_cancel(consumer)

    def give_back(self, delivery: Delivery) -> None:
        """Let another worker have a request."""
        with _plain_errors(self._broker):
            self._channel.basic_nack(delivery.tag, requeue=True)

    def close(self) -> None:
        """Close the connection; the broker hands to another worker whatever was not replied to."""
        _close(self._connection)

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        request_id, reply_to = properties.correlation_id, properties.reply_to
        if is_id(request_id) and isinstance(reply_to, str) and _REPLY_QUEUE_FORM.fullmatch(reply_to):
            self._received.append(Delivery(body, request_id, reply_to, method.delivery_tag))
            return
        self.dropped += 1
        log.warning("dropped a message that names no request id or no queue to reply to")
        channel.basic_ack(method.delivery_tag)

    def _on_unroutable(self, *_returned: object) -> None:
        self.dropped += 1
        log.warning("a client left before its reply came")
