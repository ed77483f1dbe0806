"""A local server that replaces GitHub's raw files and, as a proxy with its own certificate, Google Drive."""

import itertools
import os
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import trustme

ROOT = Path(__file__).resolve().parents[1]
DRIVE_HOSTS = ("drive.google.com", "drive.usercontent.google.com")
FORM = (
    f'<form id="download-form" action="https://{DRIVE_HOSTS[1]}/download" method="get">'
    '<input type="hidden" name="id" value="{}"><input type="hidden" name="confirm" value="t"></form>'
)


@dataclass(frozen=True)
class Answer:
    """The response for a path, and how it ends; a body that breaks off or stalls is 100 bytes short."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    end: Literal["whole", "broken off", "stalled", "endless"] = "whole"


class DownloadServer(ThreadingHTTPServer):
    """Serves ``files`` by path, repeating the last answer of each, and ``drive`` by ID, behind ``page``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, list[Answer]] = {}
        self.drive: dict[str, bytes] = {}
        self.page = FORM
        self.requests: list[str] = []
        self.stopping = threading.Event()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "authority.pem")
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*DRIVE_HOSTS).configure_cert(self.tls)
        # With this environment, Google Drive is this server.
        self.environment = {"REQUESTS_CA_BUNDLE": str(folder / "authority.pem")}
        for name, value in {"https_proxy": self.url, "no_proxy": "127.0.0.1"}.items():
            self.environment |= {name: value, name.upper(): value}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection."""


class _Handler(BaseHTTPRequestHandler):
    server: DownloadServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Log nothing."""

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def finish(self) -> None:
        try:
            super().finish()
        finally:  # the client may have closed it
            self.connection.close()

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        answers = self.server.files.get(parts.path, [])
        if answers:
            self._send(answers.pop(0) if len(answers) > 1 else answers[0])
        elif parts.path in ("/uc", "/download"):
            self._send(self._from_drive(parts.path, query))
        else:
            self._send(Answer(b"404: Not Found", 404))

    def _from_drive(self, path: str, query: Mapping[str, str]) -> Answer:
        file_id, is_mirror = query["id"], self.headers["Host"] not in DRIVE_HOSTS
        if file_id not in self.server.drive:
            return Answer(b"<title>Error 404 (Not Found)!!1</title>", 404, {"Content-Type": "text/html"})
        if path == "/uc" and not is_mirror:
            return Answer(b"", 303, {"Location": f"https://{DRIVE_HOSTS[1]}/download?id={file_id}"})
        if is_mirror or (query.get("confirm") == "t" and self.server.page == FORM):
            disposition = {"Content-Disposition": 'attachment; filename="x.pth"'}
            return Answer(self.server.drive[file_id], headers=disposition)
        return Answer(self.server.page.format(file_id).encode(), headers={"Content-Type": "text/html; charset=utf-8"})

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        length = len(answer.body) + (0 if answer.end == "whole" else 100)
        stated = {} if answer.end == "endless" else {"Content-Length": str(length)}
        # Each answer has its own connection, so that the body ends with the connection, whatever the headers say.
        headers = {"Content-Type": "application/octet-stream", "Connection": "close", **stated, **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for _ in itertools.count() if answer.end == "endless" else range(1):
            self.wfile.write(answer.body)
        if answer.end == "stalled":
            self.server.stopping.wait()


@contextmanager
def running_server() -> Iterator[DownloadServer]:
    """Run a server on a free port while the block runs."""
    with tempfile.TemporaryDirectory() as folder, DownloadServer(Path(folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()


def run_script(server: DownloadServer, script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of the project in another folder, with the server in place of Google Drive."""
    command = [sys.executable, str(ROOT / script), *arguments]
    environment = os.environ | server.environment
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
