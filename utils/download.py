"""Fetch files: streamed, resumed after a break, and checked before they take their names.

Progress goes to a callback; nothing here draws or prints. How a broken download goes on is decided in
``utils/partial_file.py``; what a server's answer means, in ``utils/web.py``.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from requests import Response

from utils.errors import DownloadError, InputFileError, ToolkitError, UnreachableError
from utils.files import check_writable
from utils.partial_file import PartialFile
from utils.web import (
    OK,
    PARTIAL,
    Client,
    Page,
    Patience,
    TransientError,
    refuse_page,
    status_text,
)

MAX_BYTES: Final = 1 << 30

_LONGEST_WAIT: Final = 60.0

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are here and those that there will be, None where the server does not say."""


@dataclass(frozen=True)
class Job:
    """One file to fetch.

    Attributes:
        url: its address.
        target: where it goes.
        verify: raises a ToolkitError for a file that is not what it should be.
        follow: given a page in place of the file, returns the address to ask next or raises a DownloadError.
        max_bytes: larger files are refused.
        patience: timeouts and attempts.
    """

    url: str
    target: Path
    verify: Callable[[Path], object]
    follow: Callable[[Page], str] = refuse_page
    max_bytes: int = MAX_BYTES
    patience: Patience = field(default_factory=Patience)


@dataclass
class Totals:
    """What a run over several files came to."""

    fetched: int = 0
    fetched_bytes: int = 0
    kept: int = 0

    def __str__(self) -> str:
        return f"{self.fetched} fetched ({self.fetched_bytes / 1e6:.1f} MB), {self.kept} already there"


def fetch_all(
    jobs: Iterable[Job],
    *,
    force: bool,
    show: Callable[[str], AbstractContextManager[Progress]],
    say: Callable[[str], None],
) -> Totals:
    """Fetch several files, leaving out what is already there whole.

    A file that fails does not keep the others from coming, unless nothing answers at all.

    Args:
        jobs: the files.
        force: fetch also what is there.
        show: opens a progress display for a file name.
        say: told, in a line, what became of each file.

    Raises:
        DownloadError: at least one file could not be fetched.
        InputFileError: a file cannot be written.
    """
    totals, failures = Totals(), dict[str, DownloadError]()
    for job in jobs:
        if not force and _is_there(job, say):
            totals.kept += 1
            continue
        try:
            with show(job.target.name) as progress:
                size = fetch(job, progress)
        except DownloadError as problem:
            failures[job.target.name] = problem
            say(f"{job.target}: not fetched: {problem}")
            if isinstance(problem, UnreachableError):
                break
        else:
            totals.fetched += 1
            totals.fetched_bytes += size
            say(f"{job.target}: fetched, {size / 1e6:.1f} MB")
    if failures:
        _raise_failures(failures, totals)
    return totals


def fetch(job: Job, progress: Progress | None = None) -> int:
    """Fetch one file; return its size in bytes.

    Raises:
        DownloadError: it could not be had whole, or is not what it should be.
        InputFileError: it cannot be written.
    """
    check_writable(job.target)
    part = PartialFile(job.target, job.url)
    try:
        with part:
            _receive(job, part, progress or _no_progress)
        _verify(job, part)
        part.become(job.target)
    except OSError as problem:
        reason = problem.strerror or problem
        raise InputFileError(
            f"{job.target}: cannot be written: {reason}; make room or choose another folder"
        ) from problem
    return part.size


def _no_progress(received: int, total: int | None) -> None:
    del received, total


def _is_there(job: Job, say: Callable[[str], None]) -> bool:
    try:
        if not job.target.is_file():
            return False
        job.verify(job.target)
    except OSError:  # a name that cannot be; writing to it will say why
        return False
    except ToolkitError as problem:
        say(f"{problem} (there, but not whole: fetching it)")
        return False
    say(f"{job.target}: already there")
    return True


def _raise_failures(failures: Mapping[str, DownloadError], totals: Totals) -> NoReturn:
    first, *others = failures.values()
    if not others:
        raise first
    names = ", ".join(failures)
    raise DownloadError(f"{len(failures)} files failed, {totals}: {names}; the first: {first}") from first


def _receive(job: Job, part: PartialFile, progress: Progress) -> None:
    """Make attempts until the file is whole."""
    if part.is_whole:  # a run was stopped between the last byte and the check
        return
    waits = iter(job.patience.waits)
    with Client(job.url, job.follow, job.patience) as client:
        while True:
            try:
                _attempt(client, job, part, progress)
            except TransientError as problem:
                _pause(job, problem, next(waits, None))
            else:
                return


def _pause(job: Job, problem: TransientError, wait: float | None) -> None:
    """Wait before the next attempt; give up if there is none, or the server asks for too long a pause."""
    if problem.wait > _LONGEST_WAIT:
        raise DownloadError(f"{job.url}: {problem} and asks to be left alone for {problem.wait:.0f} s") from problem
    if wait is None:
        tried = f"{job.url}: {problem} (tried {len(job.patience.waits) + 1} times)"
        if not problem.answered:
            raise UnreachableError(f"{tried}; check the network, the proxy and --base-url") from problem
        raise DownloadError(f"{tried}; run the command again later") from problem
    time.sleep(max(wait, problem.wait))


def _attempt(client: Client, job: Job, part: PartialFile, progress: Progress) -> None:
    response = client.ask(part.request_headers())
    if part.size and response.status_code != OK and not _is_rest(response, part):
        response.close()
        part.forget()
        response = client.ask(part.request_headers())
    with closing(response):
        if response.status_code == OK:
            part.begin(response.headers)
        elif not part.size:
            status = status_text(response.status_code)
            raise DownloadError(f"{job.url}: the server answered {status}, unasked; use another --base-url")
        _check_size(job, part, part.total or 0)
        progress(part.size, part.total)
        for chunk in client.chunks(response):
            _check_size(job, part, part.size + len(chunk))
            part.write(chunk)
            progress(part.size, part.total)
    _check_whole(part)


def _is_rest(response: Response, part: PartialFile) -> bool:
    return response.status_code == PARTIAL and part.continues_with(response.headers)


def _check_size(job: Job, part: PartialFile, size: int) -> None:
    if size > job.max_bytes:
        part.forget()
        limit = f"{job.max_bytes / 1e6:.1f} MB"
        raise DownloadError(f"{job.url}: is larger than {limit}, so not the file expected; check --base-url")


def _check_whole(part: PartialFile) -> None:
    if part.total is None or part.is_whole:
        return
    received, total = part.size, part.total
    if received > total:
        part.forget()
    raise TransientError(f"{received} bytes came of a file of {total}")


def _verify(job: Job, part: PartialFile) -> None:
    try:
        _check_not_a_page(part.path)
        job.verify(part.path)
    except ToolkitError as problem:
        part.remove()
        reason = str(problem).removeprefix(f"{part.path}: ")
        raise DownloadError(
            f"{job.url}: {job.target.name} came, was refused and is removed: {reason}; try another --base-url"
        ) from problem


def _check_not_a_page(path: Path) -> None:
    """Refuse a web page that came under the name of another kind of file."""
    with path.open("rb") as stream:
        head = stream.read(1024).lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        raise InputFileError(f"{path}: is a web page")
