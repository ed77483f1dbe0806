"""RabbitMQ, for both sides of the link; the only module that imports pika.

One thread owns a connection. Other threads reach it through ``add_callback_threadsafe`` alone.
"""

import logging
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import pika
from pika import exceptions

from offload.protocol import is_id, new_id
from utils.errors import BrokerRefusedError, CloudError, CloudUnavailableError

HEARTBEAT: Final = 30
BLOCKED_TIMEOUT: Final = 10
CONNECT_TIMEOUT: Final = 5
QUEUE_LIMIT: Final = 1000
PREFETCH: Final = 4
SHORTEST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 5.0
DRAIN_TIMEOUT: Final = 25.0
_POLL: Final = 0.2

log = logging.getLogger(__name__)
# What pika reports of failed connections comes back as an exception, and is said in one line there.
logging.getLogger("pika").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Broker:
    """Where RabbitMQ is and who asks. The password never shows in its repr."""

    hostname: str
    port: int = 5672
    username: str = "guest"
    password: str = field(default="guest", repr=False)
    virtual_host: str = "/"

    def __str__(self) -> str:
        return f"{self.hostname}:{self.port}"


@contextmanager
def _plain_errors(broker: Broker) -> Iterator[None]:
    """Turn what pika and the sockets raise into the toolkit's errors."""
    try:
        yield
    except (exceptions.AuthenticationError, exceptions.ProbableAuthenticationError) as problem:
        raise BrokerRefusedError(
            f"RabbitMQ at {broker} refuses user {broker.username!r} or the password; "
            "check --mq-username and --mq-password"
        ) from problem
    except exceptions.ProbableAccessDeniedError as problem:
        raise BrokerRefusedError(
            f"RabbitMQ at {broker} refuses user {broker.username!r} the virtual host {broker.virtual_host!r}"
        ) from problem
    except exceptions.ChannelClosedByBroker as problem:
        if problem.reply_code == 403:
            raise BrokerRefusedError(
                f"RabbitMQ at {broker} refuses user {broker.username!r}: {problem.reply_text}"
            ) from problem
        raise CloudError(f"RabbitMQ at {broker} closed the channel: {problem.reply_text}") from problem
    except exceptions.IncompatibleProtocolError as problem:
        raise CloudUnavailableError(f"what answers at {broker} is not RabbitMQ; check --mq-port") from problem
    except (exceptions.AMQPError, OSError, ssl.SSLError) as problem:
        raise CloudUnavailableError(
            f"no RabbitMQ at {broker} ({_reason(problem)}); start it, or check --mq-hostname and --mq-port"
        ) from problem


def _reason(problem: BaseException) -> str:
    causes = [problem, *getattr(problem, "args", ())]
    inner = next((cause for cause in causes if isinstance(cause, BaseException) and cause is not problem), problem)
    inner = getattr(inner, "exception", inner)
    if isinstance(inner, socket.gaierror):
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
    try:
        if connection.is_open:
            connection.close()
    except (exceptions.AMQPError, OSError) as problem:
        log.debug("closing the connection: %r", problem)


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
        with _plain_errors(broker):
            self._connection = _connect(broker)
            self._channel = self._connection.channel()
            self._channel.confirm_delivery()
            # Exclusive and fresh: no one else can read it, and it goes with the connection.
            self._reply_to = f"ee-reply.{new_id()}"
            self._channel.queue_declare(self._reply_to, exclusive=True, auto_delete=True)
            self._channel.basic_consume(self._reply_to, self._on_reply, auto_ack=True)

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
        deadline = time.monotonic() + timeout
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
                return reply
        finally:
            del self._replies[request_id]

    def _publish(self, body: bytes, request_id: str, deadline: float) -> None:
        pause = 0.1
        while True:
            left = deadline - time.monotonic()
            properties = pika.BasicProperties(
                content_type="application/vnd.safetensors",
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
class _Delivery:
    """One request as the broker handed it over, with what is needed to answer it."""

    body: bytes
    request_id: str
    reply_to: str
    tag: int
    channel: Any
    connection: pika.BlockingConnection


class Worker:
    """The worker's end: takes requests off the queue and hands replies back until it is told to stop.

    The thread that calls ``run`` owns the connection, so that heartbeats go on while a second thread computes.

    Args:
        broker: where RabbitMQ is.
        queue_name: the request queue; declared here, durable and bounded.
        answer: (body, request id) -> reply body, called in the computing thread. It must not raise.
    """

    def __init__(self, broker: Broker, queue_name: str, answer: Callable[[bytes, str], bytes]) -> None:
        self._broker = broker
        self._queue = queue_name
        self._answer = answer
        self._waiting: queue.SimpleQueue[_Delivery | None] = queue.SimpleQueue()
        self._unanswered = 0
        self._stop = threading.Event()
        self._pause: float | None = None  # before the next attempt to connect; None until one succeeded
        self.answered = 0
        self.dropped = 0

    def stop(self) -> None:
        """Finish what is being computed, give the rest back, and let ``run`` return; safe in a signal handler."""
        self._stop.set()

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
            while not self._stop.is_set():
                try:
                    self._serve(on_ready)
                except CloudUnavailableError as problem:
                    if self._pause is None:
                        raise
                    log.warning("%s; trying again in %.1f s", problem, self._pause)
                    self._stop.wait(self._pause)
                    self._pause = min(2 * self._pause, LONGEST_PAUSE)
        finally:
            self._waiting.put(None)
            computing.join(timeout=DRAIN_TIMEOUT)

    def _serve(self, on_ready: Callable[[], object]) -> None:
        with _plain_errors(self._broker):
            connection = _connect(self._broker)
            try:
                channel = connection.channel()
                limits = {"x-max-length": QUEUE_LIMIT, "x-overflow": "reject-publish"}
                channel.queue_declare(self._queue, durable=True, arguments=limits)
                channel.basic_qos(prefetch_count=PREFETCH)
                channel.add_on_return_callback(self._on_unroutable)
                consumer = channel.basic_consume(self._queue, partial(self._on_request, connection))
                self._unanswered, self._pause = 0, SHORTEST_PAUSE
                on_ready()
                while not self._stop.is_set():
                    connection.process_data_events(time_limit=_POLL)
                    if not channel.consumer_tags:
                        raise CloudUnavailableError(f"queue {self._queue!r} of {self._broker} was deleted")
                channel.basic_cancel(consumer)
                self._give_back()
                deadline = time.monotonic() + DRAIN_TIMEOUT
                while self._unanswered and time.monotonic() < deadline:
                    connection.process_data_events(time_limit=_POLL)
            finally:
                # Whatever is not acknowledged, the broker hands to another worker.
                _close(connection)
                self._give_back()

    def _give_back(self) -> None:
        """Forget the requests that wait here; the broker still holds them."""
        while not self._waiting.empty():
            self._waiting.get()
            self._unanswered -= 1

    def _on_request(
        self, connection: pika.BlockingConnection, channel: Any, method: Any, properties: Any, body: bytes
    ) -> None:
        request_id, reply_to = properties.correlation_id, properties.reply_to
        if not is_id(request_id) or not _is_queue_name(reply_to):
            self.dropped += 1
            log.warning("dropped a message that names no request id or no queue to reply to")
            channel.basic_ack(method.delivery_tag)
            return
        self._unanswered += 1
        self._waiting.put(_Delivery(body, request_id, reply_to, method.delivery_tag, channel, connection))

    def _compute(self) -> None:
        while (delivery := self._waiting.get()) is not None:
            reply = self._answer(delivery.body, delivery.request_id)
            try:
                delivery.connection.add_callback_threadsafe(partial(self._finish, delivery, reply))
            except exceptions.AMQPError:
                log.warning("the connection broke before a reply went out; the broker hands the request out again")

    def _finish(self, delivery: _Delivery, reply: bytes) -> None:
        """Reply, then acknowledge: a worker that dies in between answers twice rather than never."""
        properties = pika.BasicProperties(
            content_type="application/vnd.safetensors", correlation_id=delivery.request_id
        )
        delivery.channel.basic_publish("", delivery.reply_to, reply, properties, mandatory=True)
        delivery.channel.basic_ack(delivery.tag)
        self._unanswered -= 1
        self.answered += 1

    def _on_unroutable(self, *_returned: object) -> None:
        self.dropped += 1
        log.warning("a client left before its reply came")


def _is_queue_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name.encode()) <= 255 and name.isprintable()
