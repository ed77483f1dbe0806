"""Workarounds for errors and missing features of pika 1.4; no other module uses its private names.

Each class says what fails without it, and names pika's issue if there is one.
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
    """Properties of a message, written by an untrusted sender; values that pika cannot decode are left out.

    Otherwise pika drops the connection, and the broker delivers the same message to the next worker, and so on. For
    timestamps out of range this is pika's issue 1698; for tables that are nested too deep no issue is known.
    """

    def decode(self, encoded: bytes, offset: int = 0) -> "TolerantProperties":
        """Read the properties from a frame."""
        with contextlib.suppress(Exception):  # a date out of range, tables nested too deep
            super().decode(encoded, offset)
        return self


pika.spec.props[pika.BasicProperties.INDEX] = TolerantProperties


class ConnectionAttempt(AMQPConnectionWorkflow):  # type: ignore[misc]
    """An attempt to connect to all addresses of a host in turn.

    pika stops at the first address whose family the kernel does not support, such as IPv6 on some machines; no issue
    is known. It cannot abort an attempt during the AMQP handshake: pika's issue 970 describes the cause.
    """

    def _try_next_resolved_address(self) -> None:
        try:
            super()._try_next_resolved_address()
        except OSError as problem:  # the kernel does not support this kind of address
            if self._connector is None:
                raise  # it was raised elsewhere
            self._on_connector_done(problem)

    def abort(self) -> None:
        """Abort the attempt; may be called twice, and during the AMQP handshake."""
        if self._state == self._STATE_ABORTING:
            return
        try:
            super().abort()
        except AssertionError:
            # pika fails on its own assertion; only these steps are missing. A timeout that fired while the connection
            # closes would fail on another one.
            connector = self._connector
            if connector._stack_timeout_ref is not None:
                connector._stack_timeout_ref.cancel()
                connector._stack_timeout_ref = None
            if not connector._amqp_conn.is_closing:
                connector._amqp_conn.close()


class AttentiveConnection(SelectConnection):  # type: ignore[misc]
    """A connection that reports why a TLS peer closed it, and that can be dropped.

    pika reports a broken pipe when the peer refuses the client certificate, and has no public method that closes a
    connection without waiting for the peer; no issues are known.
    """

    def drop(self, problem: BaseException) -> None:
        """Close the socket at once, without a message to the peer, which may not respond."""
        self._terminate_stream(problem)

    def _proto_connection_lost(self, error: BaseException | None) -> None:
        if self.params.ssl_options is not None and isinstance(error, ssl.SSLEOFError | ConnectionError):
            # Writing failed. The reason may be in a TLS alert that was not read yet, for example a refused certificate.
            try:
                self._transport._sock.recv(1)
            except ssl.SSLError as alert:
                error = alert if "ALERT" in (alert.reason or "") else error
            except OSError:
                pass
        super()._proto_connection_lost(error)


def set_user_timeout(connection: AttentiveConnection, milliseconds: int) -> None:
    """Set the time after which the kernel closes a connection with unacknowledged data; 0: the kernel's default."""
    with contextlib.suppress(AttributeError, OSError):  # not on Linux, or already closed
        connection._transport._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


class DiscardedBody(bytes):
    """An empty body in place of one that was too large.

    Attributes:
        size: bytes of the original body, by the header of its message.
    """

    size: int

    def __new__(cls, size: int) -> Self:
        """Return an empty body."""
        body = super().__new__(cls)
        body.size = size
        return body


class BoundedAssembler(ContentFrameAssembler):  # type: ignore[misc]
    """Joins the frames of a message to a body, but discards those of a body that is too large by its header.

    pika keeps the whole body of a message in memory before a consumer can check its size, up to RabbitMQ's limit of
    128 MiB (512 MiB by setting); no issue is known.

    Args:
        largest: most bytes of a body that is kept.
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
    """Make a channel discard bodies of more than ``largest`` bytes; consumers get a ``DiscardedBody`` instead."""
    channel._content_assembler = BoundedAssembler(largest)


def get_body_size(body: bytes) -> int:
    """Return the bytes of a body, also of one that was discarded."""
    return body.size if isinstance(body, DiscardedBody) else len(body)
