"""Ask a web server for a file: the answer, or an error that says whether another attempt may help.

The only module that knows ``requests``; it knows nothing of disks.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Final, NoReturn, Self
from urllib.parse import urlsplit

import requests
from requests import Response, exceptions

from utils.errors import DownloadError, ToolkitError, UnreachableError

OK: Final = HTTPStatus.OK
PARTIAL: Final = HTTPStatus.PARTIAL_CONTENT
NO_SUCH_RANGE: Final = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE

_CHUNK: Final = 1 << 14  # what a break costs: requests drops a chunk that is not complete
_MAX_PAGE_BYTES: Final = 1 << 20
_MAX_PAGES: Final = 3
_PAGE_TYPES: Final = ("text/html", "application/xhtml+xml")


class TransientError(Exception):
    """A failure that may pass; for the caller to try again or give up.

    Attributes:
        wait: seconds that the server asks us to wait.
        answered: whether there was an answer at all.
    """

    def __init__(self, reason: str, *, wait: float = 0.0, answered: bool = True) -> None:
        super().__init__(reason)
        self.wait = wait
        self.answered = answered


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, in seconds.

    Attributes:
        connect: for a connection.
        read: for the next bytes of an answer.
        waits: the pauses before each further attempt; their number bounds the attempts.
    """

    connect: float = 10.0
    read: float = 60.0
    waits: tuple[float, ...] = (1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Page:
    """A web page that came where a file was expected."""

    url: str
    status: int
    text: str
    cookies: Mapping[str, str]


def refuse_page(page: Page) -> NoReturn:
    """Raise the DownloadError that says that a web page is not the file."""
    answer = status_text(page.status) if page.status != OK else "with a web page in place of the file"
    raise DownloadError(f"{page.url}: the server answered {answer}; check --base-url")


def join_url(base: str, path: str) -> str:
    """Return the address of ``path`` under ``base``, a ``--base-url``.

    Raises:
        ToolkitError: ``base`` is not a plain http(s) address.
    """
    try:
        parts = urlsplit(base)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not base.isprintable() or set(base) & set(" ?#\\"):
        raise ToolkitError(f"--base-url {base!r} is not an address such as https://example.org/folder")
    if parts.username is not None:
        # Addresses are quoted in messages.
        raise ToolkitError("--base-url holds a user name; put it and the password in ~/.netrc instead")
    return f"{base.rstrip('/')}/{path}"


def status_text(status: int) -> str:
    """Return a status in words; ours, as the server's may hold control characters for the terminal."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


class Client:
    """Asks for one file, with one set of cookies; within ``with``.

    Args:
        url: the file's address, for messages too.
        follow: given a page in place of the file, returns the address to ask next or raises a DownloadError.
        patience: the timeouts.
    """

    def __init__(self, url: str, follow: Callable[[Page], str], patience: Patience) -> None:
        self._url = url
        self._follow = follow
        self._patience = patience
        self._session = requests.Session()
        # requests loses sight of a response whose redirection leads to no address; it is closed here.
        self._last: Response | None = None
        self._session.hooks["response"].append(self._remember)

    def _remember(self, response: Response, **_options: object) -> None:
        self._last = response

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._last is not None:
            self._last.close()
        self._session.close()

    def ask(self, headers: Mapping[str, str]) -> Response:
        """Ask for the file, past any pages in front of it; return a 200, 206 or 416, its body still to come.

        Raises:
            DownloadError: the server refuses, or has only pages.
            TransientError: it does not answer, or not now.
        """
        url = self._url
        for _ in range(1 + _MAX_PAGES):
            response = self._get(url, headers)
            try:
                _check_transient(response)
                if not _is_page(response):
                    return self._checked(response)
                page = self._read_page(response)
            except BaseException:
                response.close()
                raise
            response.close()
            url = self._follow(page)
        raise DownloadError(f"{self._url}: page leads to page and none to the file; fetch it with a browser")

    def chunks(self, response: Response) -> Iterator[bytes]:
        """Yield an answer's body.

        Raises:
            TransientError: it breaks off, or stalls.
        """
        with self._mapped_errors(connecting=False):
            yield from response.iter_content(_CHUNK)

    def _get(self, url: str, headers: Mapping[str, str]) -> Response:
        timeout = (self._patience.connect, self._patience.read)
        with self._mapped_errors(connecting=True):
            return self._session.get(url, headers=dict(headers), stream=True, timeout=timeout)

    def _checked(self, response: Response) -> Response:
        if response.status_code not in (OK, PARTIAL, NO_SUCH_RANGE):
            status = status_text(response.status_code)
            raise DownloadError(f"{self._url}: the server answered {status}; check --base-url")
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            raise DownloadError(f"{self._url}: comes in {encoding!r} encoding, unasked; use another --base-url")
        return response

    def _read_page(self, response: Response) -> Page:
        body = b""
        for chunk in self.chunks(response):
            body += chunk
            if len(body) > _MAX_PAGE_BYTES:
                break
        answers = (*response.history, response)
        cookies = {cookie.name: cookie.value or "" for answer in answers for cookie in answer.cookies}
        return Page(response.url, response.status_code, body.decode("utf-8", errors="replace"), cookies)

    @contextmanager
    def _mapped_errors(self, *, connecting: bool) -> Iterator[None]:
        try:
            yield
        except exceptions.SSLError as problem:
            raise UnreachableError(
                f"{self._url}: the connection is not secure; check the clock, the proxy and --base-url"
            ) from problem
        except (exceptions.ConnectionError, exceptions.Timeout, exceptions.ChunkedEncodingError) as problem:
            raise TransientError(self._reason(problem, connecting), answered=not connecting) from problem
        except OSError as problem:  # the rest of what requests raises, and missing certificate bundles
            raise DownloadError(f"{self._url}: {problem}; check --base-url") from problem
        except ValueError as problem:  # from the depths of urllib, where a redirection is followed
            raise DownloadError(f"{self._url}: the server redirects to no valid address; check --base-url") from problem

    def _reason(self, problem: exceptions.RequestException, connecting: bool) -> str:
        if isinstance(problem, exceptions.ConnectTimeout):
            return f"no connection within {self._patience.connect:g} s"
        if "timed out" in str(problem):  # while a body is read, requests gives this no type of its own
            return f"no data for {self._patience.read:g} s"
        return "the server cannot be reached, or hangs up" if connecting else "the connection broke off"


def _check_transient(response: Response) -> None:
    status = response.status_code
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        asked = response.headers.get("Retry-After", "")
        wait = float(asked) if re.fullmatch("[0-9]{1,9}", asked) else 0.0
        raise TransientError(f"the server answered {status_text(status)}", wait=wait)


def _is_page(response: Response) -> bool:
    # A piece of a page (206) cannot be read; nor is it the rest of a file, which its caller sees.
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind in _PAGE_TYPES and response.status_code not in (PARTIAL, NO_SUCH_RANGE)
