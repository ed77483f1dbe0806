"""Dataset files of any format, read in pieces of bounded size, without pandas: an edge box need not have it."""

import csv
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from utils.cells import number, place
from utils.errors import DatasetError
from utils.headers import match_names, split_line
from utils.schema import CLASS, FEATURE_COUNT, FEATURES, IDENTITY
from utils.table_files import LONGEST_LINE, UTF8_MARK, check_unpacked_size, is_parquet, open_table, read_head

_NUMBER_BYTES: Final = 4
PIECE_ROWS: Final = 4096
"""Rows of a piece: of the published months, whose rows repeat, more are read no faster."""

_COMMA: Final = "\x01"
"""No number has it, nor a class, and no one takes it for a space."""

_KNOWN: Final = (*FEATURES, CLASS, *IDENTITY)

Columns = Mapping[str, Callable[[str], float]]
"""Column names, and what turns the text of a cell into a number: ``utils.cells.number``, or another function."""


@dataclass(frozen=True)
class Piece:
    """Some rows of a dataset file.

    Attributes:
        numbers: (n, C) float64, NaN where a cell is no number.
        cell: returns the cell in a row and a column, for messages.
        done: how many of the file's bytes are read by then.
    """

    numbers: NDArray[np.float64]
    cell: Callable[[int, int], object]
    done: int

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class Pieces:
    """A dataset file that can be read in pieces.

    Attributes:
        columns: the names of its columns, in its order; those of datasets as ``utils.schema`` spells them.
        head: its first lines, to see why they hold no header; none of a Parquet file.
        place: how messages name a row of it, counted from 0.
        read: yields some of its columns, given their names and what turns the text of a cell of each into a number,
            in pieces of at most ``PIECE_ROWS`` rows. It raises DatasetError where the file is damaged.
    """

    columns: list[str]
    head: list[str]
    place: Callable[[int], str]
    read: Callable[[Columns], Generator[Piece]]


def open_pieces(path: Path) -> Pieces:
    """Return a dataset file, which must be there, ready to be read; by its content or name a Parquet file, else a CSV.

    Raises:
        DatasetError: it is not of that format, or pyarrow is not installed.
    """
    return _open_parquet(path) if is_parquet(path) else _open_csv(path)


def _open_csv(path: Path) -> Pieces:
    with _well_formed(path):
        head = read_head(path, DatasetError)
    with open_table(path, DatasetError) as (_, stream), _well_formed(path):
        columns = _header(stream)

    def read(chosen: Columns) -> Generator[Piece]:
        indices = {columns.index(name): number_in for name, number_in in chosen.items()}
        before = 0
        with open_table(path, DatasetError) as (raw, stream):
            with _well_formed(path):
                _header(stream)
                lines = _lines(stream)
            while lines:
                with _well_formed(path):
                    following, done = _lines(stream), raw.tell()
                    piece = _piece(path, lines, len(columns), indices, before, done)
                yield piece
                before, lines = before + len(lines), following

    return Pieces(columns, head, place, read)


@contextmanager
def _well_formed(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, EOFError, MemoryError, csv.Error, zlib.error) as problem:
        why = str(problem) or type(problem).__name__
        raise DatasetError(f"{path}: is not a well-formed CSV: {why}; export it again") from problem


def _header(stream: IO[bytes]) -> list[str]:
    line = _line(stream).removeprefix(UTF8_MARK).rstrip(b"\r\n")
    return match_names(split_line(line.decode()), _KNOWN)


def _lines(stream: IO[bytes]) -> list[bytes]:
    return [line.rstrip(b"\r\n") for line in islice(iter(lambda: _line(stream), b""), PIECE_ROWS)]


def _line(stream: IO[bytes]) -> bytes:
    """Return the next line with its end; nothing where there is none.

    Raises:
        ValueError: it is too long, or holds a carriage return.
    """
    line = stream.readline(LONGEST_LINE)
    if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
        raise ValueError(f"a line has over {LONGEST_LINE:,} bytes")
    if b"\r" in line and b"\r" in line.rstrip(b"\r\n"):
        raise ValueError("lines end in a carriage return alone")
    return line


def _piece(
    path: Path, lines: list[bytes], width: int, chosen: Mapping[int, Callable[[str], float]], before: int, done: int
) -> Piece:
    """Return lines as numbers; equal lines are read once, for most of them repeat.

    Raises:
        DatasetError: a line has more cells than the header, or a quote that does not end.
    """
    places: dict[bytes, int] = {}
    which = [places.setdefault(line, len(places)) for line in lines]
    indices = list(chosen)

    def refuse(row: int, why: str) -> NoReturn:
        raise DatasetError(f"{path}: {place(before + which.index(row))} {why}; mend or drop the row") from None

    distinct = list(places)
    for row, line in enumerate(distinct):
        if b'"' in line:
            try:
                distinct[row] = _unquoted(line)
            except csv.Error as problem:
                refuse(row, f"is no line of a CSV: {problem}")
    try:
        numbers = _all_numbers(distinct, width, chosen)
    except ValueError:  # find out where, which takes several times as long
        rows = [_cells(line, width) for line in distinct]
        for row, cells in enumerate(rows):
            if len(cells) > width:
                commas = ", or numbers with decimal commas" if len(cells) > 1.5 * width else ""
                refuse(row, f"has more cells than the header{commas}")
        numbers = np.array([[number_in(row[index]) for index, number_in in chosen.items()] for row in rows])
    return Piece(numbers[which], lambda row, column: _cells(distinct[which[row]], width)[indices[column]], done)


def _unquoted(line: bytes) -> bytes:
    """Return a line without its quotes; ``_COMMA`` stands for the commas that were between them.

    Raises:
        csv.Error: a quote does not end.
    """
    cells = split_line(line.decode("utf-8", "surrogateescape"))
    return ",".join(cell.replace(",", _COMMA) for cell in cells).encode("utf-8", "surrogateescape")


def _cells(line: bytes, width: int) -> list[str]:
    """Return the cells of a line, with empty ones behind them where they are fewer than ``width``."""
    cells = [cell.replace(_COMMA, ",") for cell in line.decode("utf-8", "backslashreplace").split(",")]
    return cells + [""] * (width - len(cells))


def _all_numbers(lines: list[bytes], width: int, chosen: Mapping[int, Callable[[str], float]]) -> NDArray[np.float64]:
    """Return the numbers in some columns of lines of ``width`` cells each.

    Raises:
        ValueError: a line has another width, or bytes that are not ASCII, or a cell is no number.
    """
    # NumPy takes the spaces of Latin-1 for such, whatever the encoding.
    if any(line.count(b",") != width - 1 or not line.isascii() for line in lines):
        raise ValueError
    converters: dict[int | str, Callable[[str], Any]] = {
        index: number_in for index, number_in in chosen.items() if number_in is not number
    }
    numbers: NDArray[np.float64] = np.loadtxt(
        lines, delimiter=",", comments=None, usecols=list(chosen), converters=converters, encoding=None, ndmin=2
    )
    if len(numbers) < len(lines):  # a blank one is left out
        raise ValueError
    return numbers


def _open_parquet(path: Path) -> Pieces:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as problem:
        raise DatasetError(
            f"{path}: reading Parquet needs pyarrow, not here; pip install pyarrow==26.0.1, or convert the file to CSV"
        ) from problem

    @contextmanager
    def well_formed() -> Iterator[None]:
        try:
            yield
        except (ArrowException, ValueError, OSError, MemoryError) as problem:
            raise DatasetError(f"{path}: is not a well-formed Parquet file: {problem}; export it again") from problem

    def open_file() -> Any:
        # By default pyarrow holds a whole row group, which may be the whole file.
        return parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20)

    def read(chosen: Columns) -> Generator[Piece]:
        size, rows = path.stat().st_size, 0
        with well_formed():
            file = open_file()
        with file:
            batches = file.iter_batches(PIECE_ROWS, columns=list(chosen))
            while True:
                with well_formed():
                    batch = next(batches, None)
                    if batch is None:
                        return
                    columns = [batch.column(name) for name in chosen]
                    values = [_column(column, of) for column, of in zip(columns, chosen.values(), strict=True)]
                rows += len(batch)
                done = size * rows // max(file.metadata.num_rows, rows)
                yield Piece(np.stack(values, axis=1), _cells_of(columns), done)

    with well_formed(), open_file() as file:
        check_unpacked_size(_NUMBER_BYTES * FEATURE_COUNT * file.metadata.num_rows, path, DatasetError)
        columns = [str(name) for name in file.schema_arrow.names]
        kinds = [file.schema_arrow.field(index).type for index in range(len(columns))]
    for name, kind in zip(columns, kinds, strict=True):
        if not _is_cell(kind):
            raise DatasetError(f"{path}: column {name!r} holds {kind}; numbers are needed, or text for the class")
    return Pieces(columns, [], lambda row: f"row {row + 1}", read)


def _cells_of(columns: Sequence[Any]) -> Callable[[int, int], object]:
    return lambda row, column: columns[column][row].as_py()


def _column(column: Any, number_in: Callable[[str], float]) -> NDArray[np.float64]:
    """Return the numbers of an Arrow column (n,), NaN where there is none."""
    from pyarrow import types

    if types.is_integer(column.type) or types.is_floating(column.type):
        values: NDArray[np.float64] = column.to_numpy(zero_copy_only=False).astype(np.float64)
        return values
    cells = column.to_pylist()
    return np.array([number_in("" if cell is None else str(cell)) for cell in cells], np.float64)


def _is_cell(kind: Any) -> bool:
    """Return whether an Arrow type is of single values that a message can quote, and not of bytes."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_cell(kind.value_type)
    others = (types.is_nested, types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return not any(is_other(kind) for is_other in others)
