"""A connection to RabbitMQ that reconnects after every loss; one thread owns it."""

import contextlib
import logging
import random
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, Protocol

import pika
from pika.adapters.select_connection import IOLoop

from offload.link.broker import Broker, Host
from offload.link.rabbitmq.broker_errors import make_blocked_error, translate_error
from offload.link.rabbitmq.pika_fixes import AttentiveConnection, ConnectionAttempt, bound_bodies, set_user_timeout
from utils.errors import BrokerRefusedError, CloudError, CloudUnavailableError

HEARTBEAT: Final = 30
CLOSE_TIMEOUT: Final = 2.0
# Client and worker must reconnect within 5 s of the broker's return, even if an attempt is in progress at that moment:
# the kernel sends the last SYN of an attempt after 3 s.
CONNECT_TIMEOUT: Final = 4
OPEN_TIMEOUT: Final = 10.0
SHORTEST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 3.5
REFUSALS: Final = 3
CONTENT_TYPE: Final = "application/vnd.safetensors"
REPLY_QUEUE: Final = "ee-reply."
# The kernel closes a connection whose peer does not acknowledge data (user timeout) or, on an idle connection, probes.
# Data sent at the last moment restarts the user timeout, so both together must stay below 15 s.
TCP_OPTIONS: Final = {"TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 6_000}

log = logging.getLogger(__name__)
# pika also raises what it logs about failed connections, so it logs only if the user has set a level.
if logging.getLogger("pika").level == logging.NOTSET:
    logging.getLogger("pika").setLevel(logging.CRITICAL)


class ConnectionEvents(Protocol):
    """Callbacks of a ``Connection``, called in the thread that runs it."""

    def on_ready(self) -> object:
        """Handle that messages can be published and consumed; earlier requests get no reply over this connection."""

    def on_lost(self, problem: CloudUnavailableError, /) -> object:
        """Handle that a ready connection was lost, or that all hosts have failed in turn."""

    def on_blocked(self, problem: CloudUnavailableError | None, /) -> object:
        """Handle that RabbitMQ blocks publishers; None: it accepts messages again.

        A connection that is lost meanwhile is no longer blocked.
        """


class Connection(ABC):
    """A connection with one channel; when it is lost, it reconnects to the broker's hosts in turn.

    The thread that calls ``run`` owns it: all callbacks run in that thread, and only ``call_soon`` and ``stop`` may be
    called in other threads.

    Args:
        broker: connection settings.
        largest_body: most bytes of a message's body; larger bodies are discarded as they arrive.
        events: callbacks.

    Raises:
        InputFileError: a TLS file is missing or invalid.
    """

    def __init__(self, broker: Broker, largest_body: int, events: ConnectionEvents) -> None:
        self._broker = broker
        self._largest_body = largest_body
        self._tls = None if broker.tls is None else broker.tls.make_context()
        self._events = events
        self._loop = IOLoop()
        self._lock = threading.Lock()
        self._ended = False
        self._stopping = False
        self._failure: BaseException | None = None
        self._host_number = 0
        self._attempts = 0  # since a connection was last ready
        self._refusals = 0
        self._is_up = self._was_ever_up = self._is_blocked = False
        self._attempt: ConnectionAttempt | None = None  # while it is in progress
        self._connection: AttentiveConnection | None = None
        self._channel: Any = None
        self._problem: CloudError | None = None  # why this side aborted the connection

    @property
    def is_ready(self) -> bool:
        """Whether messages can be published and consumed."""
        return self._channel is not None

    @property
    def is_blocked(self) -> bool:
        """Whether RabbitMQ blocks publishers, as it does while its memory or disk alarm is on."""
        return self._is_blocked

    def run(self) -> None:
        """Connect, and reconnect after every loss, until ``stop``.

        Raises:
            BrokerRefusedError: the broker refuses user, password, virtual host or certificate. After a first success,
                it must refuse several times in a row, because a node that starts may do so once.
            CloudError: the queue exists with other settings.
        """
        self._loop.add_callback_threadsafe(self._connect)
        try:
            self._loop.start()
        finally:
            self._clean_up()
        if self._failure is not None:
            raise self._failure

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Have the owner thread call a function; safe in any thread.

        Raises:
            CloudUnavailableError: ``run`` has ended.
        """
        with self._lock:
            if self._ended:
                raise CloudUnavailableError("the connection to RabbitMQ was closed")
            self._loop.add_callback_threadsafe(callback)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Callable[[], None]:
        """Call a function after some seconds; return a function that cancels the call."""
        timeout = self._loop.call_later(seconds, callback)
        return lambda: self._loop.remove_timeout(timeout)

    def stop(self) -> None:
        """Close the connection; ``run`` returns promptly even if the broker is silent. Safe in any thread."""
        with contextlib.suppress(CloudUnavailableError):
            self.call_soon(self._stop)

    def abort(self, problem: CloudUnavailableError) -> None:
        """Drop the connection without a message to the broker, and reconnect."""
        if self._connection is not None and self._connection.is_open:
            self._abort(problem)

    @abstractmethod
    def _open(self, channel: Any) -> None:
        """Declare and consume the queues of this end, then call ``_mark_ready``."""

    def _mark_ready(self, channel: Any) -> None:
        """Mark the connection ready and notify the owner."""
        if channel.is_open:
            self._channel = channel
            self._attempts = self._refusals = 0
            self._is_up = self._was_ever_up = True
            self._notify(self._events.on_ready)

    def _notify(self, callback: Callable[..., object], *arguments: object) -> None:
        """Notify the owner; an exception that it raises ends ``run``.

        pika would treat it as an error of the connection, and the next connection would raise it again.
        """
        try:
            callback(*arguments)
        except BaseException as failure:
            self._failure = self._failure or failure
            self._loop.stop()

    def _explain_channel_closure(self, problem: BaseException) -> CloudError:
        """Return the error to report when the broker has closed the channel."""
        return translate_error(problem, self._broker, self._get_host())

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

    def _clean_up(self) -> None:
        """Close the socket, and run the functions that ``call_soon`` has accepted."""
        with self._lock:
            self._ended = True
        self._stopping = True
        try:
            if self._attempt is not None:
                self._attempt.abort()
            elif self._connection is not None:
                self._abort(CloudUnavailableError("the connection was closed"))
            self._loop.process_timeouts()
        finally:
            self._loop.close()

    def _get_host(self) -> Host:
        hosts = self._broker.hosts
        return hosts[self._host_number % len(hosts)]

    def _connect(self) -> None:
        if self._stopping:
            return
        self._problem = None
        parameters = _make_parameters(self._broker, self._get_host(), self._tls)
        self._attempt = ConnectionAttempt()
        AttentiveConnection.create_connection([parameters], self._on_attempt_ended, self._loop, self._attempt)

    def _on_attempt_ended(self, result: Any) -> None:
        self._attempt = None
        if isinstance(result, BaseException):
            self._handle_loss(result)
            return
        self._connection = result
        result.add_on_close_callback(lambda _connection, problem: self._handle_loss(problem))
        # A blocked connection is kept, without the timeouts of pika and the kernel. RabbitMQ does not read from it, so
        # a closed one would count against the limits of connections and queues until the alarm ends.
        result.add_on_connection_blocked_callback(self._on_connection_blocked)
        result.add_on_connection_unblocked_callback(self._on_connection_unblocked)
        result.channel(on_open_callback=self._on_channel_opened)
        self._loop.call_later(OPEN_TIMEOUT, lambda: self._abort_if_not_ready(result))

    def _abort_if_not_ready(self, connection: AttentiveConnection) -> None:
        if self._connection is connection and not self._is_up:
            self.abort(CloudUnavailableError(f"RabbitMQ at {self._get_host()} accepts the login but does not answer"))

    def _on_channel_opened(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_cancel_callback(self._on_consumer_cancelled)
        bound_bodies(channel, self._largest_body)
        self._open(channel)

    def _on_channel_closed(self, _channel: Any, problem: BaseException) -> None:
        self._channel = None
        if self._connection is not None and self._connection.is_open:
            self._abort(self._explain_channel_closure(problem))

    def _on_consumer_cancelled(self, _frame: Any) -> None:
        self.abort(CloudUnavailableError(f"a queue of RabbitMQ at {self._get_host()} was deleted"))

    def _on_connection_blocked(self, connection: AttentiveConnection, frame: Any) -> None:
        self._is_blocked = True
        set_user_timeout(connection, 0)  # heartbeats still detect that the broker is gone
        self._notify(self._events.on_blocked, make_blocked_error(self._get_host(), frame.method.reason))

    def _on_connection_unblocked(self, connection: AttentiveConnection, _frame: Any) -> None:
        self._is_blocked = False
        set_user_timeout(connection, TCP_OPTIONS["TCP_USER_TIMEOUT"])
        self._notify(self._events.on_blocked, None)

    def _handle_loss(self, problem: BaseException) -> None:
        """Handle the end of a connection or of an attempt, and schedule the next attempt."""
        was_up, self._is_up, self._is_blocked = self._is_up, False, False
        self._connection = self._channel = None
        if self._stopping:
            self._loop.stop()
            return
        error = self._problem or translate_error(problem, self._broker, self._get_host())
        self._refusals += isinstance(error, BrokerRefusedError)
        if not isinstance(error, CloudUnavailableError):
            if not self._was_ever_up or not isinstance(error, BrokerRefusedError) or self._refusals >= REFUSALS:
                self._failure = error
                self._loop.stop()
                return
            error = CloudUnavailableError(str(error))
        self._host_number += 1
        self._attempts += 1
        rounds, in_round = divmod(self._attempts, len(self._broker.hosts))
        # The next host is tried at once, but with a pause after each round of hosts and after a ready connection.
        is_paused = in_round == 0 or was_up
        pause = _choose_pause(rounds) if is_paused else 0.0
        if is_paused:
            self._events.on_lost(error)
        log.debug("%s; next attempt in %.1f s", error, pause)
        self._loop.call_later(pause, self._connect)


def _choose_pause(rounds: int) -> float:
    """Return the seconds to wait after failed rounds; random, so that clients do not all reconnect at once."""
    longest = min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** min(max(rounds - 1, 0), 10))
    return random.uniform(longest / 2, longest)


def _make_parameters(broker: Broker, host: Host, tls: ssl.SSLContext | None) -> pika.ConnectionParameters:
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
