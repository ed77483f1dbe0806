"""The offload CSV: it grows by whole batches while the client runs, and an interrupted one can be continued."""

import bz2
import contextlib
import csv
import errno
import fcntl
import gzip
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from offload.edge import Edge
from utils.dataset import Dataset
from utils.decision import is_accepted
from utils.errors import InputFileError
from utils.files import check_writable, replacing
from utils.schema import ATTACK, CLASS, NOT_ASKED, REJECTED, Thresholds

_COMPRESS: Final[dict[str, Callable[[bytes], bytes]]] = {".gz": gzip.compress, ".bz2": bz2.compress}
_TAIL: Final = 1000
_BLOCK: Final = 1 << 20
_TOLERANCE: Final = 1e-4


Table = Mapping[str, NDArray[Any]]
"""Columns (n,) of a table by name."""


class VerdictsFile:
    """Use it in a ``with`` block.

    The file appears, in place of an older one, with the first rows. It holds whole rows only; should the machine die
    in the middle of one, ``go_on`` takes that away.

    Args:
        path: CSV, or .csv.gz, .csv.bz2, which cannot be continued.
        columns: of the tables to come.

    Attributes:
        rows: in the file.

    Raises:
        InputFileError: the file cannot be written, or is none but a device or a pipe.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        # What a link stands for is written, not the link: it may be /dev/stdout.
        self.path = check_writable(_target(path))
        self.rows = 0
        self._columns = tuple(columns)
        self._compress = _COMPRESS.get(path.suffix.lower())
        self._file: io.FileIO | None = None
        self._end: int | None = None  # of the rows to go on from

    def last_rows(self) -> Table:
        """Find the whole rows in the file that is there, if one is; return the last, at most 1,000, all cells as text.

        Raises:
            InputFileError: it has other columns, is compressed, or cannot be read.
        """
        if self._compress is not None:
            raise InputFileError(f"{self.path}: a compressed file cannot be continued; leave out --resume")
        expected = f"{','.join(self._columns)}\n".encode()
        nothing: Table = {name: np.empty(0, dtype=np.str_) for name in self._columns}
        try:
            with self.path.open("rb") as stream:
                header = stream.readline(len(expected))  # no more: another file may be one endless line
                if header != expected:
                    if expected.startswith(header):
                        return nothing  # cut off before the first row
                    raise InputFileError(
                        f"{self.path}: has not the columns {','.join(self._columns)}; "
                        "leave out --resume to write it anew"
                    )
                self.rows, self._end, tail_start = _whole_rows(stream)
                stream.seek(tail_start)
                tail = stream.read(self._end - tail_start)
        except FileNotFoundError:
            return nothing
        except OSError as problem:
            raise InputFileError(f"{self.path}: cannot be continued: {problem.strerror}") from problem
        try:
            rows = list(csv.reader(io.StringIO(tail.decode(), newline=""), strict=True))
        except (ValueError, csv.Error):
            rows = []
        if len(rows) != min(self.rows, _TAIL) or any(len(row) != len(self._columns) for row in rows):
            raise InputFileError(f"{self.path}: cannot be read; leave out --resume to write it anew")
        return dict(zip(self._columns, map(np.array, zip(*rows, strict=True)), strict=True)) if rows else nothing

    def go_on(self) -> None:
        """Add further rows to those that ``last_rows`` found, if it found any.

        Raises:
            InputFileError: the file cannot be written, or another process is writing it.
        """
        if self._end is not None:
            try:
                self._file = self._open()
                self._file.truncate(self._end)
            except OSError as problem:
                raise InputFileError(f"{self.path}: cannot be continued: {problem.strerror}") from problem

    def append(self, columns: Table) -> None:
        """Add rows.

        Args:
            columns: (n,) each, of numbers, and of text without commas and quotes.

        Raises:
            InputFileError: they cannot be written, for example because the disk is full; none of them is.
        """
        rows = [",".join(map(str, row)) for row in zip(*(column.tolist() for column in columns.values()), strict=True)]
        header = [] if self._file is not None else [",".join(columns)]
        content = "".join(f"{line}\n" for line in header + rows).encode()
        if self._compress is not None:
            content = self._compress(content)
        try:
            if self._file is None:
                with replacing(self.path) as partial:
                    partial.write_bytes(content)
                self._file = self._open()
            else:
                _append(self._file, content)
        except OSError as problem:
            remedy = "make room" if self._compress is not None else "make room and go on with --resume"
            raise InputFileError(f"{self.path}: cannot be written: {problem.strerror}; {remedy}") from problem
        self.rows += len(rows)

    def _open(self) -> io.FileIO:
        file = io.FileIO(self.path, "ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            file.close()
            raise InputFileError(f"{self.path}: another process is writing it; wait for it, or stop it") from problem
        except OSError:
            return file  # a file system without locks
        return file

    def __enter__(self) -> "VerdictsFile":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            try:
                with self._file:
                    os.fsync(self._file.fileno())
            except OSError as problem:
                raise InputFileError(f"{self.path}: cannot be written: {problem.strerror}") from problem


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


def resume(savefile: VerdictsFile, dataset: Dataset, edge: Edge) -> int:
    """Continue an interrupted file; return how many rows of the dataset it holds.

    The last of its rows are compared with what exit 1 says of the dataset's, and with the thresholds. Where they do
    not fit, the file stays as it is.

    Raises:
        InputFileError: it was made from another dataset, or with another network or other thresholds.
    """
    tail = savefile.last_rows()
    count = len(tail[CLASS])
    rows = slice(savefile.rows - count, savefile.rows)
    if savefile.rows > len(dataset):
        raise InputFileError(
            f"{savefile.path}: has {savefile.rows} rows, {dataset.source} only {len(dataset)}; leave out --resume"
        )
    labels = np.full(count, NOT_ASKED) if dataset.labels is None else dataset.labels[rows].astype(str)
    if count > 0 and not (
        (tail[CLASS] == labels).all() and _is_by(tail, edge.thresholds, *edge.at_exit_1(dataset.features[rows]))
    ):
        raise InputFileError(
            f"{savefile.path}: its last rows are of another dataset, network or thresholds; "
            "leave out --resume to write it anew"
        )
    savefile.go_on()
    return savefile.rows


def _is_by(tail: Table, limits: Thresholds, prediction: NDArray[np.int64], certainties: NDArray[np.float64]) -> bool:
    """Return whether rows are what exit 1 says, to rounding, and what the rule makes of them with these thresholds."""
    answered = tail["exit_2_prediction"] != NOT_ASKED
    try:
        prediction_1, certainty_1 = _answers(tail, 1)
        prediction_2, certainty_2 = _answers({name: column[answered] for name, column in tail.items()}, 2)
    except (ValueError, OverflowError):  # no numbers
        return False
    uncertain = ~is_accepted(prediction_1, certainty_1, limits.normal_exit_1, limits.attack_exit_1)
    accepted = is_accepted(prediction_2, certainty_2, limits.normal_exit_2, limits.attack_exit_2)
    final = np.where(uncertain, REJECTED, prediction_1.astype(str))
    final[answered] = np.where(accepted, prediction_2.astype(str), REJECTED)
    return bool(
        (uncertain | ~answered).all()
        and (tail["final_prediction"] == final).all()
        and np.allclose(_odds(prediction_1, certainty_1), _odds(prediction, certainties), rtol=0, atol=_TOLERANCE)
    )


def _answers(table: Table, exit_number: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return an exit's predictions (N,) and certainties (N,) from a table of text."""
    predictions, certainties = (table[f"exit_{exit_number}_{what}"] for what in ("prediction", "certainty"))
    return predictions.astype(np.int64), certainties.astype(np.float64)


def _odds(predictions: NDArray[np.int64], certainties: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability (N,) of an attack, which does not jump where the prediction does."""
    return np.where(predictions == ATTACK, certainties, 1 - certainties)


def _target(path: Path) -> Path:
    """Return what a link stands for; any other path as it is."""
    try:
        return path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError):  # links in a circle
        return path  # its use will say why


def _whole_rows(stream: io.BufferedReader) -> tuple[int, int, int]:
    """Return how many whole rows follow, where the last ends, and where the last 1,000 begin."""
    rows, position = 0, stream.tell()
    end = position
    starts = [position]  # of the last rows, and of the one that would come next
    while block := stream.read(_BLOCK):
        at = -1
        while (at := block.find(b"\n", at + 1)) >= 0:
            rows += 1
            end = position + at + 1
            starts.append(end)
        del starts[: -(_TAIL + 1)]
        position += len(block)
    return rows, end, starts[0]
