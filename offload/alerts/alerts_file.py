"""Append events to the EVE file, which other programs read while it grows."""

import errno
import json
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

from offload.alerts.eve import Event
from offload.alerts.unwritten_lines import FULL
from offload.defaults import STDOUT
from utils.errors import InputFileError

_CHECKS: Final = 10
_PAUSE: Final = 0.01  # seconds between two checks
_POLL: Final = 50  # milliseconds

_REMEDIES: Final = {
    errno.EISDIR: "name the file to write in it",
    errno.ENXIO: "it is a pipe without a reader: start the reader first",
    errno.EPIPE: "its reader has closed it: start the reader again",
    errno.EAGAIN: "find out why its reader does not read",
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "make room",
}


class UnwrittenError(InputFileError):
    """Raised if events could not be written; a later attempt may succeed.

    Args:
        text: message of the error.
        written: number of events, from the first on, that are in the file.
    """

    def __init__(self, text: str, written: int) -> None:
        super().__init__(text)
        self.written = written


class AlertsFile:
    """A file of JSON lines that is only appended to; use it in a ``with`` block.

    A file that was moved or removed, as log rotation does, is created again. If a killed run left an incomplete line,
    the next line starts on a new line. A batch of events is one write; readers must wait for the line end, as programs
    that follow such files do. Several processes may write to one file.

    Args:
        path: file that is created if needed, with its folder, or, if the disk is full, later. It may be a named pipe
            with a reader, or a device; ``defaults.STDOUT`` is the standard output.
        is_over: returns whether to stop waiting for the reader of a full pipe.

    Raises:
        InputFileError: the file cannot be written, or does not hold JSON lines.
    """

    def __init__(self, path: Path, is_over: Callable[[], bool] = lambda: False) -> None:
        self._path = path
        self._is_over = is_over
        self._start = b""  # bytes to write before the next line
        self._file: int | None = None
        try:
            self._file = sys.stdout.fileno() if path == STDOUT else self._open()
        except OSError as problem:
            if problem.errno not in FULL:
                raise InputFileError(self._describe_error(problem)) from problem

    def append(self, events: Sequence[Event]) -> None:
        """Append events, one per line. They are written when this returns, but not yet synchronised with the disk.

        Raises:
            UnwrittenError: not all can be written, for example because the disk is full. The file holds only whole
                lines, or the next event starts on a new line.
            InputFileError: the reader of the standard output has closed it.
        """
        lines = "".join(f"{json.dumps(event, separators=(',', ':'), allow_nan=False)}\n" for event in events).encode()
        if not lines:
            return
        try:
            file = self._get_file()
        except OSError as problem:
            raise UnwrittenError(self._describe_error(problem), 0) from problem
        skipped, content = len(self._start), self._start + lines
        written, failure = self._write(file, content)
        whole = content.rfind(b"\n", 0, written) + 1
        if written:
            self._start = b"" if whole == written or _remove_incomplete_line(file, written - whole) else b"\n"
        if failure is not None and failure.errno == errno.EPIPE and self._path == STDOUT:
            raise InputFileError(self._describe_error(failure)) from failure
        if failure is not None:
            raise UnwrittenError(self._describe_error(failure), content.count(b"\n", skipped, whole)) from failure

    def _get_file(self) -> int:
        """Return a descriptor of the file that has the path at present."""
        if self._path == STDOUT:
            sys.stdout.flush()
        elif self._file is None or self._was_moved(self._file):
            self._close()  # first, because a removed file takes up space until then
            self._file = self._open()
        assert self._file is not None
        return self._file

    def _write(self, file: int, content: bytes) -> tuple[int, OSError | None]:
        """Append to a file; return the number of bytes that were written, and the error if not all were."""
        written = 0
        is_regular = stat.S_ISREG(os.fstat(file).st_mode)
        most = len(content) if is_regular else select.PIPE_BUF  # a writable pipe accepts so many bytes at once
        try:
            while written < len(content):
                if not is_regular:
                    self._wait_for_reader(file)
                written += os.write(file, memoryview(content)[written : written + most])
        except OSError as problem:
            return written, problem
        return written, None

    def _wait_for_reader(self, file: int) -> None:
        poll = select.poll()
        poll.register(file, select.POLLOUT)
        while not poll.poll(_POLL):
            if self._is_over():
                raise OSError(errno.EAGAIN, "its reader has stopped reading")

    def _open(self) -> int:
        """Open the file for appending; return its descriptor."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # A pipe that this process also opens for reading would never report that its reader has closed it.
        access = os.O_WRONLY if self._path.is_fifo() else os.O_RDWR
        file = os.open(self._path, access | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)
        os.set_blocking(file, True)  # only opening it must not block, if it is a pipe without a reader
        size = os.fstat(file).st_size  # 0 for anything but a regular file
        if size and os.pread(file, 1, 0) != b"{":
            os.close(file)
            raise InputFileError(f"{self._path}: does not hold JSON lines; name another file")
        self._start = b"\n" if _ends_in_incomplete_line(file) else b""
        return file

    def _was_moved(self, file: int) -> bool:
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(file))
        except FileNotFoundError:
            return True

    def _close(self) -> None:
        if self._file is not None and self._path != STDOUT:
            os.close(self._file)
        self._file = None

    def _describe_error(self, problem: OSError) -> str:
        name = "standard output" if self._path == STDOUT else self._path
        remedy = _REMEDIES.get(problem.errno or 0, "check the path and its permissions")
        return f"{name}: cannot be written: {problem.strerror}; {remedy}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._close()


def _ends_in_incomplete_line(file: int) -> bool:
    """Return whether the last line of a file stays incomplete after another writer had time to complete it."""
    for _ in range(_CHECKS):
        size = os.fstat(file).st_size
        if not size or os.pread(file, 1, size - 1) == b"\n":
            return False
        time.sleep(_PAUSE)
    return True


def _remove_incomplete_line(file: int, size: int) -> bool:
    """Remove the ``size`` bytes of an incomplete line that was just written; return whether that was possible.

    It is not possible for a pipe, nor where another process has appended to the file since.
    """
    try:
        end = os.lseek(file, 0, os.SEEK_CUR)
        if os.fstat(file).st_size != end:
            return False
        os.ftruncate(file, end - size)
        os.lseek(file, end - size, os.SEEK_SET)  # otherwise a file without O_APPEND would get a hole
    except OSError:
        return False
    return True
