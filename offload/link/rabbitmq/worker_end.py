"""The worker's connection to RabbitMQ: consume requests and publish replies."""

import logging
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pika
from pika import exceptions

from offload.link.broker import Broker
from offload.link.protocol import LARGEST_MESSAGE, Refusal, Request, is_id
from offload.link.rabbitmq.broker_errors import quote
from offload.link.rabbitmq.connection import CONTENT_TYPE, REPLY_QUEUE, Connection, ConnectionEvents
from offload.link.rabbitmq.pika_fixes import get_body_size
from offload.link.rabbitmq.reply_queues import ReplyQueues
from utils.errors import CloudError

QUEUE_LIMIT: Final = 1000
QUEUE_BYTES: Final = 2**30
MESSAGE_SECONDS: Final = 600
"""Time to live of messages. Requests set a much shorter one; other messages would be requeued forever."""
DELIVERY_LIMIT: Final = 5
"""Most deliveries of a request in a quorum queue: a request whose workers died this often may have killed them.
A classic queue does not count deliveries; there, such a request expires."""
_JUST_QUEUED: Final = 2.0
"""Seconds within which requests that waited in the queue are delivered once the prefetch allows it."""
# A worker replies only to such names. Others may be commands to the broker: a reply to ``amq.rabbitmq.reply-to.`` with
# an invalid rest would make the broker close the connection of every worker in turn.
_REPLY_QUEUE_FORM: Final = re.compile(re.escape(REPLY_QUEUE) + "[0-9a-f]{32}")

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Delivery:
    """A message that the broker delivered; only its request id and the name of its reply queue are checked.

    Attributes:
        body: empty if the message was too large.
        size: bytes of the body as it was sent.
        request_id: correlation id of the message.
        reply_to: name of the client's reply queue.
        seconds: time from its publication after which the client no longer waits.
        redelivered: whether a worker received it before and did not answer.
        tag, channel: number of the delivery, and the pika channel on which it came.
        received: when the worker received it, on the monotonic clock.
        request: the decoded request, or its refusal; None until it is decoded.
    """

    body: bytes
    size: int
    request_id: str
    reply_to: str
    seconds: float
    redelivered: bool
    tag: int
    channel: Any
    received: float = 0.0
    request: Request | Refusal | None = None


class WorkerEvents(ConnectionEvents, Protocol):
    """Callbacks of a ``RequestQueue``."""

    def on_request(self, delivery: Delivery, /) -> object:
        """Handle an untrusted request."""

    def on_abandoned(self, delivery: Delivery, /) -> object:
        """Handle a request that was acknowledged without a reply because its client has left."""

    def on_dropped(self) -> object:
        """Handle a message that was acknowledged because it has no valid request id or reply queue."""

    def on_unroutable(self) -> object:
        """Handle that a client had left before its reply was published."""


def make_queue_arguments(queue_type: str = "classic") -> dict[str, object]:
    """Return the arguments of the request queue's declaration: its limits and its type."""
    bounds: dict[str, object] = {
        "x-max-length": QUEUE_LIMIT,
        "x-max-length-bytes": QUEUE_BYTES,
        "x-overflow": "reject-publish",
        "x-message-ttl": 1000 * MESSAGE_SECONDS,
    }
    if queue_type == "classic":
        return bounds
    return {**bounds, "x-queue-type": queue_type, "x-delivery-limit": DELIVERY_LIMIT}


class RequestQueue(Connection):
    """Consumes requests; each is acknowledged after its reply.

    Args:
        broker: connection settings.
        queue_name: the request queue, which is declared durable and bounded.
        events: callbacks.
        prefetch: most requests without an acknowledgement.
        queue_type: ``classic``, or ``quorum``, which is replicated over the nodes of a cluster.
        largest_body: most bytes of a request's body that is kept.
    """

    _events: WorkerEvents

    def __init__(
        self,
        broker: Broker,
        queue_name: str,
        events: WorkerEvents,
        prefetch: int,
        queue_type: str = "classic",
        largest_body: int = LARGEST_MESSAGE,
    ) -> None:
        super().__init__(broker, largest_body, events)
        self._queue = queue_name
        self._prefetch = prefetch
        self._arguments = make_queue_arguments(queue_type)
        self._consumer = ""
        self._declared = self._is_receiving = False
        self._clients = ReplyQueues()
        self._held: dict[str, list[Delivery]] = {}  # requests by reply queue, until it is known whether it exists
        self._unacknowledged = 0
        self._queued = -math.inf  # when requests last waited in the queue, on the monotonic clock

    def is_abandoned(self, delivery: Delivery) -> bool:
        """Return whether the client that sent a request is known to have left; safe in any thread."""
        return self._clients.is_gone(delivery.reply_to)

    def reply(self, delivery: Delivery, body: bytes) -> bool:
        """Publish a reply, then acknowledge; if a worker dies in between, the request is answered twice, not never.

        Returns:
            whether the request came over the present connection; otherwise the broker has requeued it.
        """
        if delivery.channel is not self._channel:
            return False
        properties = pika.BasicProperties(content_type=CONTENT_TYPE, correlation_id=delivery.request_id)
        self._channel.basic_publish("", delivery.reply_to, body, properties, mandatory=True)
        self._channel.basic_ack(delivery.tag)
        self._count_acknowledged()
        return True

    def discard(self, delivery: Delivery) -> None:
        """Acknowledge a request without a reply, because its client no longer waits."""
        if delivery.channel is self._channel:
            self._channel.basic_ack(delivery.tag)
            self._count_acknowledged()

    def requeue(self, delivery: Delivery) -> None:
        """Return a request to the queue for another worker."""
        if delivery.channel is self._channel:
            self._channel.basic_nack(delivery.tag, requeue=True)
            self._count_acknowledged()

    def _count_acknowledged(self) -> None:
        if self._unacknowledged >= self._prefetch:
            self._queued = time.monotonic()
        self._unacknowledged -= 1

    def stop_receiving(self, then: Callable[[], object]) -> None:
        """Stop consuming, and call ``then`` when no more requests come; received ones can be answered or requeued."""
        if not self.is_ready:
            then()
            return
        self._is_receiving = False
        self._channel.basic_cancel(self._consumer, callback=lambda _frame: then())

    def _open(self, channel: Any) -> None:
        self._declared = False
        self._is_receiving = True
        self._unacknowledged = 0
        self._held.clear()

        def declared(frame: Any) -> None:
            self._declared = True
            if frame.method.message_count > 0:
                self._queued = time.monotonic()

        ready: Callable[[Any], None] = lambda _frame: self._mark_ready(channel)  # noqa: E731
        channel.add_on_return_callback(self._on_return)
        channel.queue_declare(self._queue, durable=True, arguments=self._arguments, callback=declared)
        channel.basic_qos(prefetch_count=self._prefetch, callback=lambda _frame: None)
        self._consumer = channel.basic_consume(self._queue, self._on_message, callback=ready)

    def _explain_channel_closure(self, problem: BaseException) -> CloudError:
        if (
            isinstance(problem, exceptions.ChannelClosedByBroker)
            and problem.reply_code in {405, 406}  # exclusive to another connection, or other arguments
            and not self._declared
        ):
            return CloudError(
                f"queue {self._queue!r} of {self._get_host()} exists with other settings; delete it, or choose another "
                f"with --mq-queue ({quote(problem.reply_text)})"
            )
        return super()._explain_channel_closure(problem)

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        request_id, reply_to = properties.correlation_id, properties.reply_to
        if is_id(request_id) and isinstance(reply_to, str) and _REPLY_QUEUE_FORM.fullmatch(reply_to):
            seconds, redelivered = _parse_expiration(properties.expiration), bool(method.redelivered)
            delivery = Delivery(
                body, get_body_size(body), request_id, reply_to, seconds, redelivered, method.delivery_tag, channel
            )
            self._receive(delivery)
            return
        channel.basic_ack(method.delivery_tag)
        self._notify(self._events.on_dropped)

    def _receive(self, delivery: Delivery) -> None:
        """Deliver a request; if it waited in the queue, first find out whether its client is still connected."""
        self._unacknowledged += 1
        now, client = time.monotonic(), delivery.reply_to
        if self._unacknowledged >= self._prefetch:
            self._queued = now
        if client in self._held:
            self._held[client].append(delivery)
        elif self._clients.is_known(client) or not (delivery.redelivered or now - self._queued < _JUST_QUEUED):
            self._deliver(delivery)
        else:
            self._held[client] = [delivery]
            self._clients.ask(self._connection, client, lambda: self._release(client))

    def _release(self, client: str) -> None:
        for delivery in self._held.pop(client, []):
            self._deliver(delivery)

    def _deliver(self, delivery: Delivery) -> None:
        if not self._is_receiving:
            self.requeue(delivery)
            return
        if self.is_abandoned(delivery):
            self.discard(delivery)
            self._notify(self._events.on_abandoned, delivery)
            return
        self._clients.remember(delivery.reply_to, exists=True)
        self._notify(self._events.on_request, delivery)

    def _on_return(self, _channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        self._clients.remember(method.routing_key, exists=False)
        self._notify(self._events.on_unroutable)


def _parse_expiration(expiration: object) -> float:
    """Return the seconds until a message expires; the broker has checked the form."""
    text = expiration if isinstance(expiration, str) and expiration.isdecimal() and len(expiration) < 12 else ""
    return int(text) / 1000 if text else float(MESSAGE_SECONDS)
