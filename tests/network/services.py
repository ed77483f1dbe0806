"""The servers of the small network: web, DNS and login sessions.

Run, inside a host:
    python -m tests.network.services

It prints a line once all of them listen.
"""

import random
import socket
import threading
import zlib
from http.server import BaseHTTPRequestHandler
from socketserver import BaseServer, DatagramRequestHandler, StreamRequestHandler, ThreadingTCPServer, UDPServer
from typing import Any, Final

import dpkt

WEB: Final = 80
NAMES: Final = 53
LOGIN: Final = 22
PASSWORD: Final = b"correct horse"

SITES: Final = "203.0.113."
"""Start of the addresses that names resolve to."""

PACE: Final = 2_000_000
"""Greatest rate of a connection in bytes per second, so that a transfer takes as long as on a slower link."""

_SO_MAX_PACING_RATE: Final = 47  # missing in socket; linux/asm-generic/socket.h
_TIMEOUT: Final = 60.0  # seconds


def limit_pace(connection: socket.socket) -> None:
    """Limit the sending rate of a connection to ``PACE``."""
    connection.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, PACE)


class Web(BaseHTTPRequestHandler):
    """Answers ``GET /N`` with N bytes, and accepts every PUT."""

    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT

    def do_GET(self) -> None:
        limit_pace(self.connection)
        self._answer(bytes(int(self.path[1:])))

    def do_PUT(self) -> None:
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, 65_536)))
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Log nothing."""


class Names(DatagramRequestHandler):
    """Answers DNS queries; a name always has the same address."""

    def handle(self) -> None:
        message = dpkt.dns.DNS(self.rfile.read())
        (question,) = message.qd
        address = socket.inet_aton(f"{SITES}{1 + zlib.crc32(question.name.encode()) % 254}")
        message.qr, message.aa = 1, 1
        message.an = [dpkt.dns.DNS.RR(name=question.name, type=dpkt.dns.DNS_A, ttl=60, rlen=4, rdata=address)]
        self.wfile.write(bytes(message))


class Login(StreamRequestHandler):
    """Greets, asks for the password up to three times, then answers each line like a shell."""

    timeout = _TIMEOUT

    def handle(self) -> None:
        self.wfile.write(b"2.0-login\r\n")
        for _ in range(3):
            if self.rfile.readline().strip() == PASSWORD:
                self.wfile.write(b"welcome\r\n")
                return self._serve()
            self.wfile.write(b"denied\r\n")
        return None

    def _serve(self) -> None:
        chosen = random.Random(self.client_address[1])
        for line in self.rfile:
            self.wfile.write(line.strip() + chosen.choice((0, 10, 40, 200)) * b" result" + b"\r\n")


def _serve(server: BaseServer) -> None:
    threading.Thread(target=server.serve_forever).start()


class _Tcp(ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection, as scanners do."""


def main() -> int:
    """Start all servers, which run until they are killed; return 0."""
    for server in (_Tcp(("", WEB), Web), _Tcp(("", LOGIN), Login), UDPServer(("", NAMES), Names)):
        _serve(server)
    print(flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
