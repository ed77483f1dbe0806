"""The offload CSV: it grows by whole batches while the client runs, and an interrupted one can be continued."""

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
from offload.edge.resume_file import ANEW, NOTHING, Facts, Progress, read_resume_file, write_resume_file
from utils.errors import InputFileError
from utils.files import check_writable, replacing
from utils.records import identity_columns
from utils.schema import DECIDER_COLUMNS, NOT_ASKED, OFFLOAD_COLUMNS, REJECTED

_COMPRESS: Final[dict[str, Callable[[bytes], bytes]]] = {
    ".gz": functools.partial(gzip.compress, mtime=0),  # the same rows give the same file at any time
    ".bz2": bz2.compress,
}
_BLOCK: Final = 1 << 20
_COMMIT_INTERVAL: Final = 1.0
"""Seconds between two notes of how much is written; rows in between survive a kill, but perhaps not a power cut."""
_LONGEST_ROW: Final = 4096


Table = Mapping[str, NDArray[Any]]
"""Columns (n,) of a table by name."""


def make_columns(batch: Batch, *, show_decider: bool = False) -> Table:
    """Return the columns (N,) of a decided batch: ``OFFLOAD_COLUMNS``.

    ``IDENTITY`` stands in front of them where the records are known, and ``DECIDER_COLUMNS`` behind them if asked for.
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
    table = {} if batch.records is None else identity_columns(batch.records)
    table |= dict(zip(OFFLOAD_COLUMNS, columns, strict=True))
    if show_decider:
        table |= dict(zip(DECIDER_COLUMNS, (batch.decider, batch.reason), strict=True))
    return table


class OffloadCsv:
    """Use it in a ``with`` block; while it is open here, no other process can write the file.

    The file appears, in place of an older one, with the first rows. It holds whole rows only; should the machine
    die in the middle of one, the next run takes that away. Without ``begin``, a file that is moved or removed meanwhile
    is made anew.

    Args:
        path: CSV, or .csv.gz, .csv.bz2.
        columns: of the tables to come.

    Attributes:
        rows: in the file.

    Raises:
        InputFileError: the file cannot be written, or is none but a device or a pipe; on entering, or with the first
            rows, another process is writing it.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        # What a link stands for is written, not the link: it may be /dev/stdout.
        self.path = check_writable(_target(path))
        self.rows = 0
        self._columns = tuple(columns)
        self._compress = _COMPRESS.get(path.suffix.lower())
        self._file: io.FileIO | None = None
        self._lock: int | None = None
        self._facts: Facts | None = None
        self._digest = hashlib.sha256()
        self._committed = 0.0  # when

    def begin(self, facts: Facts, most: int, *, resumes: bool) -> int:
        """Keep a resume file beside the file, so that an interrupted run can be continued.

        Args:
            facts: what decides the rows, besides the columns; see ``offload.edge.resume_file``.
            most: rows that the run has.
            resumes: whether to continue the file that is there, if one is.

        Returns:
            how many rows are there.

        Raises:
            InputFileError: the file that is there is of another run, was changed, or cannot be read or written.
        """
        self._facts = {**facts, "columns": list(self._columns)}
        try:
            if resumes and self.path.exists() and self.path.stat().st_size:
                progress = read_resume_file(self.path, self._facts)
                if progress.size:
                    self._continue(progress, most)
        except OSError as problem:
            raise InputFileError(f"{self.path}: cannot be continued: {problem.strerror}") from problem
        return self.rows

    def _continue(self, progress: Progress, most: int) -> None:
        """Open the file to write behind its rows: those that are known to be its own, and whole ones after them."""
        with self.path.open("rb") as stream:
            self._digest = _digest_of(stream, progress.size)
            if self._digest.hexdigest() != progress.sha256:
                raise InputFileError(f"{self.path}: was changed since it was written; {ANEW}")
            self.rows, end = progress.rows, progress.size
            while self.rows < most and self._is_row(line := stream.readline(_LONGEST_ROW)):
                self._digest.update(line)
                self.rows, end = self.rows + 1, end + len(line)
        file = io.FileIO(self.path, "r+b")
        file.truncate(end)
        self._file = file

    def _is_row(self, line: bytes) -> bool:
        """Return whether a line is a whole row: a power cut may leave a half one, or zeros."""
        if self._compress is not None or not line.endswith(b"\n") or not line.isascii():
            return False
        text = line[:-1].decode()
        return text.isprintable() and len(text.split(",")) == len(self._columns)

    def append(self, columns: Table) -> None:
        """Add rows.

        Args:
            columns: (n,) each, of numbers, and of text without commas and quotes.

        Raises:
            InputFileError: they cannot be written, for example because the disk is full; none of them is.
        """
        if self._file is not None and self._facts is None and not self.path.exists():
            self._file.close()  # it was moved or removed, perhaps to make room
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
            raise self._refusal(problem) from problem
        self.rows += len(rows)
        self._digest.update(content)
        if time.monotonic() - self._committed >= _COMMIT_INTERVAL:
            self._commit()

    def _replace(self, content: bytes) -> io.FileIO:
        """Write a new file in place of an older one; return it."""
        self._take_lock()  # of a file that another process has begun since
        if self._facts is not None:
            # Before the rows: a run that is killed in between begins anew.
            write_resume_file(self.path, self._facts, NOTHING)
        with contextlib.ExitStack() as opened:
            with replacing(self.path) as partial:
                partial.write_bytes(content)
                file = opened.enter_context(io.FileIO(partial, "r+b"))
                _lock(file.fileno(), partial)  # before it has the name
            opened.pop_all()
        if self._lock is not None:
            os.close(self._lock)  # of the older file, which takes room until then
            self._lock = None
        return file

    def _commit(self) -> None:
        """Have the rows so far survive a power cut, and note in the resume file that they do."""
        if self._file is None or self._facts is None:
            return
        try:
            os.fsync(self._file.fileno())
            size = self._file.seek(0, os.SEEK_END)
        except OSError as problem:
            raise self._refusal(problem) from problem
        write_resume_file(self.path, self._facts, Progress(self.rows, size, self._digest.hexdigest()))
        self._committed = time.monotonic()

    def _refusal(self, problem: OSError) -> InputFileError:
        remedy = "make room" if self._facts is None else "make room and go on with --resume"
        return InputFileError(f"{self.path}: cannot be written: {problem.strerror}; {remedy}")

    def __enter__(self) -> "OffloadCsv":
        self._take_lock()
        return self

    def _take_lock(self) -> None:
        """Lock the file that is there, if one is and it is not locked here yet."""
        if self._lock is not None:
            return
        try:
            file = os.open(self.path, os.O_RDONLY)
        except OSError:
            return  # there is none; or its use will say why not
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
            if kind is None:  # else what went wrong first is told
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
                raise self._refusal(problem) from problem


def _lock(file: int, path: Path) -> None:
    """Keep other processes from writing a file while it is open here.

    Raises:
        InputFileError: another process is writing it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = os.path.samestat(path.stat(), os.fstat(file))  # else another process has just replaced it
    except BlockingIOError:
        is_ours = False
    except OSError:
        return  # a file system without locks, or the file was just removed
    if not is_ours:
        raise InputFileError(f"{path}: another process is writing it; wait for it, stop it, or choose another name")


def _append(file: io.FileIO, content: bytes) -> None:
    """Write all of ``content`` at the end of a file, or nothing."""
    if os.fstat(file.fileno()).st_nlink == 0:
        raise FileNotFoundError(errno.ENOENT, "it was removed or replaced meanwhile")
    end = file.seek(0, os.SEEK_END)
    try:
        left = memoryview(content)
        while left:
            left = left[file.write(left) or 0 :]
    except BaseException:
        with contextlib.suppress(OSError):
            file.truncate(end)
        raise


def _digest_of(stream: BinaryIO, size: int) -> "hashlib._Hash":
    """Return the SHA-256 of so many bytes, or of those that there are."""
    digest = hashlib.sha256()
    while size and (block := stream.read(min(size, _BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest


def _target(path: Path) -> Path:
    """Return what a link stands for; any other path as it is."""
    try:
        return path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError):  # links in a circle
        return path  # its use will say why
