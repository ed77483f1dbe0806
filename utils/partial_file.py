"""The unfinished file of a download, and the note of where it came from.

A file grows as ``NAME.part`` beside its target. A second, small file, ``NAME.origin.part``, remembers where
the first came from: address, validator (ETag or Last-Modified) and size. Only if the server says that its
file is still that one does a later attempt, or a later run, go on from where the last one stopped; else it
starts over. A partial file whose origin cannot be shown is worth nothing: two halves of two versions make a
file of the right size.
"""

import json
import os
import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from utils.errors import DownloadError
from utils.files import NO_FOLLOW, permissions_of


class PartialFile:
    """A file on its way from ``url`` to ``target``; open, and locked against a second run, within ``with``.

    Attributes:
        path: where its bytes are.
        size: how many of them there are.
        total: how many there will be; None where the server does not say.
    """

    def __init__(self, target: Path, url: str) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.size = 0
        self.total: int | None = None
        self._origin = target.with_name(f"{target.name}.origin.part")
        self._url = url
        self._validator: str | None = None
        self._stream: BinaryIO

    def __enter__(self) -> Self:
        # For update, made if missing, not truncated: no mode of the built-in open() does that.
        flags = os.O_RDWR | os.O_CREAT | NO_FOLLOW | getattr(os, "O_NONBLOCK", 0)
        self._stream = os.fdopen(os.open(self.path, flags, 0o666), "r+b")
        try:
            _check_own(self._stream, self.path)
            _lock(self._stream, self.path)
            self._recall()
        except BaseException:
            self._stream.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._stream as stream:
                stream.flush()
                os.fsync(stream.fileno())
        finally:
            if self.size == 0 and error is not None:
                self.remove()

    @property
    def is_whole(self) -> bool:
        """Whether all bytes are here, as far as the server has said how many there are."""
        return self.size == self.total

    def request_headers(self) -> dict[str, str]:
        """Return what asks for the rest of the file if its beginning is here, else for all of it."""
        # Offsets and lengths count the bytes of the file itself, so it must not come compressed.
        headers = {"Accept-Encoding": "identity"}
        if self.size and self._validator:
            headers |= {"Range": f"bytes={self.size}-", "If-Range": self._validator}
        return headers

    def continues_with(self, headers: Mapping[str, str]) -> bool:
        """Whether a 206 answer with these headers brings the rest of this very file."""
        place = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)", headers.get("Content-Range", ""))
        if place is None or int(place[1]) != self.size or place[2] not in ("*", str(self.total)):
            return False
        # There are servers that ignore If-Range, so what the answer says of itself is compared too.
        return _validator(headers) in (None, self._validator)

    def begin(self, headers: Mapping[str, str]) -> None:
        """Start over with the whole file that a 200 answer with these headers brings."""
        self.forget()
        length = headers.get("Content-Length", "")
        self.total = int(length) if re.fullmatch("[0-9]+", length) else None
        self._validator = _validator(headers)
        if self._validator and self.total:
            note = {"url": self._url, "validator": self._validator, "total": self.total}
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW
            with os.fdopen(os.open(self._origin, flags, 0o666), "w", encoding="utf-8") as stream:
                json.dump(note, stream)

    def write(self, chunk: bytes) -> None:
        """Add bytes at the end."""
        self._stream.write(chunk)
        self.size += len(chunk)

    def forget(self) -> None:
        """Drop what is there of the file."""
        self._stream.seek(0)
        self._stream.truncate()
        self._origin.unlink(missing_ok=True)
        self.size, self.total, self._validator = 0, None, None

    def remove(self) -> None:
        """Remove the file and its note."""
        self.path.unlink(missing_ok=True)
        self._origin.unlink(missing_ok=True)

    def become(self, target: Path) -> None:
        """Give the file its final name, in place of any file that has it, whose permissions it takes."""
        permissions = permissions_of(target)
        if permissions is not None:
            file = os.open(self.path, os.O_RDONLY | NO_FOLLOW)
            os.fchmod(file, permissions)
            os.close(file)
        self.path.replace(target)
        self._origin.unlink(missing_ok=True)

    def _recall(self) -> None:
        try:
            note = json.loads(self._origin.read_text(encoding="utf-8"))
            url, validator, total = note["url"], note["validator"], note["total"]
        except (OSError, ValueError, TypeError, KeyError):
            return
        if url == self._url and isinstance(validator, str) and isinstance(total, int) and 0 < total < 2**63:
            self.size, self.total, self._validator = self._stream.seek(0, os.SEEK_END), total, validator


def _validator(headers: Mapping[str, str]) -> str | None:
    """Return what identifies a version of a file byte for byte; None if the server gives no such thing."""
    tag = headers.get("ETag")
    if tag and not tag.startswith("W/"):  # a weak one only promises the same meaning
        return tag
    return headers.get("Last-Modified")


def _check_own(stream: BinaryIO, path: Path) -> None:
    """Check that a file is an ordinary one with a single name: anyone may lay another in a shared folder.

    Raises:
        DownloadError: it is not.
    """
    found = os.fstat(stream.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise DownloadError(f"{path}: is no ordinary file, or has a second name; remove it")


def _lock(stream: BinaryIO, path: Path) -> None:
    if sys.platform == "win32":
        return
    import fcntl  # absent from Windows

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as problem:
        raise DownloadError(f"{path}: another run is fetching this file; wait for it to end") from problem
