"""The file that events are written to, for programs that follow it while it grows."""

import errno
import json
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from offload.eve import Event
from offload.losses import FULL
from utils.errors import InputFileError

STDOUT: Final = Path("-")

_LOOKS: Final = 10
_PAUSE: Final = 0.01  # seconds
_POLL: Final = 50  # milliseconds

_REMEDIES: Final = {
    errno.EISDIR: "name the file to write in it",
    errno.ENXIO: "no one reads it, start its reader first",
    errno.EPIPE: "its reader has left, start it anew",
    errno.EAGAIN: "see why its reader does not take them",
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "make room",
}


class UnwrittenError(InputFileError):
    """Events that could not be written; a later attempt to write others may succeed.

    Args:
        text: what is wrong, and the remedy.
        written: how many of the events, from the first on, are in the file.
    """

    def __init__(self, text: str, written: int) -> None:
        super().__init__(text)
        self.written = written


class AlertsFile:
    """A file of JSON lines that only ever grows; use it in a ``with`` block.

    What is there stays. A file that was moved or removed, as log rotation does, is made anew; a line that a killed run
    left half written is ended before the next. A batch of events is one write. While that is under way, the system may
    show a part of it, whose last line is a half: readers go by line ends, as all do that follow such files. Several
    processes may write one file.

    Args:
        path: is made if need be, with its folder. A named pipe that someone reads will do, or a device, and ``STDOUT``
            stands for the standard output. Where the disk is full, it is made later.
        is_over: returns whether to stop waiting for the reader of a pipe that does not take what is written.

    Raises:
        InputFileError: it cannot be written, or holds something else than JSON lines.
    """

    def __init__(self, path: Path, is_over: Callable[[], bool] = lambda: False) -> None:
        self._path = path
        self._is_over = is_over
        self._start = b""  # of the next write
        self._file: int | None = None
        try:
            self._file = sys.stdout.fileno() if path == STDOUT else self._open()
        except OSError as problem:
            if problem.errno not in FULL:
                raise InputFileError(self._refusal(problem)) from problem

    def append(self, events: Sequence[Event]) -> None:
        """Add events, one a line; they are the system's when this returns.

        Raises:
            UnwrittenError: they cannot be written, for example because the disk is full. As many lines as could be
                written are in the file, all of them whole; the next ones begin on a line of their own.
            InputFileError: the reader of the standard output has left.
        """
        lines = "".join(f"{json.dumps(event, separators=(',', ':'), allow_nan=False)}\n" for event in events).encode()
        if not lines:
            return
        try:
            file = self._current()
        except OSError as problem:
            raise UnwrittenError(self._refusal(problem), 0) from problem
        skipped, content = len(self._start), self._start + lines
        written, failure = self._write(file, content)
        whole = content.rfind(b"\n", 0, written) + 1
        if written:
            self._start = b"" if whole == written or _take_back(file, written - whole) else b"\n"
        if failure is not None and failure.errno == errno.EPIPE and self._path == STDOUT:
            raise InputFileError(self._refusal(failure)) from failure
        if failure is not None:
            raise UnwrittenError(self._refusal(failure), content.count(b"\n", skipped, whole)) from failure

    def _current(self) -> int:
        """Return a descriptor of the file that now has the name."""
        if self._path == STDOUT:
            sys.stdout.flush()
        elif self._file is None or self._was_moved(self._file):
            self._close()  # first, for a file that was removed takes room until then
            self._file = self._open()
        assert self._file is not None
        return self._file

    def _write(self, file: int, content: bytes) -> tuple[int, OSError | None]:
        """Write at the end of a file; return how many bytes were written, and why not all of them, if so."""
        written = 0
        is_regular = stat.S_ISREG(os.fstat(file).st_mode)
        most = len(content) if is_regular else select.PIPE_BUF  # so many a pipe takes at once, if it takes any
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
                raise OSError(errno.EAGAIN, "its reader takes no more")

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

    def _was_moved(self, file: int) -> bool:
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(file))
        except FileNotFoundError:
            return True

    def _close(self) -> None:
        if self._file is not None and self._path != STDOUT:
            os.close(self._file)
        self._file = None

    def _refusal(self, problem: OSError) -> str:
        name = "standard output" if self._path == STDOUT else self._path
        remedy = _REMEDIES.get(problem.errno or 0, "check the path and its permissions")
        return f"{name}: cannot be written: {problem.strerror}; {remedy}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._close()


def _ends_in_half_a_line(file: int) -> bool:
    """Return whether a file ends so, and not only for the moment in which another writer is at it."""
    for _ in range(_LOOKS):
        size = os.fstat(file).st_size
        if not size or os.pread(file, 1, size - 1) == b"\n":
            return False
        time.sleep(_PAUSE)
    return True


def _take_back(file: int, half: int) -> bool:
    """Remove the half line that was just written at the end of a file; return whether that was possible.

    It is not for a pipe, nor where another process has written behind it.
    """
    try:
        end = os.lseek(file, 0, os.SEEK_CUR)
        if os.fstat(file).st_size != end:
            return False
        os.ftruncate(file, end - half)
        os.lseek(file, end - half, os.SEEK_SET)  # else a file without O_APPEND would get a hole
    except OSError:
        return False
    return True
