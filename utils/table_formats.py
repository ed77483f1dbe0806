"""Open tables that are plain text, gzip or bzip2: recognise them by their content, and unpack them up to a limit."""

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
"""Largest number of bytes in a line that is kept in memory; no line of 60 numbers is longer."""

_UTF8_MARK: Final = b"\xef\xbb\xbf"
"""Byte order mark that spreadsheets write at the beginning of UTF-8 text."""

_HEAD_LINES: Final = 10
"""Number of lines at the beginning of a table that are searched for its header."""

_PARQUET: Final = b"PAR1"
_GZIP, _BZ2 = b"\x1f\x8b", b"BZh"

_OTHERS: Final = {
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook; export the sheet as CSV",
    b"\x89HDF": "is an HDF5 file; export the table as CSV",
    b"SQLite": "is an SQLite database; export the table as CSV",
}
_MAGIC_BYTES: Final = 512

_LEAST_LIMIT: Final = 2**28
_GREATEST_RATIO: Final = 100
"""A table may unpack to 256 MiB or, if that is more, to 100 times its size.

Real tables unpack to about 10 times their size, and a gzip bomb to about 1,000 times its size.
"""


def is_parquet(path: Path) -> bool:
    """Return whether a file is Parquet, by its content or by the ending of its name, in upper or lower case."""
    return path.suffix.lower() in PARQUET_ENDINGS or _read_magic(path).startswith(_PARQUET)


@contextmanager
def open_table(path: Path, error: type[InputFileError]) -> Generator[tuple[IO[bytes], IO[bytes]]]:
    """Open a text table: plain, or compressed with gzip or bzip2.

    Yields:
        the file, whose position is the number of its bytes that have been read, and a stream of its unpacked content.

    Raises:
        InputFileError: (``error``) the file is compressed in another way, or is not text; or, while it is read, it
            unpacks to far more than a table would.
    """
    magic = _read_magic(path)
    _check_text(path, magic, error)
    with path.open("rb") as raw:
        if magic.startswith(_GZIP):
            yield raw, io.BufferedReader(_LimitedReader(gzip.GzipFile(fileobj=raw), path, error), 2**16)
        elif magic.startswith(_BZ2):
            yield raw, io.BufferedReader(_LimitedReader(bz2.BZ2File(raw), path, error), 2**16)
        else:
            yield raw, raw


def read_first_lines(path: Path, error: type[InputFileError]) -> list[str]:
    """Return the first lines of a text table without line ends; bytes that are not UTF-8 are escaped.

    Raises:
        InputFileError: (``error``) as for ``open_table``.
        OSError, EOFError, zlib.error: the file is damaged.
    """
    with open_table(path, error) as (_, stream):
        lines = list(islice(iter(lambda: stream.readline(LONGEST_LINE), b""), _HEAD_LINES))
    return [line.removeprefix(_UTF8_MARK).rstrip(b"\r\n").decode("utf-8", "backslashreplace") for line in lines]


def check_unpacked_size(size: int, path: Path, error: type[InputFileError]) -> None:
    """Check that a file does not unpack to far more bytes than a table would.

    Raises:
        InputFileError: (``error``) the file unpacks to more.
    """
    if size > max(_LEAST_LIMIT, _GREATEST_RATIO * path.stat().st_size):
        raise error(
            f"{path}: unpacks to over {_LEAST_LIMIT >> 20} MiB and {_GREATEST_RATIO} times its size, as no table "
            "does; unpack it yourself if you trust it"
        )


def _read_magic(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_MAGIC_BYTES)


def _check_text(path: Path, magic: bytes, error: type[InputFileError]) -> None:
    if b"[Content_Types].xml" in magic:
        raise error(f"{path}: is an Excel workbook; export the sheet as CSV")
    if not magic.startswith((_GZIP, _BZ2)) and (compression := find_compression(magic)):
        problem, command = compression
        raise error(f"{path}: {problem}; unpack it with {command} {shlex.quote(str(path))} > table.csv")
    for start, problem in _OTHERS.items():
        if magic.startswith(start):
            raise error(f"{path}: {problem}")


class _LimitedReader(io.RawIOBase):
    """The unpacked content of a file, up to the limit of ``check_unpacked_size``."""

    def __init__(self, content: IO[bytes] | gzip.GzipFile, path: Path, error: type[InputFileError]) -> None:
        self._content = content
        self._path = path
        self._error = error
        self._size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        content = self._content.read(len(view))
        self._size += len(content)
        check_unpacked_size(self._size, self._path, self._error)
        view[: len(content)] = content
        return len(content)
