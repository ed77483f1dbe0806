"""Read dataset files, CSV or Parquet, in chunks of bounded size."""

import csv
import io
import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from utils.csv_text import describe_row, match_names, parse_number, split_line, well_formed_csv
from utils.errors import DatasetError
from utils.schema import CLASS, FEATURE_COUNT, FEATURES, IDENTITY
from utils.table_formats import LONGEST_LINE, check_unpacked_size, is_parquet, open_table, read_first_lines

BLOCK_BYTES: Final = 2**21
"""Bytes of a CSV per chunk; pandas is no faster with more."""
SMALL_BYTES: Final = 2**20
"""A chunk of fewer bytes is parsed without pandas, if pandas is not imported yet.

The import would take longer than the parsing, and 40 MB of memory.
"""
CHUNK_ROWS: Final = 4096
"""Rows of a Parquet file per chunk."""

_NUMBER_BYTES: Final = 4
_KNOWN: Final = (*FEATURES, CLASS, *IDENTITY)

Columns = Mapping[str, Callable[[str], float]]
"""Maps column names to functions that return the number in a cell, such as ``parse_number``."""


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows of a dataset file.

    Attributes:
        numbers: (n, C) float64, NaN where a cell holds no number.
        get_cell: returns the cell in a row and a column, for messages.
        bytes_read: number of the file's bytes that have been read so far, with those of this chunk.
    """

    numbers: NDArray[np.float64]
    get_cell: Callable[[int, int], object]
    bytes_read: int

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class DatasetFile:
    """A dataset file whose header has been read.

    Attributes:
        columns: names of its columns, in order; known names in the spelling of ``utils.schema``.
        first_lines: the first lines of a CSV, to explain why they hold no header; empty for a Parquet file.
        describe_row: returns the name for messages of a row with an index from 0.
        read_chunks: yields the given C columns of the file in chunks; raises DatasetError if the file is damaged.
    """

    columns: list[str]
    first_lines: list[str]
    describe_row: Callable[[int], str]
    read_chunks: Callable[[Columns], Generator[Chunk]]


def open_dataset(path: Path) -> DatasetFile:
    """Read the header of an existing dataset file: Parquet if its content or its name says so, else CSV.

    Raises:
        DatasetError: the file is not of that format, or pyarrow is not installed.
    """
    return _open_parquet(path) if is_parquet(path) else _open_csv(path)


def _open_csv(path: Path) -> DatasetFile:
    with well_formed_csv(path, DatasetError):
        first_lines = read_first_lines(path, DatasetError)
        columns = match_names(split_line(first_lines[0]), _KNOWN)

    def read_chunks(chosen: Columns) -> Generator[Chunk]:
        parsers = {columns.index(name): parse for name, parse in chosen.items()}
        rows = 0
        with open_table(path, DatasetError) as (raw, stream), well_formed_csv(path, DatasetError):
            stream.readline(LONGEST_LINE)  # the header
            for lines in _read_blocks(stream):
                numbers = _parse_by_pandas(lines, len(columns), parsers)
                if numbers is None:
                    table = _split_lines(path, lines, len(columns), rows)
                    numbers = np.array([[parse(cells[index]) for index, parse in parsers.items()] for cells in table])
                yield Chunk(numbers, partial(_get_cell, lines, list(parsers)), raw.tell())
                rows += len(numbers)

    return DatasetFile(columns, first_lines, describe_row, read_chunks)


def _read_blocks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield blocks of whole lines, each of which ends in a newline without a carriage return.

    Raises:
        ValueError: a line is too long, or contains a carriage return before its end.
    """
    rest = b""
    while block := stream.read(BLOCK_BYTES):
        lines, end, rest = (rest + block).rpartition(b"\n")
        if len(rest) >= LONGEST_LINE:
            raise ValueError(f"a line has over {LONGEST_LINE:,} bytes")
        if end:
            yield _strip_carriage_returns(lines + end)
    if rest:
        yield _strip_carriage_returns(rest + b"\n")


def _strip_carriage_returns(lines: bytes) -> bytes:
    lines = re.sub(rb"\r+\n", b"\n", lines) if b"\r" in lines else lines
    if b"\r" in lines:
        raise ValueError("lines end in a carriage return alone")
    return lines


def _parse_by_pandas(
    lines: bytes, width: int, parsers: Mapping[int, Callable[[str], float]]
) -> NDArray[np.float64] | None:
    """Return the numbers in some columns of lines of ``width`` cells, correctly rounded; None if pandas is unsuitable.

    It is unsuitable if a line has another number of cells, there is a quote within a cell, the first line contains true
    or false, a cell for ``parse_number`` is not a number, or the lines are few and pandas is not imported yet.
    """
    if len(lines) < SMALL_BYTES and sys.modules.get("pandas") is None:
        return None
    import pandas as pd

    first = lines.partition(b"\n")[0].lower()
    if first.count(b",") != width - 1:  # pandas would create as many columns as the first line has cells
        return None
    # pandas would read a column of True as 1, and "5"6 as 56.
    if b"true" in first or b"false" in first or (b'"' in lines and re.search(rb'[^,\n]"[^,\n]', lines)):
        return None
    numeric = {index: np.float64 for index, parse in parsers.items() if parse is parse_number}
    try:
        frame = pd.read_csv(
            io.BytesIO(lines), header=None, index_col=False, dtype=numeric, na_filter=False, skipinitialspace=True,
            skip_blank_lines=False, low_memory=False,
        )  # fmt: skip
    except ValueError:
        return None
    if frame.shape != (lines.count(b"\n"), width):
        return None
    frame = frame[list(parsers)]
    for index in parsers.keys() - numeric:
        if frame[index].dtype.kind not in "iuf":
            frame[index] = frame[index].astype(str).map(parsers[index])
    return frame.to_numpy(np.float64)


def _split_lines(path: Path, lines: bytes, width: int, rows_before: int) -> list[list[str]]:
    """Return the cells of each line, padded with empty cells to ``width``.

    Raises:
        DatasetError: a line has more cells than the header, or a quoted cell that does not end with its quote.
    """
    table = []
    for row, line in enumerate(_decode(lines).split("\n")[:-1], rows_before):
        try:
            cells = split_line(line)
        except csv.Error as problem:
            raise DatasetError(
                f"{path}: {describe_row(row)} is not a line of a CSV: {problem}; correct or remove the row"
            ) from problem
        if len(cells) > width:
            commas = ", or numbers with decimal commas" if len(cells) > 1.5 * width else ""
            raise DatasetError(
                f"{path}: {describe_row(row)} has more cells than the header{commas}; correct or remove the row"
            )
        table.append(cells + [""] * (width - len(cells)))
    return table


def _get_cell(lines: bytes, indices: Sequence[int], row: int, column: int) -> str:
    cells = split_line(_decode(lines.split(b"\n")[row]))
    return cells[indices[column]] if indices[column] < len(cells) else ""


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")


def _open_parquet(path: Path) -> DatasetFile:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as problem:
        raise DatasetError(
            f"{path}: reading Parquet needs pyarrow, which is not installed; pip install pyarrow==26.0.1, or convert "
            "the file to CSV"
        ) from problem

    @contextmanager
    def well_formed() -> Iterator[None]:
        try:
            yield
        except (ArrowException, ValueError, OSError, MemoryError) as problem:
            raise DatasetError(f"{path}: is not a well-formed Parquet file: {problem}; export it again") from problem

    def open_file() -> Any:
        # By default, pyarrow keeps a whole row group in memory, which may be the whole file.
        return parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20)

    def read_chunks(chosen: Columns) -> Generator[Chunk]:
        size, rows = path.stat().st_size, 0
        with well_formed(), open_file() as file:
            for batch in file.iter_batches(CHUNK_ROWS, columns=list(chosen)):
                columns = [batch.column(name) for name in chosen]
                numbers = [_parse_column(column, parse) for column, parse in zip(columns, chosen.values(), strict=True)]
                rows += len(batch)
                bytes_read = size * rows // max(file.metadata.num_rows, rows)
                yield Chunk(np.stack(numbers, axis=1), partial(_get_parquet_cell, columns), bytes_read)

    with well_formed(), open_file() as file:
        check_unpacked_size(_NUMBER_BYTES * FEATURE_COUNT * file.metadata.num_rows, path, DatasetError)
        columns = [str(name) for name in file.schema_arrow.names]
        types = [file.schema_arrow.field(index).type for index in range(len(columns))]
    for name, column_type in zip(columns, types, strict=True):
        if not _holds_cells(column_type):
            raise DatasetError(
                f"{path}: column {name!r} holds {column_type}; numbers are needed, or text for the class"
            )
    return DatasetFile(columns, [], lambda row: f"row {row + 1}", read_chunks)


def _get_parquet_cell(columns: Sequence[Any], row: int, column: int) -> object:
    return columns[column][row].as_py()


def _parse_column(column: Any, parse: Callable[[str], float]) -> NDArray[np.float64]:
    """Return the numbers (n,) in an Arrow column; NaN where a cell holds no number."""
    from pyarrow import types

    if types.is_integer(column.type) or types.is_floating(column.type):
        values: NDArray[np.float64] = column.to_numpy(zero_copy_only=False).astype(np.float64)
        return values
    return np.array([parse("" if cell is None else str(cell)) for cell in column.to_pylist()], np.float64)


def _holds_cells(column_type: Any) -> bool:
    """Return whether an Arrow type holds single values that a message can quote, and not bytes."""
    from pyarrow import types

    if types.is_dictionary(column_type):
        return _holds_cells(column_type.value_type)
    others = (types.is_nested, types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return not any(is_other(column_type) for is_other in others)
