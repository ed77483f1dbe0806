"""Dataset files of any format, read in pieces of bounded size."""

import csv
import io
import re
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from utils.cells import number, place
from utils.errors import DatasetError
from utils.headers import match_names, split_line
from utils.schema import CLASS, FEATURE_COUNT, FEATURES, IDENTITY
from utils.table_files import LONGEST_LINE, check_unpacked_size, is_parquet, open_table, read_head

_NUMBER_BYTES: Final = 4
BLOCK_BYTES: Final = 2**21
"""Of a CSV, read at a time: pandas is no faster with more."""
PIECE_ROWS: Final = 4096
"""Of a Parquet file, read at a time."""

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
            piece by piece. It raises DatasetError where the file is damaged.
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
        columns = match_names(split_line(head[0]), _KNOWN)

    def read(chosen: Columns) -> Generator[Piece]:
        indices = {columns.index(name): number_in for name, number_in in chosen.items()}
        before = 0
        with open_table(path, DatasetError) as (raw, stream), _well_formed(path):
            stream.readline(LONGEST_LINE)  # the header
            for lines in _blocks(stream):
                numbers = _parse(lines, len(columns), indices)
                if numbers is None:
                    rows = _split(path, lines, len(columns), before)
                    numbers = np.array([[number_in(row[at]) for at, number_in in indices.items()] for row in rows])
                yield Piece(numbers, partial(_cell, lines, [*indices]), raw.tell())
                before += len(numbers)

    return Pieces(columns, head, place, read)


@contextmanager
def _well_formed(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, EOFError, MemoryError, csv.Error, zlib.error) as problem:
        why = str(problem) or type(problem).__name__
        raise DatasetError(f"{path}: is not a well-formed CSV: {why}; export it again") from problem


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a stream, some whole ones at a time; each ends in a newline alone.

    Raises:
        ValueError: a line is too long, or holds a carriage return.
    """
    rest = b""
    while block := stream.read(BLOCK_BYTES):
        lines, end, rest = (rest + block).rpartition(b"\n")
        if len(rest) >= LONGEST_LINE:
            raise ValueError(f"a line has over {LONGEST_LINE:,} bytes")
        if end:
            yield _without_returns(lines + end)
    if rest:
        yield _without_returns(rest + b"\n")


def _without_returns(lines: bytes) -> bytes:
    lines = re.sub(rb"\r+\n", b"\n", lines) if b"\r" in lines else lines
    if b"\r" in lines:
        raise ValueError("lines end in a carriage return alone")
    return lines


def _parse(lines: bytes, width: int, chosen: Mapping[int, Callable[[str], float]]) -> NDArray[np.float64] | None:
    """Return the numbers in some columns of lines of ``width`` cells, as pandas reads them, correctly rounded.

    None: a line has another width, a quote stands within a cell, or a cell that ``number`` should read is no number.
    """
    import pandas as pd  # here, for an edge that reads packets starts without it

    first = lines.partition(b"\n")[0].lower()
    # pandas would make 1 of a column of True, and 56 of "5"6.
    if b"true" in first or b"false" in first or (b'"' in lines and re.search(rb'[^,\n]"[^,\n]', lines)):
        return None
    numeric = {index: np.float64 for index, number_in in chosen.items() if number_in is number}
    try:
        frame = pd.read_csv(
            io.BytesIO(lines), header=None, index_col=False, dtype=numeric, na_filter=False, skipinitialspace=True,
            skip_blank_lines=False, low_memory=False,
        )  # fmt: skip
    except ValueError:
        return None
    if frame.shape != (lines.count(b"\n"), width):
        return None
    frame = frame[list(chosen)]
    for index in chosen.keys() - numeric:
        if frame[index].dtype.kind not in "iuf":
            frame[index] = frame[index].astype(str).map(chosen[index])
    return frame.to_numpy(np.float64)


def _split(path: Path, lines: bytes, width: int, before: int) -> list[list[str]]:
    """Return the cells of lines that ``before`` rows precede, with empty ones behind them where they are too few.

    Raises:
        DatasetError: a line has more cells than the header, or a quote that does not end.
    """
    rows = []
    for row, line in enumerate(lines.decode("utf-8", "backslashreplace").split("\n")[:-1], before):
        try:
            cells = split_line(line)
        except csv.Error as problem:
            raise DatasetError(
                f"{path}: {place(row)} is no line of a CSV: {problem}; mend or drop the row"
            ) from problem
        if len(cells) > width:
            commas = ", or numbers with decimal commas" if len(cells) > 1.5 * width else ""
            raise DatasetError(f"{path}: {place(row)} has more cells than the header{commas}; mend or drop the row")
        rows.append(cells + [""] * (width - len(cells)))
    return rows


def _cell(lines: bytes, indices: Sequence[int], row: int, column: int) -> str:
    cells = split_line(lines.split(b"\n")[row].decode("utf-8", "backslashreplace"))
    return dict(enumerate(cells)).get(indices[column], "")


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
