"""Download files: limit their size, check their content, and write them atomically."""

import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from utils.errors import DownloadError, ToolkitError, UnreachableError
from utils.escaping import escape_unprintable
from utils.files import replacing

TIMEOUT: Final = (10.0, 60.0)  # seconds to connect, and between two pieces of data
RETRIES: Final = Retry(
    3, backoff_factor=1, retry_after_max=60, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False
)
MOST_BYTES: Final = 1 << 30
_WEB_PAGE: Final = re.compile(rb"\s*<(!doctype )?html", re.IGNORECASE)

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes received and their total; None if the server does not send the total."""


def transfer_over_http(url: str, path: Path, progress: Progress) -> None:
    """Save the response of a web server to a file.

    Raises:
        OSError, ValueError: the download failed. The exception has an errno only if the file cannot be written.
    """
    with requests.Session() as session:
        session.max_redirects = 5
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=RETRIES))
        session.headers["Accept-Encoding"] = "identity"  # so that Content-Length is the size of the file
        with session.get(url, stream=True, timeout=TIMEOUT) as response, path.open("wb") as stream:
            response.raise_for_status()
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            progress(0, total)
            for chunk in response.iter_content(1 << 16):
                progress(stream.tell() + len(chunk), total)
                stream.write(chunk)


@dataclass(frozen=True)
class Download:
    """One file to download.

    Attributes:
        url: address of the file.
        target: path to save it to.
        check: raises a ToolkitError if a file has the wrong content.
        transfer: saves the content at a URL to a file; raises the errors of ``transfer_over_http``, or a DownloadError.
    """

    url: str
    target: Path
    check: Callable[[Path], object]
    transfer: Callable[[str, Path, Progress], None] = transfer_over_http


def download(job: Download, progress: Progress) -> int:
    """Download one file and return its size in bytes. An existing file is replaced only after the new one is checked.

    Raises:
        DownloadError: the file cannot be downloaded whole, is too large, or fails its check.
        InputFileError: the file cannot be written.
    """
    with replacing(job.target) as partial:
        _transfer(job, partial, progress)
        _check_content(job, partial)
        return partial.stat().st_size


def download_all(
    jobs: Iterable[Download],
    *,
    force: bool,
    show: Callable[[str], AbstractContextManager[Progress]],
    say: Callable[[str], None],
) -> str:
    """Download the files that do not exist yet or fail their check, and return a summary on one line.

    Args:
        jobs: the files.
        force: also download files that exist and pass their check.
        show: opens a progress bar for a file name.
        say: called with one line about each file.

    Raises:
        DownloadError: a file could not be downloaded. All others were tried, unless the server cannot be reached.
        InputFileError: a file cannot be written.
    """
    downloaded, size, kept, failures = 0, 0, 0, list[DownloadError]()
    for job in jobs:
        if not force and _exists(job, say):
            kept += 1
            continue
        try:
            with show(job.target.name) as progress:
                size += download(job, progress)
        except DownloadError as problem:
            failures.append(problem)
            say(escape_unprintable(f"{job.target}: not downloaded: {problem}"))
            if isinstance(problem, UnreachableError):
                break
        else:
            downloaded += 1
            say(f"{job.target}: downloaded")
    summary = f"{downloaded} downloaded ({size / 1e6:.1f} MB), {kept} already there"
    if failures:
        raise DownloadError(f"{summary}, {len(failures)} failed: {failures[0]}") from failures[0]
    return summary


def _exists(job: Download, say: Callable[[str], None]) -> bool:
    try:
        if not job.target.is_file():
            return False
        job.check(job.target)
    except OSError:
        return False  # writing the file will raise the error
    except ToolkitError as problem:
        say(escape_unprintable(f"{problem} (downloading it again)"))
        return False
    say(f"{job.target}: already there")
    return True


def _transfer(job: Download, path: Path, progress: Progress) -> None:
    """Transfer a file up to the limit on its size; raise a DownloadError unless the file itself cannot be written."""
    received = 0

    def count(size: int, total: int | None) -> None:
        nonlocal received
        received = size
        if max(size, total or 0) > MOST_BYTES:
            raise DownloadError(f"{job.url}: is larger than {MOST_BYTES / 1e6:.0f} MB; check --base-url")
        progress(size, total)

    try:
        job.transfer(job.url, path, count)
    except requests.HTTPError as problem:
        reason = f"the server answered with status {problem.response.status_code}"
        raise DownloadError(f"{job.url}: {reason}; check --base-url, or try again later") from problem
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as problem:
        if received:
            reason = f"the connection broke off or stalled after {received} bytes; run the command again"
            raise DownloadError(f"{job.url}: {reason}") from problem
        reason = "the server cannot be reached, or not securely; check the network, the clock, the proxy and --base-url"
        raise UnreachableError(f"{job.url}: {reason}") from problem
    except (OSError, ValueError) as problem:  # requests raises both, for example after a redirect to an invalid address
        if getattr(problem, "errno", None):
            raise  # the file cannot be written
        raise DownloadError(f"{job.url}: cannot be downloaded: {problem}; check --base-url") from problem


def _check_content(job: Download, path: Path) -> None:
    with path.open("rb") as stream:
        head = stream.read(1024)
    try:
        if _WEB_PAGE.match(head):
            raise DownloadError("is a web page, such as the sign-in page of a network")
        if head.startswith(b"version https://git-lfs"):
            raise DownloadError("is a Git LFS pointer; use https://media.githubusercontent.com/media/OWNER/REPO/BRANCH")
        job.check(path)
    except ToolkitError as problem:
        reason = str(problem).removeprefix(f"{path}: ")
        raise DownloadError(f"{job.url}: discarded: {reason}; check --base-url") from problem
