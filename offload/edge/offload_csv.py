"""The offload CSV: it grows by whole batches while the client runs, and can be continued after an interruption."""

import bz2
import contextlib
import errno
import fcntl
import functools
import gzip
import hashlib
import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from offload.edge.batch import Batch
from offload.edge.resume_file import NO_PROGRESS, START_AGAIN, Facts, Progress, read_resume_file, write_resume_file
from utils.errors import InputFileError
from utils.files import check_writable, replacing
from utils.records import make_identity_columns
from utils.schema import DECIDER_COLUMNS, NOT_ASKED, OFFLOAD_COLUMNS, REJECTED, RELEASE_COLUMN

_COMPRESS: Final[dict[str, Callable[[bytes], bytes]]] = {
    ".gz": functools.partial(gzip.compress, mtime=0),  # so that the same rows always give the same file
    ".bz2": bz2.compress,
}
_BLOCK: Final = 1 << 20
_COMMIT_INTERVAL: Final = 1.0
"""Seconds between two updates of the resume file; later rows survive a kill, but perhaps not a power cut."""
_LONGEST_ROW: Final = 4096


Table = Mapping[str, NDArray[Any]]
"""Columns (n,) of a table by name."""


def make_columns(batch: Batch, *, show_decider: bool = False, show_release: bool = False) -> Table:
    """Return the columns (N,) of a decided batch: ``OFFLOAD_COLUMNS``.

    ``IDENTITY`` comes before them if there are records. ``DECIDER_COLUMNS`` come after them if ``show_decider`` is set,
    and then ``RELEASE_COLUMN`` if ``show_release`` is set.
    """
    answered = batch.answered
    columns = (
        batch.certainty_1,
        batch.prediction_1,
        np.where(answered, batch.certainty_2.astype(object), NOT_ASKED),
        np.where(answered, batch.prediction_2.astype(object), NOT_ASKED),
        batch.certainty,
        np.where(batch.rejected, REJECTED, batch.prediction.astype(object)),
        np.full(len(batch), NOT_ASKED) if batch.labels is None else batch.labels,
    )
    table = {} if batch.records is None else make_identity_columns(batch.records)
    table |= dict(zip(OFFLOAD_COLUMNS, columns, strict=True))
    if show_decider:
        table |= dict(zip(DECIDER_COLUMNS, (batch.decider, batch.reason), strict=True))
    if show_release:
        table[RELEASE_COLUMN] = np.full(len(batch), batch.release)
    return table


class OffloadCsv:
    """The file of verdicts; use it in a ``with`` block, during which no other process can write the file.

    The first rows create the file and replace an older one. The file holds only whole rows; after a power cut, the
    next run removes an incomplete row. Without ``begin``, a file that is moved or removed meanwhile is created again.

    Args:
        path: CSV file, or .csv.gz, .csv.bz2.
        columns: columns of all rows.

    Attributes:
        rows: number of rows in the file.

    Raises:
        InputFileError: the file cannot be written, or is a device or a pipe; on entering, or with the first rows,
            another process is writing it.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        # The target of a link is written, not the link: it may be /dev/stdout.
        self.path = check_writable(_resolve_link(path))
        self.rows = 0
        self._columns = tuple(columns)
        self._compress = _COMPRESS.get(path.suffix.lower())
        self._file: io.FileIO | None = None
        self._lock: int | None = None
        self._facts: Facts | None = None
        self._digest = hashlib.sha256()
        self._committed = 0.0  # time of the last commit

    def begin(self, facts: Facts, total: int, *, resumes: bool) -> int:
        """Maintain a resume file beside the file, so that an interrupted run can be continued.

        Args:
            facts: facts that determine the rows, except the columns; see ``offload.edge.resume_file``.
            total: number of rows of the whole run.
            resumes: whether to continue an existing file.

        Returns:
            the number of rows in the file.

        Raises:
            InputFileError: the existing file is of another run, was changed, or cannot be read or written.
        """
        self._facts = {**facts, "columns": list(self._columns)}
        try:
            if resumes and self.path.exists() and self.path.stat().st_size:
                progress = read_resume_file(self.path, self._facts)
                if progress.size:
                    self._open_to_continue(progress, total)
        except OSError as problem:
            raise InputFileError(f"{self.path}: cannot be continued: {problem.strerror}") from problem
        return self.rows

    def _open_to_continue(self, progress: Progress, total: int) -> None:
        """Open the file to append rows: keep the rows that the resume file covers, and whole rows after them."""
        with self.path.open("rb") as stream:
            self._digest = _digest_start(stream, progress.size)
            if self._digest.hexdigest() != progress.sha256:
                raise InputFileError(f"{self.path}: was changed since it was written; {START_AGAIN}")
            self.rows, end = progress.rows, progress.size
            while self.rows < total and self._is_row(line := stream.readline(_LONGEST_ROW)):
                self._digest.update(line)
                self.rows, end = self.rows + 1, end + len(line)
        file = io.FileIO(self.path, "r+b")
        file.truncate(end)
        self._file = file

    def _is_row(self, line: bytes) -> bool:
        """Return whether a line is a whole row: a power cut may leave an incomplete row, or zeros."""
        if self._compress is not None or not line.endswith(b"\n") or not line.isascii():
            return False
        text = line[:-1].decode()
        return text.isprintable() and len(text.split(",")) == len(self._columns)

    def append(self, columns: Table) -> None:
        """Append rows.

        Args:
            columns: (n,) each, of numbers, and of text without commas and quotes.

        Raises:
            InputFileError: the rows cannot be written, for example because the disk is full; none of them is written.
        """
        if self._file is not None and self._facts is None and not self.path.exists():
            self._file.close()  # the file was moved or removed, perhaps to make room
            self._file = None
        rows = [",".join(map(str, row)) for row in zip(*(column.tolist() for column in columns.values()), strict=True)]
        header = [] if self._file is not None else [",".join(columns)]
        content = "".join(f"{line}\n" for line in header + rows).encode()
        if self._compress is not None:
            content = self._compress(content)
        try:
            if self._file is None:
                self._file = self._replace(content)
            else:
                _append(self._file, content)
        except OSError as problem:
            raise self._make_error(problem) from problem
        self.rows += len(rows)
        self._digest.update(content)
        if time.monotonic() - self._committed >= _COMMIT_INTERVAL:
            self._commit()

    def _replace(self, content: bytes) -> io.FileIO:
        """Write a new file in place of an older one; return it."""
        self._take_lock()  # another process may have created the file since
        if self._facts is not None:
            # Before the rows: if the run is killed in between, the next run starts from the beginning.
            write_resume_file(self.path, self._facts, NO_PROGRESS)
        with contextlib.ExitStack() as opened:
            with replacing(self.path) as partial:
                partial.write_bytes(content)
                file = opened.enter_context(io.FileIO(partial, "r+b"))
                _lock(file.fileno(), partial)  # before it gets its final name
            opened.pop_all()
        if self._lock is not None:
            os.close(self._lock)  # the older file takes up space until then
            self._lock = None
        return file

    def _commit(self) -> None:
        """Synchronise the rows with the disk, and record in the resume file how many there are."""
        if self._file is None or self._facts is None:
            return
        try:
            os.fsync(self._file.fileno())
            size = self._file.seek(0, os.SEEK_END)
        except OSError as problem:
            raise self._make_error(problem) from problem
        write_resume_file(self.path, self._facts, Progress(self.rows, size, self._digest.hexdigest()))
        self._committed = time.monotonic()

    def _make_error(self, problem: OSError) -> InputFileError:
        remedy = "make room" if self._facts is None else "make room and continue with --resume"
        return InputFileError(f"{self.path}: cannot be written: {problem.strerror}; {remedy}")

    def __enter__(self) -> "OffloadCsv":
        self._take_lock()
        return self

    def _take_lock(self) -> None:
        """Lock an existing file, unless this object has locked it already."""
        if self._lock is not None:
            return
        try:
            file = os.open(self.path, os.O_RDONLY)
        except OSError:
            return  # there is no file, or writing it will report the error
        try:
            _lock(file, self.path)
        except BaseException:
            os.close(file)
            raise
        self._lock = file

    def __exit__(
        self, kind: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            self._close()
        except InputFileError:
            if kind is None:  # otherwise the first error is reported
                raise
        finally:
            if self._lock is not None:
                os.close(self._lock)

    def _close(self) -> None:
        if self._file is not None:
            try:
                with self._file:
                    self._commit()
                    os.fsync(self._file.fileno())
            except OSError as problem:
                raise self._make_error(problem) from problem


def _lock(file: int, path: Path) -> None:
    """Keep other processes from writing a file while it is open here.

    Raises:
        InputFileError: another process is writing it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = os.path.samestat(path.stat(), os.fstat(file))  # otherwise another process has just replaced it
    except BlockingIOError:
        is_ours = False
    except OSError:
        return  # a file system without locks, or the file was just removed
    if not is_ours:
        raise InputFileError(f"{path}: another process is writing it; wait for it, stop it, or choose another name")


def _append(file: io.FileIO, content: bytes) -> None:
    """Write all of ``content`` at the end of a file, or nothing."""
    if os.fstat(file.fileno()).st_nlink == 0:
        raise FileNotFoundError(errno.ENOENT, "the file was removed or replaced meanwhile")
    end = file.seek(0, os.SEEK_END)
    try:
        left = memoryview(content)
        while left:
            left = left[file.write(left) or 0 :]
    except BaseException:
        with contextlib.suppress(OSError):
            file.truncate(end)
        raise


def _digest_start(stream: BinaryIO, size: int) -> "hashlib._Hash":
    """Return the SHA-256 of the first ``size`` bytes, or of all if there are fewer."""
    digest = hashlib.sha256()
    while size and (block := stream.read(min(size, _BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest


def _resolve_link(path: Path) -> Path:
    """Return the target of a link; return any other path unchanged."""
    try:
        return path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError):  # a circle of links
        return path  # writing it will report the error
