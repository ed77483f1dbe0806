"""A local HTTP server that answers like Google Drive and raw GitHub, well or badly, as a test asks."""

import html
import os
import re
import subprocess
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

ROOT = Path(__file__).resolve().parents[1]

Front = Literal[
    "none",
    "form",
    "form with its fields in the action",
    "link",
    "cookie",
    "quota",
    "sign-in",
    "foreign form",
    "endless",
    "strange",
]
"""What stands in front of a file on Drive."""


@dataclass(frozen=True)
class Served:
    """A file as the server has it; the validators are those of the real hosts, either may be missing."""

    body: bytes
    etag: str | None = '"v1"'
    last_modified: str | None = None
    content_type: str = "application/octet-stream"

    @property
    def validators(self) -> dict[str, str]:
        both = {"ETag": self.etag, "Last-Modified": self.last_modified}
        return {name: value for name, value in both.items() if value is not None}


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer.

    Attributes:
        status: the answer is this error.
        headers: besides, or in place of, the right ones; an empty value leaves a header out.
        page: this web page comes in place of the file.
        drop_after: the connection breaks after so many bytes of the body.
        stall_after: nothing more comes after so many bytes of the body.
        ignore_range: all of the file comes although a part was asked.
        ignore_if_range: a part comes although the file has changed.
        shift: the part begins so many bytes later than asked.
        extra: these bytes follow the body.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    page: str | None = None
    drop_after: int | None = None
    stall_after: int | None = None
    ignore_range: bool = False
    ignore_if_range: bool = False
    shift: int = 0
    extra: bytes = b""


@dataclass(frozen=True)
class Request:
    """A request as it came."""

    path: str
    query: Mapping[str, list[str]]
    headers: Message


class DownloadServer(ThreadingHTTPServer):
    """Serves ``files`` by path and ``drive`` by id; ``faults`` befall the answers with a body, one each."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, Served] = {}
        self.drive: dict[str, tuple[Served, Front]] = {}
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.requests: list[Request] = []
        self.stopping = threading.Event()

    def fail(self, path: str, *faults: Fault) -> None:
        """Let the next answers for a path go wrong."""
        self.faults[path].extend(faults)

    def ranges(self, path: str) -> list[str | None]:
        """Return the Range header of each request for a path."""
        return [request.headers["Range"] for request in self.requests if request.path == path]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    server: DownloadServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Keep the tests' output clean."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        self.server.requests.append(Request(parts.path, query, self.headers))
        if parts.path in ("/uc", "/download"):
            self._drive(parts.path, query)
        elif parts.path == "/ServiceLogin":
            self._page("<title>Sign in - Google Accounts</title>")
        elif parts.path in self.server.files:
            self._file(parts.path, self.server.files[parts.path])
        else:
            self._send(404, {"Content-Type": "text/plain; charset=utf-8"}, b"404: Not Found")

    def _drive(self, path: str, query: Mapping[str, list[str]]) -> None:
        file_id = query.get("id", [""])[0]
        if file_id not in self.server.drive:
            self._page("<title>Error 404 (Not Found)!!1</title>", status=404)
            return
        served, front = self.server.drive[file_id]
        if path == "/uc" and front not in ("link", "cookie"):
            target = "/ServiceLogin" if front == "sign-in" else f"/download?id={file_id}&export=download"
            self._send(303, {"Location": f"{self.server.url}{target}"}, b"")
        elif front == "none" or (front != "endless" and self._is_confirmed(front, query)):
            self._file(path, served)
        else:
            self._front(front, file_id)

    def _is_confirmed(self, front: Front, query: Mapping[str, list[str]]) -> bool:
        token = query.get("confirm", [""])[0]
        if front == "form":
            return (token, query.get("uuid"), query.get("export")) == ("t", ["u-1"], ["download"])
        if front == "cookie":
            return token == "Ab1_" and "download_warning_7=Ab1_" in self.headers.get("Cookie", "")
        return token == "t"

    def _front(self, front: Front, file_id: str) -> None:
        address = html.escape(f"{self.server.url}/download")
        query = html.escape(f"?export=download&confirm=t&id={file_id}")
        fields = {"id": file_id, "export": "download", "confirm": "t", "uuid": "u-1"}
        hidden = "".join(f'<input type="hidden" name="{name}" value="{value}">' for name, value in fields.items())
        form = '<form id="download-form" action="{}" method="get"><input type="submit" value="Anyway"/>{}</form>'
        pages: dict[Front, str] = {
            "form": form.format(address, hidden),
            "endless": form.format(address, hidden),
            "form with its fields in the action": form.format(address + query, ""),
            "foreign form": form.format("http://elsewhere.example/download", hidden),
            "link": f'<a id="uc-download-link" href="/uc{query}">Download anyway</a>',
            "cookie": "Google Drive can't scan this file for viruses.",
            "quota": "<p>Too many users have viewed or downloaded this file recently.</p>",
            "strange": "<p>Something new.</p>",
        }
        headers = {"Set-Cookie": "download_warning_7=Ab1_; Path=/"} if front == "cookie" else {}
        search = '<form action="https://www.google.com/search"><input type="hidden" name="hl" value="en"></form>'
        warning = "<title>Google Drive - Virus scan warning</title>"
        self._page(f"{warning}{search}<a href='https://accounts.google.com'>Sign in</a>{pages[front]}", headers)

    def _page(self, body: str, headers: Mapping[str, str] | None = None, *, status: int = 200) -> None:
        text = f"<!DOCTYPE html><html><body>{body}</body></html>"
        self._send(status, {"Content-Type": "text/html; charset=utf-8"} | dict(headers or {}), text.encode())

    def _file(self, path: str, served: Served) -> None:
        faults = self.server.faults[path]
        fault = faults.popleft() if faults else Fault()
        if fault.page is not None:
            self._page(fault.page)
            return
        if fault.status is not None:
            self._send(fault.status, fault.headers, b"")
            return
        status, headers, body = self._part(served, fault)
        headers = {"Content-Type": served.content_type} | headers | dict(fault.headers)
        self._send(status, headers, body + fault.extra, fault)

    def _part(self, served: Served, fault: Fault) -> tuple[int, dict[str, str], bytes]:
        body, asked = served.body, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        unchanged = fault.ignore_if_range or condition is None or condition in served.validators.values()
        if asked is None or fault.ignore_range or not unchanged:
            return 200, {"Content-Length": str(len(body))} | served.validators, body
        start = int(asked[1]) + fault.shift
        if start >= len(body):
            return 416, {"Content-Length": "0", "Content-Range": f"bytes */{len(body)}"}, b""
        place = f"bytes {start}-{len(body) - 1}/{len(body)}"
        rest = body[start:]
        return 206, {"Content-Length": str(len(rest)), "Content-Range": place} | served.validators, rest

    def _send(self, status: int, headers: Mapping[str, str], body: bytes, fault: Fault | None = None) -> None:
        fault = fault or Fault()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers)).items():
            if value:
                self.send_header(name, value)
        # Every answer on its own connection, so that its end is the body's end whatever the headers say.
        self.send_header("Connection", "close")
        self.close_connection = True
        self.end_headers()
        stop = fault.stall_after if fault.drop_after is None else fault.drop_after
        self.wfile.write(body[:stop])
        if fault.stall_after is not None:
            self.wfile.flush()
            self.server.stopping.wait(5.0)


@contextmanager
def running_server() -> Iterator[DownloadServer]:
    """Run a server on a free port for the length of a block."""
    with DownloadServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()


def run_script(script: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of the project from another folder, past any proxy."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
