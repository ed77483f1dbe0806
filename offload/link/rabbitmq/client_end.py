"""The client's connection to RabbitMQ: publish requests and consume replies."""

import logging
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import pika

from offload.link.broker import Broker
from offload.link.protocol import LARGEST_REPLY, make_id
from offload.link.rabbitmq.connection import CONTENT_TYPE, REPLY_QUEUE, Connection, ConnectionEvents
from offload.link.rabbitmq.pika_fixes import DiscardedBody
from utils.errors import CloudUnavailableError

REJECTION_LIMIT: Final = 10.0
"""Seconds for which RabbitMQ may reject all requests of a connection before it is replaced.

If a channel was opened while a quorum queue elected a new leader, RabbitMQ 3.10 rejects all its messages forever, as if
the queue were full: the channel keeps sending to the node that is gone.
"""
_LONGEST_REJECTION_LIMIT: Final = 600.0

log = logging.getLogger(__name__)


class ClientEvents(ConnectionEvents, Protocol):
    """Callbacks of a ``RequestSender``."""

    def on_reply(self, request_id: str, body: bytes, /) -> object:
        """Handle an untrusted reply."""

    def on_oversize_reply(self, size: int, /) -> object:
        """Handle a message that was discarded on arrival because it is too large for a reply."""

    def on_confirmed(self, request_id: str, /) -> object:
        """Handle that a request is in the queue."""

    def on_returned(self, request_id: str, why: str, /) -> object:
        """Handle that a request is not in the queue; ``why`` is the predicate of a sentence about the queue."""


class RequestSender(Connection):
    """Publishes requests and consumes the replies.

    Replies come to an exclusive queue, which RabbitMQ deletes when the connection is closed.

    Args:
        broker: connection settings.
        queue_name: the request queue, which the workers declare.
        events: callbacks.
    """

    _events: ClientEvents

    def __init__(self, broker: Broker, queue_name: str, events: ClientEvents) -> None:
        super().__init__(broker, LARGEST_REPLY, events)
        self._queue = queue_name
        self._reply_to = ""
        self._published = 0
        self._unconfirmed: dict[int, str] = {}
        self._returned: set[str] = set()
        self._has_accepted = False  # whether RabbitMQ has accepted a request on this connection
        self._first_rejection: float | None = None  # on this connection, by the monotonic clock
        self._rejection_limit = REJECTION_LIMIT

    def publish(self, request_id: str, body: bytes, seconds: float) -> None:
        """Publish a request, which expires in the queue after ``seconds``; call it only while ``is_ready``."""
        properties = pika.BasicProperties(
            content_type=CONTENT_TYPE,
            correlation_id=request_id,
            reply_to=self._reply_to,
            # The broker discards requests whose client no longer waits, so that they are not computed.
            expiration=str(max(1, int(1000 * seconds))),
        )
        self._published += 1
        self._unconfirmed[self._published] = request_id
        self._channel.basic_publish("", self._queue, body, properties, mandatory=True)

    def _open(self, channel: Any) -> None:
        self._reply_to = f"{REPLY_QUEUE}{make_id()}"
        self._published = 0
        self._unconfirmed.clear()
        self._returned.clear()
        self._has_accepted, self._first_rejection = False, None
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=_do_nothing)
        channel.queue_declare(self._reply_to, exclusive=True, auto_delete=True, callback=_do_nothing)
        ready: Callable[[Any], None] = lambda _frame: self._mark_ready(channel)  # noqa: E731
        channel.basic_consume(self._reply_to, self._on_message, auto_ack=True, callback=ready)

    def _on_message(self, _channel: Any, _method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        if isinstance(body, DiscardedBody):
            self._notify(self._events.on_oversize_reply, body.size)
        else:
            self._notify(self._events.on_reply, str(properties.correlation_id), body)

    def _on_return(self, _channel: Any, _method: Any, properties: pika.BasicProperties, _body: bytes) -> None:
        # The broker returns a message that it cannot route, and then confirms it.
        self._returned.add(properties.correlation_id)

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        tags = [t for t in self._unconfirmed if t <= method.delivery_tag] if method.multiple else [method.delivery_tag]
        for tag in tags:
            request_id = self._unconfirmed.pop(tag, None)
            if request_id is None:
                continue
            if isinstance(method, pika.spec.Basic.Nack):
                self._notify(self._events.on_returned, request_id, "is full")
                self._reconnect_if_all_is_rejected()
            elif request_id in self._returned:
                self._returned.discard(request_id)
                self._notify(self._events.on_returned, request_id, "does not exist")
            else:
                self._has_accepted, self._rejection_limit = True, REJECTION_LIMIT
                self._notify(self._events.on_confirmed, request_id)

    def _reconnect_if_all_is_rejected(self) -> None:
        """Reconnect if nothing has been accepted on this connection for a while."""
        now = time.monotonic()
        if self._first_rejection is None:
            self._first_rejection = now
        if not self._has_accepted and now - self._first_rejection > self._rejection_limit:
            problem = f"RabbitMQ at {self._broker} rejected all requests for {self._rejection_limit:g} s; reconnecting"
            self._rejection_limit = min(2 * self._rejection_limit, _LONGEST_REJECTION_LIMIT)
            self.abort(CloudUnavailableError(problem, "queue-full"))


def _do_nothing(_frame: Any) -> None:
    """Do nothing: the broker answers in order, so the last answer shows that all operations succeeded."""
