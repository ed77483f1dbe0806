"""A small HTTP server for those who watch a process: its metrics, whether it lives, and whether it serves.

It is meant for Prometheus and for probes, reads nothing but a request's head, and holds neither many connections nor
any for long, so that no one who can reach it can harm the process through it.
"""

import contextlib
import io
import logging
import re
import socket
import socketserver
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry, make_wsgi_app

from utils.errors import InputFileError

MOST_CONNECTIONS: Final = 16
LARGEST_HEAD: Final = 16384
TIMEOUT: Final = 5.0
_LINGER: Final = 1.0
_LARGEST_LINGER: Final = 2**20
_SLOT_TIMEOUT: Final = 1.0
_POLL: Final = 0.1
_LONGEST_REASON: Final = 300
_METHODS: Final = ("GET", "HEAD")
_PLAIN: Final = "text/plain; charset=utf-8"
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")

log = logging.getLogger(__name__)


class Health(Protocol):
    """Says how a process is; asked from the server's threads."""

    def alive(self) -> str | None:
        """Return why the process should be restarted, None while there is no reason to."""

    def ready(self) -> str | None:
        """Return why the process does not serve just now, None while it does."""


class MonitoringServer:
    """Serves ``/metrics``, ``/healthz`` and ``/readyz`` for the length of a ``with`` block, in threads of its own.

    Args:
        address: where to listen, a name or an address of this machine.
        port: where to listen; 0 for any that is free.
        registry: what ``/metrics`` shows.
        health: what ``/healthz`` and ``/readyz`` ask.
        timeout: seconds that a client has to make its request, and again to take the answer.

    Attributes:
        port: where it listens, also where 0 was asked for.

    Raises:
        InputFileError: on entering: it cannot listen there.
    """

    def __init__(
        self, address: str, port: int, registry: CollectorRegistry, health: Health, timeout: float = TIMEOUT
    ) -> None:
        self._address = address
        self._pages = _Pages(registry, health)
        self._timeout = timeout
        self.port = port

    def __enter__(self) -> "MonitoringServer":
        self._server = self._listen()
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(_POLL,), name="monitoring", daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _listen(self) -> "_Server":
        problem: OSError | UnicodeError
        try:
            places = socket.getaddrinfo(self._address, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as unknown:
            places, problem = [], unknown
        for family, *_, place in places:  # localhost may be ::1 where there is no IPv6
            try:
                return _Server(family, place, self._pages, self._timeout)
            except OSError as refused:
                problem = refused
        reason = problem.strerror.lower() if isinstance(problem, OSError) and problem.strerror else "no such host"
        raise InputFileError(
            f"cannot serve metrics at {self._address}:{self.port} ({reason}); choose another --metrics-port"
        ) from problem


class _Pages:
    """What is answered, whoever asks and however."""

    def __init__(self, registry: CollectorRegistry, health: Health) -> None:
        self._metrics = make_wsgi_app(registry)
        self._health = health

    def get(self, path: str, query: str, accept: str, encodings: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the answer to a GET."""
        if path == "/metrics":
            return self._exposition(query, accept, encodings)
        if path == "/healthz":
            return _health_page(self._health.alive())
        if path == "/readyz":
            return _health_page(self._health.ready())
        return _text_page(HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz")

    def _exposition(self, query: str, accept: str, encodings: str) -> tuple[int, dict[str, str], bytes]:
        headers: dict[str, str] = {}

        def start(_status: str, pairs: list[tuple[str, str]]) -> None:
            headers.update(pairs)

        wanted = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/metrics",
            "QUERY_STRING": query,
            # It is quoted in the answer's head, where a line break, say of a folded header, would do harm.
            "HTTP_ACCEPT": accept if accept.isascii() and accept.isprintable() else "",
            "HTTP_ACCEPT_ENCODING": encodings,
        }
        try:
            body = b"".join(self._metrics(wanted, start))
        except (TypeError, ValueError):
            # prometheus_client stumbles over versions that are no numbers: then as if none were named.
            body = b"".join(self._metrics(wanted | {"QUERY_STRING": "", "HTTP_ACCEPT": ""}, start))
        return HTTPStatus.OK, headers, body


def _health_page(problem: str | None) -> tuple[int, dict[str, str], bytes]:
    if problem is None:
        return _text_page(HTTPStatus.OK, "ok")
    return _text_page(HTTPStatus.SERVICE_UNAVAILABLE, " ".join(problem.split())[:_LONGEST_REASON])


def _text_page(status: HTTPStatus, line: str) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": _PLAIN}, f"{line}\n".encode(errors="replace")


class _Server(ThreadingHTTPServer):
    """Has a thread for each connection, and few of them: a newcomer takes the place of the oldest."""

    allow_reuse_port = False  # else two processes could share a port, and each be shown half of the time
    request_queue_size = 128

    def __init__(self, family: socket.AddressFamily, place: Any, pages: _Pages, timeout: float) -> None:
        self.address_family = family
        self.pages = pages
        self.client_timeout = timeout
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._open: dict[socket.socket, None] = {}  # oldest first
        self._lock = threading.Lock()
        super().__init__(place, _Handler)

    def server_bind(self) -> None:
        """Listen, without asking the name service for this machine's name, which can take long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        try:
            return super().get_request()
        except OSError:
            # Out of file descriptors, say. The connection goes on waiting, and must not be tried again at full speed.
            time.sleep(_POLL)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection."""
        if not self._free.acquire(blocking=False):
            self._hang_up(most=1)
            if not self._free.acquire(timeout=_SLOT_TIMEOUT):
                self.shutdown_request(request)
                return
        with self._lock:
            self._open[request] = None
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads can be had
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer; runs in the connection's thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Stop listening and hang up on everyone."""
        super().server_close()
        self._hang_up(most=MOST_CONNECTIONS)

    def _hang_up(self, most: int) -> None:
        with self._lock:
            for request in list(self._open)[:most]:
                del self._open[request]
                with contextlib.suppress(OSError):  # the client was quicker
                    request.shutdown(socket.SHUT_RDWR)  # its thread wakes up and closes it

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Say nothing of clients that hang up or stall; a fault of ours is logged."""
        log.debug("a client of the metrics server left", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request of a connection and closes it."""

    server: _Server
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # an unreadable request is answered with a status line, too

    def handle(self) -> None:
        """Read a request and answer it."""
        head = self._read_head()
        if head is None:
            return
        self.rfile = io.BufferedReader(io.BytesIO(head))
        self.raw_requestline = self.rfile.readline()
        self.command, self.request_version = "", self.default_request_version
        if len(head) > LARGEST_HEAD:
            long_line = len(self.raw_requestline) > LARGEST_HEAD // 2
            self.send_error(414 if long_line else 431)
        elif self.parse_request():
            self._answer()
        self._linger()

    def _read_head(self) -> bytes | None:
        """Return what precedes a request's body, with more than ``LARGEST_HEAD`` bytes if it is too long."""
        deadline = time.monotonic() + self.server.client_timeout
        head = bytearray()
        new = 0
        while len(head) <= LARGEST_HEAD and not _END_OF_HEAD.search(head, max(0, new - 2)):
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self.connection.settimeout(left)
            part = self.connection.recv(4096)
            if not part:
                return None
            new = len(head)
            head += part
        self.connection.settimeout(self.server.client_timeout)  # for the whole of the answer, as sendall counts
        return bytes(head)

    def _answer(self) -> None:
        if self.command not in _METHODS:
            self._send(*_text_page(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered"))
            return
        path, _, query = self.path.partition("?")
        accept, encodings = self.headers.get("Accept", ""), self.headers.get("Accept-Encoding", "")
        try:
            page = self.server.pages.get(path, query, accept, encodings)
        except Exception:
            log.exception("a page of the metrics server failed")
            page = _text_page(HTTPStatus.INTERNAL_SERVER_ERROR, "failed; the process's log says why")
        self._send(*page)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", ", ".join(_METHODS))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _linger(self) -> None:
        """Let the client close first: closing on what it still sends would throw away the answer on its way."""
        self.connection.shutdown(socket.SHUT_WR)
        deadline, rest = time.monotonic() + min(_LINGER, self.server.client_timeout), _LARGEST_LINGER
        while rest > 0 and (left := deadline - time.monotonic()) > 0:
            self.connection.settimeout(left)
            part = self.connection.recv(65536)
            if not part:
                return
            rest -= len(part)

    def send_error(self, code: int, _message: str | None = None, _explain: str | None = None) -> None:
        """Refuse an unreadable request, without quoting it."""
        self._send(*_text_page(HTTPStatus(code), HTTPStatus(code).phrase.lower()))

    def log_message(self, *_message: object) -> None:
        """Say nothing of requests."""
