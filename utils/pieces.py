"""Dataset files of any format, read in pieces of bounded size."""

import bz2
import gzip
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import pandas as pd

from utils.errors import DatasetError
from utils.tables import COMPRESSIONS, place, read_csv, well_formed

PARQUET: Final = ".parquet"
PIECE_ROWS: Final = 32_768
"""Rows of a piece; a file of no more is read in one go."""


@dataclass(frozen=True)
class Pieces:
    """A dataset file that can be read in pieces.

    Attributes:
        columns: the names of its columns, in its order.
        place: how messages name a row of it, counted from 0.
        frames: yields its rows, at most ``PIECE_ROWS`` at once, and how many of the file's bytes are read with them. It
            raises DatasetError where the file is damaged.
    """

    columns: list[str]
    place: Callable[[int], str]
    frames: Callable[[], Generator[tuple[pd.DataFrame, int]]]


def open_pieces(path: Path) -> Pieces:
    """Return a dataset file, which must be there, ready to be read; by its name a Parquet file, else a CSV.

    Raises:
        DatasetError: it is not of that format, or pyarrow is not installed.
    """
    if path.suffix == PARQUET:
        return _open_parquet(path)
    first = read_csv(path, DatasetError, header=None, nrows=1, dtype=str, keep_default_na=False)
    return Pieces([str(name) for name in first.iloc[0]], place, lambda: _csv_frames(path))


def _csv_frames(path: Path) -> Generator[tuple[pd.DataFrame, int]]:
    with path.open("rb") as raw, _decompressed(raw, path) as stream:
        with well_formed(path, DatasetError):
            # Text is inspected only where a column turns out not to be numeric; bytes that are not UTF-8 become such
            # text. Blank lines are kept, so that row numbers are those of the file.
            reader = pd.read_csv(
                stream,
                index_col=False,
                chunksize=PIECE_ROWS,
                compression=None,
                low_memory=False,
                skip_blank_lines=False,
                encoding_errors="backslashreplace",
            )
        with reader:
            while True:
                with well_formed(path, DatasetError):
                    frame = next(reader, None)
                if frame is None:
                    return
                yield frame, raw.tell()


def _decompressed(raw: IO[bytes], path: Path) -> IO[bytes]:
    match COMPRESSIONS.get(path.suffix):
        case "bz2":
            return bz2.open(raw)
        case "gzip":
            return gzip.open(raw)  # type: ignore[return-value]
        case _:
            return raw


def _open_parquet(path: Path) -> Pieces:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as problem:
        raise DatasetError(
            f"{path}: reading Parquet needs pyarrow, not here; pip install pyarrow==26.0.1, or convert the file to CSV"
        ) from problem

    @contextmanager
    def well_formed_parquet() -> Iterator[None]:
        try:
            yield
        except (ArrowException, ValueError, OSError, MemoryError) as problem:
            raise DatasetError(f"{path}: is not a well-formed Parquet file: {problem}; export it again") from problem

    def open_file() -> Any:
        # By default pyarrow holds a whole row group, which may be the whole file.
        return parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20)

    def frames() -> Generator[tuple[pd.DataFrame, int]]:
        size, done = path.stat().st_size, 0
        with well_formed_parquet():
            file = open_file()
        with file:
            batches = file.iter_batches(PIECE_ROWS)
            while True:
                with well_formed_parquet():
                    batch = next(batches, None)
                    frame = None if batch is None else batch.to_pandas(ignore_metadata=True)
                if frame is None:
                    return
                done += len(frame)
                yield frame, size * done // max(file.metadata.num_rows, done)

    with well_formed_parquet(), open_file() as file:
        names = [str(name) for name in file.schema_arrow.names]
        kinds = [file.schema_arrow.field(index).type for index in range(len(names))]
    for name, kind in zip(names, kinds, strict=True):
        if not _is_cell(kind):
            raise DatasetError(f"{path}: column {name!r} holds {kind}; numbers are needed, or text for the class")
    return Pieces(names, lambda row: f"row {row + 1}", frames)


def _is_cell(kind: Any) -> bool:
    """Return whether an Arrow type is of single values that a message can quote, and not of bytes."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_cell(kind.value_type)
    others = (types.is_nested, types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return not any(is_other(kind) for is_other in others)
