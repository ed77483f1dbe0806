"""Open tables by what they hold, not by their names: plain text or compressed, unpacked with a limit."""

import bz2
import gzip
import io
import shlex
from collections.abc import Generator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from utils.compressions import find_compression
from utils.errors import InputFileError

PARQUET_ENDINGS: Final = (".parquet", ".pq")

LONGEST_LINE: Final = 2**16
"""Bytes; what is longer is no line of 60 numbers, and is not held in memory."""

UTF8_MARK: Final = b"\xef\xbb\xbf"
"""Spreadsheets begin UTF-8 text with it."""

_HEAD_LINES: Final = 10
"""First lines of a table that are searched for its header."""

_PARQUET: Final = b"PAR1"
_GZIP, _BZ2 = b"\x1f\x8b", b"BZh"

_OTHERS: Final = {
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook; export the sheet as CSV",
    b"\x89HDF": "is an HDF5 file; export the table as CSV",
    b"SQLite": "is an SQLite database; export the table as CSV",
}
_LONGEST_BEGINNING: Final = 512

_LEAST_LIMIT: Final = 2**28
_GREATEST_RATIO: Final = 100
"""A table may unpack to 256 MiB, or to 100 times its size: ten times what real ones do, a tenth of a gzip bomb."""


def is_parquet(path: Path) -> bool:
    """Return whether a file is of that format, by its content, or by its name in any case."""
    return path.suffix.lower() in PARQUET_ENDINGS or _beginning(path).startswith(_PARQUET)


@contextmanager
def open_table(path: Path, error: type[InputFileError]) -> Generator[tuple[IO[bytes], IO[bytes]]]:
    """Open a text table, gzip- or bzip2-compressed or not.

    Yields:
        the file, whose position tells how much of it is read, and its content.

    Raises:
        InputFileError: (the given child of it) the file is compressed in another way, or is none of text. While it is
            read: it unpacks to far more than a table would.
    """
    beginning = _beginning(path)
    _check_text(path, beginning, error)
    with path.open("rb") as raw:
        if beginning.startswith(_GZIP):
            yield raw, io.BufferedReader(_Unpacked(gzip.GzipFile(fileobj=raw), path, error), 2**16)
        elif beginning.startswith(_BZ2):
            yield raw, io.BufferedReader(_Unpacked(bz2.BZ2File(raw), path, error), 2**16)
        else:
            yield raw, raw


def read_head(path: Path, error: type[InputFileError]) -> list[str]:
    """Return the first lines of a text table without their ends; bytes that are not UTF-8 are escaped.

    Raises:
        InputFileError: (the given child of it) as ``open_table``.
        OSError, EOFError, zlib.error: the file is damaged.
    """
    with open_table(path, error) as (_, stream):
        lines = list(islice(iter(lambda: stream.readline(LONGEST_LINE), b""), _HEAD_LINES))
    return [line.removeprefix(UTF8_MARK).rstrip(b"\r\n").decode("utf-8", "backslashreplace") for line in lines]


def _beginning(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_LONGEST_BEGINNING)


def _check_text(path: Path, beginning: bytes, error: type[InputFileError]) -> None:
    if b"[Content_Types].xml" in beginning:
        raise error(f"{path}: is an Excel workbook; export the sheet as CSV")
    if not beginning.startswith((_GZIP, _BZ2)) and (compression := find_compression(beginning)):
        found, command = compression
        raise error(f"{path}: {found}; unpack it with {command} {shlex.quote(str(path))} > table.csv")
    for begins, problem in _OTHERS.items():
        if beginning.startswith(begins):
            raise error(f"{path}: {problem}")


def check_unpacked_size(size: int, path: Path, error: type[InputFileError]) -> None:
    """Check that a file does not unpack to far more bytes than a table would.

    Raises:
        InputFileError: (the given child of it) it does.
    """
    if size > _limit(path):
        raise _too_large(path, error)


def _limit(path: Path) -> int:
    return max(_LEAST_LIMIT, _GREATEST_RATIO * path.stat().st_size)


def _too_large(path: Path, error: type[InputFileError]) -> InputFileError:
    return error(
        f"{path}: unpacks to over {_LEAST_LIMIT >> 20} MiB and {_GREATEST_RATIO} times its size, as no table does; "
        "unpack it yourself if you trust it"
    )


class _Unpacked(io.RawIOBase):
    """The content of a compressed file, up to a limit.

    Args:
        packed: gives the content.
        path: the file.
        error: what to raise beyond the limit.
    """

    def __init__(self, packed: IO[bytes] | gzip.GzipFile, path: Path, error: type[InputFileError]) -> None:
        self._packed = packed
        self._path = path
        self._error = error
        self._left = _limit(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        content = self._packed.read(len(view))
        self._left -= len(content)
        if self._left < 0:
            raise _too_large(self._path, self._error)
        view[: len(content)] = content
        return len(content)
