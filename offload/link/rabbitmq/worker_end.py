"""The worker's end of the request queue: requests come in, replies go out."""

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
from offload.link.rabbitmq.connection import CONTENT_TYPE, REPLY_QUEUE, Connection
from offload.link.rabbitmq.pika_fixes import size_of
from offload.link.rabbitmq.problems import quoted
from offload.link.rabbitmq.reply_queues import ReplyQueues
from utils.errors import CloudError, CloudUnavailableError

QUEUE_LIMIT: Final = 1000
QUEUE_BYTES: Final = 2**30
MESSAGE_SECONDS: Final = 600
"""Requests bring a much shorter time of their own; this is for messages of others, which would else circle for ever."""
# A request whose workers died this often may be what kills them. A classic queue cannot count; there, requests expire.
DELIVERY_LIMIT: Final = 5
# A worker replies to such names alone. Some others are orders to the broker: a reply to ``amq.rabbitmq.reply-to.`` and
# rubbish would cost every worker in turn its connection.
_JUST_QUEUED: Final = 2.0
"""Seconds within which the requests come here that waited in the queue, once there is room for them."""
_REPLY_QUEUE_FORM: Final = re.compile(re.escape(REPLY_QUEUE) + "[0-9a-f]{32}")

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Delivery:
    """A message that the broker delivered, of which only the reply queue's name was checked.

    Attributes:
        body: empty where it had more bytes than are kept.
        size: of the body as it was sent.
        seconds: from its publication, after which no one waits for the answer.
        received: when the worker took it, on the monotonic clock.
        request: what the body holds, or the reason to refuse it; None until it is decoded.
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


class WorkerEvents(Protocol):
    """What the owner of a worker's end is told, in the thread that runs it."""

    def on_ready(self) -> object:
        """The queue is being consumed."""

    def on_lost(self, problem: CloudUnavailableError, /) -> object:
        """There is no connection; the broker gives the requests that were not replied to to other workers."""

    def on_blocked(self, problem: CloudUnavailableError | None, /) -> object:
        """RabbitMQ takes no replies for now; None: it takes them again."""

    def on_request(self, delivery: Delivery, /) -> object:
        """A request came, from anyone."""

    def on_abandoned(self, delivery: Delivery, /) -> object:
        """A request came of a client that has left, and was acknowledged."""

    def on_dropped(self) -> object:
        """A message came that names no one to reply to, and was acknowledged."""

    def on_unroutable(self) -> object:
        """A client left before its reply came."""


def queue_arguments(queue_type: str = "classic") -> dict[str, object]:
    """Return how the request queue is declared: bounded, and of a type."""
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
        broker: where RabbitMQ is.
        queue_name: the request queue; declared here, durable and bounded.
        events: is told what happens.
        prefetch: requests that are here at once at most.
        queue_type: ``classic``, or ``quorum``, replicated over a cluster's nodes.
        largest_body: bytes of a request that is kept.
    """

    def __init__(
        self,
        broker: Broker,
        queue_name: str,
        events: WorkerEvents,
        prefetch: int,
        queue_type: str = "classic",
        largest_body: int = LARGEST_MESSAGE,
    ) -> None:
        super().__init__(broker, largest_body, events.on_ready, events.on_lost, events.on_blocked)
        self._queue = queue_name
        self._events = events
        self._prefetch = prefetch
        self._arguments = queue_arguments(queue_type)
        self._consumer = ""
        self._declared = self._is_receiving = False
        self._clients = ReplyQueues()
        self._held: dict[str, list[Delivery]] = {}  # reply queue -> requests, until it is known whether it exists
        self._unacknowledged = 0
        self._queued = -math.inf  # when requests last waited in the queue, on the monotonic clock

    def is_abandoned(self, delivery: Delivery) -> bool:
        """Return whether the client that sent a request is known to have left; safe in any thread."""
        return self._clients.is_gone(delivery.reply_to)

    def reply(self, delivery: Delivery, body: bytes) -> bool:
        """Reply, then acknowledge: a worker that dies in between answers twice rather than never.

        Returns:
            whether the connection that brought the request is still there; else the broker hands it out again.
        """
        if delivery.channel is not self._channel:
            return False
        properties = pika.BasicProperties(content_type=CONTENT_TYPE, correlation_id=delivery.request_id)
        self._channel.basic_publish("", delivery.reply_to, body, properties, mandatory=True)
        self._channel.basic_ack(delivery.tag)
        self._acknowledged()
        return True

    def discard(self, delivery: Delivery) -> None:
        """Acknowledge a request without a reply: no one waits for it."""
        if delivery.channel is self._channel:
            self._channel.basic_ack(delivery.tag)
            self._acknowledged()

    def give_back(self, delivery: Delivery) -> None:
        """Let another worker have a request."""
        if delivery.channel is self._channel:
            self._channel.basic_nack(delivery.tag, requeue=True)
            self._acknowledged()

    def _acknowledged(self) -> None:
        if self._unacknowledged >= self._prefetch:
            self._queued = time.monotonic()
        self._unacknowledged -= 1

    def stop_receiving(self, then: Callable[[], object]) -> None:
        """Take no further requests, and call ``then`` once none comes; those here can be replied to or given back."""
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

        ready: Callable[[Any], None] = lambda _frame: self._ready(channel)  # noqa: E731
        channel.add_on_return_callback(self._on_return)
        channel.queue_declare(self._queue, durable=True, arguments=self._arguments, callback=declared)
        channel.basic_qos(prefetch_count=self._prefetch, callback=lambda _frame: None)
        self._consumer = channel.basic_consume(self._queue, self._on_message, callback=ready)

    def _channel_error(self, problem: BaseException) -> CloudError:
        if (
            isinstance(problem, exceptions.ChannelClosedByBroker)
            and problem.reply_code in {405, 406}  # locked by its owner, declared otherwise
            and not self._declared
        ):
            return CloudError(
                f"queue {self._queue!r} of {self._host()} exists with other settings; delete it, or choose another "
                f"with --mq-queue ({quoted(problem.reply_text)})"
            )
        return super()._channel_error(problem)

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        request_id, reply_to = properties.correlation_id, properties.reply_to
        if is_id(request_id) and isinstance(reply_to, str) and _REPLY_QUEUE_FORM.fullmatch(reply_to):
            seconds, redelivered = _seconds(properties.expiration), bool(method.redelivered)
            delivery = Delivery(
                body, size_of(body), request_id, reply_to, seconds, redelivered, method.delivery_tag, channel
            )
            self._receive(delivery)
            return
        channel.basic_ack(method.delivery_tag)
        self._notify(self._events.on_dropped)

    def _receive(self, delivery: Delivery) -> None:
        """Hand a request on; one that waited in the queue, only once it is known that its client is still there."""
        self._unacknowledged += 1
        now, client = time.monotonic(), delivery.reply_to
        if self._unacknowledged >= self._prefetch:
            self._queued = now
        if client in self._held:
            self._held[client].append(delivery)
        elif self._clients.is_known(client) or not (delivery.redelivered or now - self._queued < _JUST_QUEUED):
            self._hand_on(delivery)
        else:
            self._held[client] = [delivery]
            self._clients.ask(self._connection, client, lambda: self._release(client))

    def _release(self, client: str) -> None:
        for delivery in self._held.pop(client, []):
            self._hand_on(delivery)

    def _hand_on(self, delivery: Delivery) -> None:
        if not self._is_receiving:
            self.give_back(delivery)
            return
        if self.is_abandoned(delivery):
            self.discard(delivery)
            self._notify(self._events.on_abandoned, delivery)
            return
        self._clients.note(delivery.reply_to, exists=True)
        self._notify(self._events.on_request, delivery)

    def _on_return(self, _channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        self._clients.note(method.routing_key, exists=False)
        self._notify(self._events.on_unroutable)


def _seconds(expiration: object) -> float:
    """Return the time that a message's sender gave it; the broker has checked the form."""
    text = expiration if isinstance(expiration, str) and expiration.isdecimal() and len(expiration) < 12 else ""
    return int(text) / 1000 if text else float(MESSAGE_SECONDS)
