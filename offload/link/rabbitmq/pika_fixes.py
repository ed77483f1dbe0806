"""Work around what pika 1.4 gets wrong or does not offer; no other module uses its private names.

Each class says what fails without it, and names the issue of pika where there is one.
"""

import contextlib
import socket
import ssl
from typing import Any, Self

import pika
from pika import exceptions
from pika.adapters.select_connection import SelectConnection
from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflow
from pika.channel import ContentFrameAssembler


class TolerantProperties(pika.BasicProperties):  # type: ignore[misc]  # pika's own types do not say what it is
    """A message's properties, in which a sender may write anything; what pika cannot decode is left out.

    Otherwise pika drops the connection, and the broker delivers the same message to the next worker, and so on. Of
    timestamps out of range this is pika's issue 1698, of others (tables that are nested too deep) none is known.
    """

    def decode(self, encoded: bytes, offset: int = 0) -> "TolerantProperties":
        """Read the properties from a frame."""
        with contextlib.suppress(Exception):  # a date out of range, tables nested too deep
            super().decode(encoded, offset)
        return self


pika.spec.props[pika.BasicProperties.INDEX] = TolerantProperties


class ConnectionAttempt(AMQPConnectionWorkflow):  # type: ignore[misc]
    """An attempt to connect, over all addresses of a host.

    pika gives up at the first address whose family the kernel does not support, as IPv6 on some machines; no issue of
    pika is known. It cannot abort an attempt while the broker greets: issue 970 of pika describes the cause.
    """

    def _try_next_resolved_address(self) -> None:
        try:
            super()._try_next_resolved_address()
        except OSError as problem:  # there are no sockets for such an address, as without IPv6
            if self._connector is None:
                raise  # someone else's
            self._on_connector_done(problem)

    def abort(self) -> None:
        """Abort the attempt; may be called twice, and while the broker greets."""
        if self._state == self._STATE_ABORTING:
            return
        try:
            super().abort()
        except AssertionError:
            # pika fails on its own assertion; what it had left to do is this.
            greeting = self._connector._amqp_conn
            if not greeting.is_closing:
                greeting.close()


class AttentiveConnection(SelectConnection):  # type: ignore[misc]
    """A connection that reads why a TLS peer closed it, and that can be dropped.

    pika reports a broken pipe where the peer refused our certificate, and has no public call that closes a connection
    without waiting for the peer; no issues of pika are known.
    """

    def drop(self, problem: BaseException) -> None:
        """Close the socket at once, without a message to the peer, which may not be listening."""
        self._terminate_stream(problem)

    def _proto_connection_lost(self, error: BaseException | None) -> None:
        if self.params.ssl_options is not None and isinstance(error, ssl.SSLEOFError | ConnectionError):
            # Writing failed; the reason, for example our certificate, may stand in a TLS alert that was not read yet.
            try:
                self._transport._sock.recv(1)
            except ssl.SSLError as alert:
                error = alert if "ALERT" in (alert.reason or "") else error
            except OSError:
                pass
        super()._proto_connection_lost(error)


def set_user_timeout(connection: AttentiveConnection, milliseconds: int) -> None:
    """Set how long a peer may leave data unread before the kernel closes the connection; 0: as long as it answers."""
    with contextlib.suppress(AttributeError, OSError):  # not on Linux, or already closed
        connection._transport._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


class DiscardedBody(bytes):
    """Stands for a body that was too large to keep: empty, but it knows the size.

    Attributes:
        size: of the body in bytes, as its message's header announced it.
    """

    size: int

    def __new__(cls, size: int) -> Self:
        """Return an empty body."""
        body = super().__new__(cls)
        body.size = size
        return body


class BoundedAssembler(ContentFrameAssembler):  # type: ignore[misc]
    """Joins a message's frames to a body, but discards those of a body that its header announces as too large.

    pika keeps every body as a whole, up to RabbitMQ's limit of 128 MiB (512 MiB by setting) for each message, before
    anyone can look at its size; no issue of pika is known.

    Args:
        largest: bytes of a body that is kept.
    """

    def __init__(self, largest: int) -> None:
        super().__init__()
        self._largest = largest

    def _handle_body_frame(self, body_frame: Any) -> Any:
        announced = self._header_frame.body_size
        if announced <= self._largest:
            return super()._handle_body_frame(body_frame)
        self._seen_so_far += len(body_frame.fragment)
        if self._seen_so_far > announced:
            raise exceptions.BodyTooLongError(self._seen_so_far, announced)
        if self._seen_so_far < announced:
            return None
        method, header, _nothing = self._finish()
        return method, header, DiscardedBody(announced)


def bound_bodies(channel: Any, largest: int) -> None:
    """Have a channel discard bodies of more than ``largest`` bytes; consumers get a ``DiscardedBody`` instead."""
    channel._content_assembler = BoundedAssembler(largest)


def size_of(body: bytes) -> int:
    """Return how many bytes a body has or, if it was discarded, had."""
    return body.size if isinstance(body, DiscardedBody) else len(body)
