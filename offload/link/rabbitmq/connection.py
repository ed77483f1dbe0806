"""A connection to RabbitMQ that comes back after every loss; one thread owns it."""

import contextlib
import logging
import random
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

import pika
from pika.adapters.select_connection import IOLoop

from offload.link.broker import Broker, Host
from offload.link.rabbitmq.pika_fixes import AttentiveConnection, ConnectionAttempt, bound_bodies, set_user_timeout
from offload.link.rabbitmq.problems import blocked_error, plain_error
from utils.errors import BrokerRefusedError, CloudError, CloudUnavailableError

HEARTBEAT: Final = 30
CLOSE_TIMEOUT: Final = 2.0
# Both ends are to be back within 5 s of their broker, also where an attempt that hears nothing is under way when it
# comes back: the last that such a one does is to knock again after 3 s.
CONNECT_TIMEOUT: Final = 4
OPEN_TIMEOUT: Final = 10.0
SHORTEST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 3.5
REFUSALS: Final = 3
CONTENT_TYPE: Final = "application/vnd.safetensors"
REPLY_QUEUE: Final = "ee-reply."
# The kernel gives up on a peer that acknowledges nothing, be it data of ours (user timeout) or, on a quiet connection,
# its probes. Data sent at the last moment starts the user timeout anew, so both together must stay below 15 s.
TCP_OPTIONS: Final = {"TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 6_000}

log = logging.getLogger(__name__)
# What pika reports of failed connections comes back as an exception; it is logged only where someone asked for it.
if logging.getLogger("pika").level == logging.NOTSET:
    logging.getLogger("pika").setLevel(logging.CRITICAL)


class Connection(ABC):
    """One connection with one channel at a time; when it is lost, another, to the broker's hosts in turn.

    The thread that calls ``run`` owns it: there run all callbacks, and there alone may the methods be called, except
    ``call_soon`` and ``stop``.

    Args:
        broker: where RabbitMQ is.
        largest_body: bytes of a message's body that is kept; larger ones are discarded as they arrive.
        on_ready: called whenever messages can be exchanged.
        on_lost: called with the reason whenever a connection, once ready, was lost, and whenever all hosts were
            tried in vain.
        on_blocked: called with the reason when RabbitMQ begins to block what we publish, and with None when it takes
            messages again. A connection that is lost meanwhile is no longer blocked.

    Raises:
        InputFileError: a file for TLS is not what it should be.
    """

    def __init__(
        self,
        broker: Broker,
        largest_body: int,
        on_ready: Callable[[], object],
        on_lost: Callable[[CloudUnavailableError], object],
        on_blocked: Callable[[CloudUnavailableError | None], object],
    ) -> None:
        self._broker = broker
        self._largest_body = largest_body
        self._tls = None if broker.tls is None else broker.tls.context()
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._on_blocked = on_blocked
        self._loop = IOLoop()
        self._lock = threading.Lock()
        self._ended = False
        self._stopping = False
        self._failure: BaseException | None = None
        self._host_number = 0
        self._attempts = 0  # since a connection was last ready
        self._refusals = 0
        self._is_up = self._was_ever_up = self._is_blocked = False
        self._attempt: ConnectionAttempt | None = None  # while it goes on
        self._connection: AttentiveConnection | None = None
        self._channel: Any = None
        self._problem: CloudError | None = None  # why we ourselves gave the connection up

    @property
    def is_ready(self) -> bool:
        """Whether messages can be exchanged."""
        return self._channel is not None

    @property
    def is_blocked(self) -> bool:
        """Whether RabbitMQ has stopped reading what we publish, as it does while its memory or disk alarm is on."""
        return self._is_blocked

    def run(self) -> None:
        """Connect, and connect again after every loss, until ``stop``.

        Raises:
            BrokerRefusedError: the broker refuses user, password, virtual host or certificate; from one that once let
                us in, only when it does so several times in a row, for a node that starts may do so once.
            CloudError: the queue exists with other settings.
        """
        self._loop.add_callback_threadsafe(self._connect)
        try:
            self._loop.start()
        finally:
            self._end()
        if self._failure is not None:
            raise self._failure

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Have the owner call something; safe in any thread.

        Raises:
            CloudUnavailableError: ``run`` has ended.
        """
        with self._lock:
            if self._ended:
                raise CloudUnavailableError("the connection to RabbitMQ was closed")
            self._loop.add_callback_threadsafe(callback)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Callable[[], None]:
        """Call something later; return what cancels it."""
        timeout = self._loop.call_later(seconds, callback)
        return lambda: self._loop.remove_timeout(timeout)

    def stop(self) -> None:
        """Close the connection; ``run`` returns promptly even if the broker is silent. Safe in any thread."""
        with contextlib.suppress(CloudUnavailableError):
            self.call_soon(self._stop)

    def abort(self, problem: CloudUnavailableError) -> None:
        """Drop a connection that no longer works, and connect again."""
        if self._connection is not None and self._connection.is_open:
            self._abort(problem)

    @abstractmethod
    def _open(self, channel: Any) -> None:
        """Declare and consume what this end needs, then call ``_ready``."""

    def _ready(self, channel: Any) -> None:
        """Mark the connection ready and notify the owner."""
        if channel.is_open:
            self._channel = channel
            self._attempts = self._refusals = 0
            self._is_up = self._was_ever_up = True
            self._notify(self._on_ready)

    def _notify(self, callback: Callable[..., object], *arguments: object) -> None:
        """Notify the owner; an exception that it raises ends ``run``.

        pika would take it for a fault of the connection, and the next connection would raise it again.
        """
        try:
            callback(*arguments)
        except BaseException as failure:
            self._failure = self._failure or failure
            self._loop.stop()

    def _channel_error(self, problem: BaseException) -> CloudError:
        """Return what it means that the broker closed the channel."""
        return plain_error(problem, self._broker, self._host())

    def _abort(self, problem: CloudError) -> None:
        self._problem = problem
        self._channel = None
        assert self._connection is not None
        self._connection.drop(problem)

    def _stop(self) -> None:
        self._stopping = True
        self._channel = None
        self._loop.call_later(CLOSE_TIMEOUT, self._loop.stop)
        if self._attempt is not None:
            self._attempt.abort()
        elif self._connection is None:
            self._loop.stop()
        elif self._connection.is_open:
            self._connection.close()

    def _end(self) -> None:
        """Leave no socket behind, and nothing undone that ``call_soon`` took on."""
        with self._lock:
            self._ended = True
        self._stopping = True
        try:
            if self._attempt is not None:
                self._attempt.abort()
            elif self._connection is not None:
                self._abort(CloudUnavailableError("the connection was left"))
            self._loop.process_timeouts()
        finally:
            self._loop.close()

    def _host(self) -> Host:
        hosts = self._broker.hosts
        return hosts[self._host_number % len(hosts)]

    def _connect(self) -> None:
        if self._stopping:
            return
        self._problem = None
        parameters = _parameters(self._broker, self._host(), self._tls)
        self._attempt = ConnectionAttempt()
        AttentiveConnection.create_connection([parameters], self._tried, self._loop, self._attempt)

    def _tried(self, result: Any) -> None:
        self._attempt = None
        if isinstance(result, BaseException):
            self._lost(result)
            return
        self._connection = result
        result.add_on_close_callback(lambda _connection, problem: self._lost(problem))
        # A blocked connection is kept, without pika's timeout and the kernel's: RabbitMQ does not read it, so if it is
        # closed it stays there, with its queue, until the alarm ends, and reconnecting uses up the limits of both.
        result.add_on_connection_blocked_callback(self._blocked)
        result.add_on_connection_unblocked_callback(self._unblocked)
        result.channel(on_open_callback=self._opened)
        self._loop.call_later(OPEN_TIMEOUT, lambda: self._too_slow(result))

    def _too_slow(self, connection: AttentiveConnection) -> None:
        if self._connection is connection and not self._is_up:
            self.abort(CloudUnavailableError(f"RabbitMQ at {self._host()} lets us in, but then does not answer"))

    def _opened(self, channel: Any) -> None:
        channel.add_on_close_callback(self._channel_closed)
        channel.add_on_cancel_callback(self._consumer_cancelled)
        bound_bodies(channel, self._largest_body)
        self._open(channel)

    def _channel_closed(self, _channel: Any, problem: BaseException) -> None:
        self._channel = None
        if self._connection is not None and self._connection.is_open:
            self._abort(self._channel_error(problem))

    def _consumer_cancelled(self, _frame: Any) -> None:
        self.abort(CloudUnavailableError(f"a queue of RabbitMQ at {self._host()} was deleted"))

    def _blocked(self, connection: AttentiveConnection, frame: Any) -> None:
        self._is_blocked = True
        set_user_timeout(connection, 0)  # heartbeats still tell if the broker is gone
        self._notify(self._on_blocked, blocked_error(self._host(), frame.method.reason))

    def _unblocked(self, connection: AttentiveConnection, _frame: Any) -> None:
        self._is_blocked = False
        set_user_timeout(connection, TCP_OPTIONS["TCP_USER_TIMEOUT"])
        self._notify(self._on_blocked, None)

    def _lost(self, problem: BaseException) -> None:
        """Note the end of a connection or of an attempt, and arrange for the next."""
        was_up, self._is_up, self._is_blocked = self._is_up, False, False
        self._connection = self._channel = None
        if self._stopping:
            self._loop.stop()
            return
        error = self._problem or plain_error(problem, self._broker, self._host())
        self._refusals += isinstance(error, BrokerRefusedError)
        if not isinstance(error, CloudUnavailableError):
            if not self._was_ever_up or not isinstance(error, BrokerRefusedError) or self._refusals >= REFUSALS:
                self._failure = error
                self._loop.stop()
                return
            error = CloudUnavailableError(str(error))
        self._host_number += 1
        self._attempts += 1
        rounds, place = divmod(self._attempts, len(self._broker.hosts))
        # The next host at once, but a pause after each round of them and where a connection did come about.
        pause = _pause(rounds) if place == 0 or was_up else 0.0
        if place == 0 or was_up:
            self._on_lost(error)
        log.debug("%s; next attempt in %.1f s", error, pause)
        self._loop.call_later(pause, self._connect)


def _pause(rounds: int) -> float:
    """Return seconds to wait after so many vain rounds; random, lest all clients return to a broker at once."""
    longest = min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** min(max(rounds - 1, 0), 10))
    return random.uniform(longest / 2, longest)


def _parameters(broker: Broker, host: Host, tls: ssl.SSLContext | None) -> pika.ConnectionParameters:
    return pika.ConnectionParameters(
        host=host.name,
        port=host.port,
        virtual_host=broker.virtual_host,
        credentials=pika.PlainCredentials(broker.username, broker.password),
        heartbeat=HEARTBEAT,
        socket_timeout=CONNECT_TIMEOUT,
        stack_timeout=2 * CONNECT_TIMEOUT,
        tcp_options=TCP_OPTIONS,
        ssl_options=None if tls is None else pika.SSLOptions(tls, host.name),
    )
