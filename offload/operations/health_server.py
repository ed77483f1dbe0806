"""HTTP server for ``/metrics``, ``/healthz`` and ``/readyz``, used by Prometheus and probes.

waitress parses requests and sends responses, but does not protect a process from its clients: its timeout restarts
with every byte and never closes a connection whose client stops reading, and its regular expressions take seconds for
some requests of a few kilobytes. Therefore this module closes each connection at a deadline, closes the oldest
connections when there are too many, and refuses such requests before waitress parses them.
"""

import contextlib
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

from prometheus_client import CollectorRegistry, make_wsgi_app
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import create_server
from waitress.task import WSGITask

from utils.errors import InputFileError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication

MAX_CONNECTIONS: Final = 16
LARGEST_REQUEST: Final = 8192
"""Most bytes of a request's head, and of its body, which is ignored."""
TIMEOUT: Final = 5.0
_THREADS: Final = 2
_BACKLOG: Final = 128
_POLL: Final = 0.5
_PAUSE: Final = 0.0001
_SHUTDOWN: Final = 2.0  # seconds to wait for requests in progress
_LONGEST_REASON: Final = 300
_REQUEST: Final = re.compile(rb"[A-Z]+ [/*][!-~]* HTTP/1\.[01]\r\n[\t\r\n -~\x80-\xff]*")
_HEADERS: Final = [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store"), ("Allow", "GET, HEAD")]

log = logging.getLogger(__name__)


class Health(Protocol):
    """The health of a process; the server's threads call the methods."""

    def check_liveness(self) -> str | None:
        """Return why the process must be restarted, None if it works."""

    def check_readiness(self) -> str | None:
        """Return why the process does not serve at the moment, None if it does."""


@contextlib.contextmanager
def serve_health(
    address: str, port: int, registry: CollectorRegistry, health: Health, timeout: float = TIMEOUT
) -> Iterator[int]:
    """Serve ``/metrics``, ``/healthz`` and ``/readyz`` in separate threads until the ``with`` block ends.

    Args:
        address: host name or IP address of this machine to listen on.
        port: port to listen on; 0: any free port.
        registry: metrics to serve.
        health: answers ``/healthz`` and ``/readyz``.
        timeout: seconds after which a connection is closed, whatever its client does.

    Yields:
        the port.

    Raises:
        InputFileError: the address or port cannot be used.
    """
    logging.getLogger("waitress").setLevel(logging.CRITICAL)  # otherwise clients could fill the log
    listener = _listen(address, port)
    port, server = listener.getsockname()[1], _create_server(listener, _Application(registry, health))
    stop = threading.Event()
    thread = threading.Thread(target=_run, args=(server, timeout, stop), name="health-server", daemon=True)
    thread.start()
    try:
        yield port
    finally:
        stop.set()
        server.pull_trigger()
        thread.join()
        _close_connections(server, 0, 0)
        server.task_dispatcher.shutdown(timeout=_SHUTDOWN)
        wasyncore.close_all(server._map)


def _listen(address: str, port: int) -> socket.socket:
    reason = "no such host"
    with contextlib.suppress(socket.gaierror, UnicodeError):
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, socket_address in found:  # localhost may be ::1 where there is no IPv6
            both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
            try:
                return socket.create_server(socket_address, family=family, dualstack_ipv6=both)
            except OSError as problem:
                reason = os.strerror(problem.errno or 0).lower()
    raise InputFileError(
        f"cannot serve metrics at {address}:{port} ({reason}); choose another --metrics-port or --metrics-address"
    )


def _create_server(listener: socket.socket, application: "_Application") -> Any:
    server = create_server(
        application,
        sockets=[listener],
        threads=_THREADS,
        backlog=_BACKLOG,
        max_request_header_size=LARGEST_REQUEST,
        max_request_body_size=LARGEST_REQUEST,
        log_socket_errors=False,
        ident=None,
    )
    server.channel_class = _Channel
    return server


def _run(server: Any, timeout: float, stop: threading.Event) -> None:
    while not stop.is_set():
        wasyncore.loop(timeout=_POLL, use_poll=True, map=server._map, count=1)
        _close_connections(server, MAX_CONNECTIONS, time.time() - timeout)
        time.sleep(_PAUSE)  # limits the load of a flood of connections, and of failing to accept without descriptors


def _close_connections(server: Any, most: int, earliest: float) -> None:
    """Close all connections but the newest, and those that began before ``earliest`` (seconds since the epoch)."""
    newest_first = list(server.active_channels.values())[::-1]
    for number, channel in enumerate(newest_first):
        if number >= most or channel.creation_time < earliest:
            channel.handle_close()


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """Refuses requests for which waitress's regular expressions take quadratic time."""

    def parse_header(self, header: bytes) -> None:
        if not _REQUEST.fullmatch(header):
            raise ParsingError("this is not an HTTP/1.0 or HTTP/1.1 request")
        super().parse_header(header)


class _Task(WSGITask):  # type: ignore[misc]
    """Sends no body to a HEAD request, and closes the connection after the response."""

    def start(self) -> None:
        super().start()
        self.set_close_on_finish()

    def write(self, data: bytes) -> None:
        super().write(b"" if self.request.command == "HEAD" else data)


class _Channel(HTTPChannel):  # type: ignore[misc]
    parser_class = _Parser
    task_class = _Task


class _Application:
    """The WSGI application."""

    def __init__(self, registry: CollectorRegistry, health: Health) -> None:
        self._metrics: WSGIApplication = make_wsgi_app(registry)
        self._checks = {"/healthz": health.check_liveness, "/readyz": health.check_readiness}

    def __call__(self, environ: dict[str, Any], start_response: "StartResponse") -> Iterable[bytes]:
        try:
            return self._respond(environ, start_response)
        except Exception:
            log.exception("cannot serve %s", environ["PATH_INFO"])
            raise  # waitress responds with status 500

    def _respond(self, environ: dict[str, Any], start_response: "StartResponse") -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            status, line = "405 Method Not Allowed", "only GET and HEAD are allowed"
        elif path == "/metrics":
            return self._respond_with_metrics({**environ, "REQUEST_METHOD": "GET"}, start_response)
        elif path not in self._checks:
            status, line = "404 Not Found", "try /metrics, /healthz or /readyz"
        elif (problem := self._checks[path]()) is not None:
            status, line = "503 Service Unavailable", " ".join(problem.split())[:_LONGEST_REASON]
        else:
            status, line = "200 OK", "ok"
        start_response(status, _HEADERS)
        return [f"{line}\n".encode(errors="replace")]

    def _respond_with_metrics(self, environ: dict[str, Any], start_response: "StartResponse") -> Iterable[bytes]:
        try:
            return self._metrics(environ, start_response)
        except (TypeError, ValueError):  # an Accept header with a version that is not a number
            return self._metrics({**environ, "HTTP_ACCEPT": "", "QUERY_STRING": ""}, start_response)
