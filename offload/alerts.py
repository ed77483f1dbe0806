"""The file that events are written to, for programs that follow it while it grows."""

import contextlib
import errno
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from offload.eve import Event
from utils.errors import InputFileError

STDOUT: Final = Path("-")

_LOOKS: Final = 10
_PAUSE: Final = 0.01  # seconds

_REMEDIES: Final = {
    errno.EISDIR: "name the file to write in it",
    errno.ENXIO: "no one reads it, start its reader first",
    errno.EPIPE: "its reader has left, start it anew",
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "make room",
}


class AlertsFile:
    """A file of JSON lines that only ever grows; use it in a ``with`` block.

    What is there stays. A file that was moved or removed, as log rotation does, is made anew; a line that a killed run
    left half written is ended before the next. A batch of events is one write. While that is under way, the system may
    show a part of it, whose last line is a half: readers go by line ends, as all do that follow such files.

    Args:
        path: is made if need be, with its folder. A named pipe that someone reads will do, or a device, and ``STDOUT``
            stands for the standard output.

    Raises:
        InputFileError: it cannot be written, or holds something else than JSON lines.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = b""  # of the next write
        try:
            self._file = sys.stdout.fileno() if path == STDOUT else self._open()
        except OSError as problem:
            raise self._refusal(problem) from problem

    def append(self, events: Sequence[Event]) -> None:
        """Add events, one a line; they are the system's when this returns.

        Raises:
            InputFileError: they cannot be written, for example because the disk is full or a pipe's reader has left.
                As many lines as could be written are in the file, all of them whole.
        """
        lines = "".join(f"{json.dumps(event, separators=(',', ':'), allow_nan=False)}\n" for event in events)
        if not lines:
            return
        try:
            if self._path == STDOUT:
                sys.stdout.flush()
            elif self._was_moved():
                former, self._file = self._file, self._open()
                os.close(former)
            _write_lines(self._file, self._start + lines.encode())
        except OSError as problem:
            raise self._refusal(problem) from problem
        self._start = b""

    def _open(self) -> int:
        """Return a descriptor of the file, which appends."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Of a pipe that we could read ourselves we would never learn that its reader has left.
        access = os.O_WRONLY if self._path.is_fifo() else os.O_RDWR
        file = os.open(self._path, access | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)
        os.set_blocking(file, True)  # it was not, only so as not to wait for a reader
        size = os.fstat(file).st_size  # 0 of all but files
        if size and os.pread(file, 1, 0) != b"{":
            os.close(file)
            raise InputFileError(f"{self._path}: holds something else than JSON lines; name another file")
        self._start = b"\n" if _ends_in_half_a_line(file) else b""
        return file

    def _was_moved(self) -> bool:
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return True

    def _refusal(self, problem: OSError) -> InputFileError:
        name = "standard output" if self._path == STDOUT else self._path
        remedy = _REMEDIES.get(problem.errno or 0, "check the path and its permissions")
        return InputFileError(f"{name}: cannot be written: {problem.strerror}; {remedy}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._path != STDOUT:
            os.close(self._file)


def _ends_in_half_a_line(file: int) -> bool:
    """Return whether a file ends so, and not only for the moment in which another writer is at it."""
    for _ in range(_LOOKS):
        size = os.fstat(file).st_size
        if not size or os.pread(file, 1, size - 1) == b"\n":
            return False
        time.sleep(_PAUSE)
    return True


def _write_lines(file: int, lines: bytes) -> None:
    """Write all lines at the end of a file, or as many whole ones as there is room for."""
    written = 0
    try:
        while written < len(lines):
            written += os.write(file, memoryview(lines)[written:])
    except OSError:
        half = written - (lines.rfind(b"\n", 0, written) + 1)
        if half:
            with contextlib.suppress(OSError):  # a pipe
                os.ftruncate(file, os.fstat(file).st_size - half)
        raise
