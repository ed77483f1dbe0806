"""Fetch the published dataset, month by month, and check what came."""

import bz2
import csv
import math
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final, TextIO

from utils.download import Job
from utils.errors import DatasetError
from utils.schema import CLASS, CLASS_COUNT, CLASS_NAMES, FEATURES
from utils.web import join_url

_COLUMNS: Final = (*FEATURES, CLASS)
_CLASSES: Final = (*CLASS_NAMES, *map(str, range(CLASS_COUNT)))
_ROWS_PARSED: Final = 100
_LONGEST_LINE: Final = 1 << 16
_LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"


def job_for(month: str, folder: Path, base_url: str, *, full: bool) -> Job:
    """Return the job that fetches one month into a folder.

    Args:
        month: such as ``2016_01``.
        folder: where it goes, under its published name.
        base_url: the repository's raw files, branch included.
        full: the whole month, compressed, in place of the sample.

    Raises:
        ToolkitError: ``base_url`` is not an address.
    """
    path = f"full/{month}.csv.bz2" if full else f"{month}.csv"
    url = join_url(base_url, f"dataset/{path}")
    return Job(url, folder / Path(path).name, verify=partial(verify_month, compressed=full))


def verify_month(path: Path, *, compressed: bool) -> None:
    """Check that a file is a labelled dataset CSV, without holding it in memory.

    Checked are the header, the number of cells of every row, and the cells of the first rows and of the last.

    Args:
        path: the file, under any name.
        compressed: whether it must be bz2-compressed; it is then read to its end, which checks its sums.

    Raises:
        DatasetError: it is not; the message says in what.
    """
    with path.open("rb") as stream:
        if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise DatasetError(
                f"{path}: is a Git LFS pointer, which only names the file; use a --base-url that serves the "
                "file itself, such as https://media.githubusercontent.com/media/OWNER/REPOSITORY/BRANCH"
            )
    try:
        with _open_text(path, compressed) as text:
            _check_rows(csv.reader(_bounded_lines(text)), path)
    except (EOFError, OSError, UnicodeDecodeError, csv.Error) as problem:
        raise DatasetError(f"{path}: is not {'a whole bz2 file' if compressed else 'a CSV'}: {problem}") from problem


def _open_text(path: Path, compressed: bool) -> TextIO:
    if compressed:
        return bz2.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _bounded_lines(text: TextIO) -> Iterator[str]:
    # A file without line ends, which a few compressed bytes can stand for, must not fill the memory.
    while line := text.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise csv.Error(f"a line is longer than {_LONGEST_LINE} characters")
        yield line


def _check_rows(rows: Iterable[list[str]], path: Path) -> None:
    rows = iter(rows)
    header = next(rows, [])
    _check_header(header, path)
    number, last = 0, header
    for number, last in enumerate(rows, start=1):
        if len(last) != len(header):
            raise DatasetError(f"{path}: row {number} has {len(last)} cells, not {len(header)}")
        if number <= _ROWS_PARSED:
            _check_cells(header, last, number, path)
    if number == 0:
        raise DatasetError(f"{path}: has a header but no rows")
    _check_cells(header, last, number, path)


def _check_header(header: list[str], path: Path) -> None:
    if sorted(header) == sorted(_COLUMNS):
        return
    missing = [name for name in _COLUMNS if name not in header]
    odd = [name for name in header if name not in _COLUMNS or header.count(name) > 1]
    if len(missing) == len(_COLUMNS):
        raise DatasetError(
            f"{path}: does not begin with the header of a dataset CSV but with {','.join(header)[:40]!r}"
        )
    first = chain((f"lacks {name!r}" for name in missing), (f"has {name[:40]!r} besides or twice" for name in odd))
    raise DatasetError(f"{path}: the header is not the 58 features and {CLASS!r}: it {next(first)}")


def _check_cells(header: list[str], row: list[str], number: int, path: Path) -> None:
    for name, cell in zip(header, row, strict=True):
        if not (cell in _CLASSES if name == CLASS else _is_finite(cell)):
            raise DatasetError(f"{path}: row {number}, column {name!r} holds {cell[:40]!r}")


def _is_finite(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False
