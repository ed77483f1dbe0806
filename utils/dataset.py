"""Read datasets, CSV or Parquet, and check every column, cell and label."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from utils.csv_text import describe_cell, explain_header, parse_number
from utils.dataset_chunks import Chunk, DatasetFile, open_dataset
from utils.errors import DatasetError
from utils.feature_buffer import FeatureBuffer
from utils.files import ByteProgress, check_folder, check_readable, ignore_progress
from utils.schema import CLASS, CLASS_COUNT, CLASS_NAMES, FEATURE_COUNT, FEATURES, IDENTITY, IMAGE_SIDE
from utils.table_formats import PARQUET_ENDINGS

_ENDINGS: Final = (".csv", ".csv.bz2", ".csv.gz", *PARQUET_ENDINGS)
_UNREAD_ENDINGS: Final = (".csv.xz", ".csv.zst", ".csv.zip")
"""Endings of files that cannot be read. They are matched so that an error message can name the command to unpack."""

_CLASS_WORDS: Final = {name: label for label, name in enumerate(CLASS_NAMES)}


@dataclass(frozen=True)
class Dataset:
    """Flow records ready for a network.

    Attributes:
        features: (N, 58) float32, scaled, in the order of ``schema.FEATURES``; read-only if spooled.
        labels: (N,) int64, 0 normal and 1 attack; None for an unlabelled file.
        source: names of the files that the records were read from, for messages and checkpoints.
        spooled: folder of the unnamed temporary file from which the features are mapped, because they are too large for
            memory; None if they are in memory.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    source: str
    spooled: Path | None = None

    def __len__(self) -> int:
        return len(self.features)


def to_images(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return features (N, 58) zero-padded to 64 and shaped as row-major images (N, 1, 8, 8), float32."""
    padded = np.zeros((len(features), IMAGE_SIDE * IMAGE_SIDE), dtype=np.float32)
    padded[:, :FEATURE_COUNT] = features
    return padded.reshape(-1, 1, IMAGE_SIDE, IMAGE_SIDE)


def find_distinct_vectors(features: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find the D distinct rows of features (N, 58): most rows of real traffic repeat one, and are computed only once.

    Returns:
        the index of one row of each (D,), ``first``, and the number of each row's vector among them (N,), ``place``:
        ``features`` equals ``features[first][place]``.
    """
    if len(features) == 1:  # single events are frequent, and sorting would take longer than exit 1
        return np.zeros(1, dtype=np.intp), np.zeros(1, dtype=np.intp)
    rows = np.ascontiguousarray(features)
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    return first, place


def read_dataset(path: Path, progress: ByteProgress = ignore_progress) -> Dataset:
    """Read one dataset: a CSV, plain or compressed (.bz2, .gz), or a Parquet file.

    Args:
        path: a table with the 58 feature columns in any order and, optionally, ``class``.
        progress: called after each chunk.

    Raises:
        DatasetError: the file is missing, empty, or not such a table; the message names file, column and row. Or its
            features are too large for memory, and the folder for temporary files cannot hold them.
    """
    return _read([path], labelled=False, progress=progress)


def read_labelled(path: Path, progress: ByteProgress = ignore_progress) -> tuple[Dataset, NDArray[np.int64]]:
    """Read a dataset that must have the ``class`` column, and return it with its labels (N,) int64.

    Raises:
        DatasetError: as for ``read_dataset``, or there is no ``class`` column.
    """
    return read_all_labelled([path], progress)


def read_all_labelled(
    paths: Sequence[Path], progress: ByteProgress = ignore_progress
) -> tuple[Dataset, NDArray[np.int64]]:
    """Read several labelled datasets as one, in the given order.

    Raises:
        DatasetError: as for ``read_labelled``.
    """
    dataset = _read(paths, labelled=True, progress=progress)
    assert dataset.labels is not None  # guaranteed by labelled=True
    return dataset, dataset.labels


def describe_spooling(dataset: Dataset) -> str:
    """Return a line for the user about a dataset that is kept in a temporary file."""
    return (
        f"{dataset.source}: {len(dataset)} rows, too large for memory: their {dataset.features.nbytes:,} bytes are "
        f"in an unnamed file in {dataset.spooled} (TMPDIR)"
    )


def find_datasets(folder: Path, pattern: str) -> list[Path]:
    """Return the paths of the datasets in a folder whose names match a pattern, sorted.

    Args:
        folder: the folder.
        pattern: a glob such as ``2016_0[1-3]`` or ``2016_*``, or a name; with or without the ending of the file.

    Raises:
        DatasetError: no file matches, or two files differ only in their ending, so that rows would be counted twice.
        InputFileError: the folder is missing.
    """
    check_folder(folder)
    found = _match(folder, pattern, _ENDINGS) or _match(folder, pattern, _UNREAD_ENDINGS)
    if not found:
        there = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(_ENDINGS))
        listing = f"it holds {', '.join(there[:12])}" if there else "it holds no dataset CSV or Parquet file"
        raise DatasetError(f"{folder}: no dataset matches {pattern!r}; {listing}")
    _check_no_twins(found, folder)
    return found


def _match(folder: Path, pattern: str, endings: tuple[str, ...]) -> list[Path]:
    """Return, sorted, the files whose names match a pattern with one of the endings, which may be left out."""
    if pattern.lower().endswith(endings):
        patterns = [pattern]
    else:
        any_case = ("".join(f"[{one}{one.upper()}]" if one.isalpha() else one for one in ending) for ending in endings)
        patterns = [pattern + ending for ending in any_case]
    try:
        return sorted({path for one in patterns for path in folder.glob(one) if path.is_file()})
    except (ValueError, NotImplementedError) as problem:
        raise DatasetError(f"--glob {pattern!r} is not a file name pattern: {problem}") from problem


def strip_ending(file_name: str) -> str:
    """Return the name of a dataset's file without its ending, such as ``2016_01`` for ``2016_01.csv.gz``."""
    ending = max((ending for ending in _ENDINGS if file_name.lower().endswith(ending)), key=len, default="")
    return file_name[: len(file_name) - len(ending)]


def _check_no_twins(paths: Sequence[Path], folder: Path) -> None:
    by_stem: defaultdict[Path, list[str]] = defaultdict(list)
    for path in paths:
        by_stem[path.with_name(strip_ending(path.name))].append(path.name)
    for names in by_stem.values():
        if len(names) > 1:
            raise DatasetError(
                f"{folder}: holds {' and '.join(names[:2])}, the same month twice; move one to another folder, or "
                "name one with its ending"
            )


def _read(paths: Sequence[Path], *, labelled: bool, progress: ByteProgress) -> Dataset:
    sizes = [check_readable(path, DatasetError).stat().st_size for path in paths]
    labels = list[NDArray[np.int64]]()
    total, before, has_labels = sum(sizes), 0, True
    with FeatureBuffer() as buffer:
        for path, size in zip(paths, sizes, strict=True):
            file = open_dataset(path)
            _check_columns(file, path, labelled=labelled)
            has_labels, rows = has_labels and CLASS in file.columns, 0
            columns = dict.fromkeys(FEATURES, parse_number) | ({CLASS: parse_class} if has_labels else {})
            with closing(file.read_chunks(columns)) as chunks:
                for chunk in chunks:
                    features = _check_features(chunk, path, file, rows)
                    if has_labels:
                        labels.append(_check_labels(chunk, path, file, rows))
                    rows += len(chunk)
                    buffer.append(features, max(before + chunk.bytes_read, 1) / total)
                    progress(before + chunk.bytes_read, total)
            if rows == 0:
                raise DatasetError(f"{path}: has a header but no rows; it needs at least one record")
            before += size
        features, folder = buffer.finish()
    return Dataset(
        features, np.concatenate(labels) if has_labels else None, " ".join(path.name for path in paths), folder
    )


def _check_columns(file: DatasetFile, path: Path, *, labelled: bool) -> None:
    columns, known = file.columns, {*FEATURES, CLASS, *IDENTITY}
    missing = [name for name in FEATURES if name not in columns]
    extra = [name for name in columns if name not in known]
    repeated = [name for name in dict.fromkeys(columns) if name in known and columns.count(name) > 1]
    if len(missing) == FEATURE_COUNT:
        reason = explain_header(file.first_lines, FEATURES)
        none = "the header has none of the 58 feature columns; add the header line"
        raise DatasetError(f"{path}: row 0: {reason or none}")
    for problem, names in (("missing", missing), ("unknown", extra), ("repeated", repeated)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise DatasetError(
                f"{path}: row 0: {problem} column {', '.join(map(repr, names[:3]))}{more}; "
                f"the header must hold the 58 features and, optionally, {CLASS!r}"
            )
    if labelled and CLASS not in columns:
        raise DatasetError(f"{path}: has no {CLASS!r} column; this stage needs a labelled dataset")


def _check_features(chunk: Chunk, path: Path, file: DatasetFile, rows_before: int) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite, which is an error
        features = chunk.numbers[:, :FEATURE_COUNT].astype(np.float32)
    finite = np.isfinite(features)
    if not finite.all():
        row, column = (int(index) for index in np.argwhere(~finite)[0])
        raise DatasetError(
            f"{path}: {file.describe_row(rows_before + row)}, column {FEATURES[column]!r} "
            f"{describe_cell(chunk.get_cell(row, column))}; a finite number is needed, correct or remove the row"
        )
    return features


def parse_class(cell: str) -> float:
    """Return the label in a cell that holds a class by name or number; another number, or NaN, if it holds none."""
    return float(_CLASS_WORDS.get(cell.strip().lower(), parse_number(cell)))


def _check_labels(chunk: Chunk, path: Path, file: DatasetFile, rows_before: int) -> NDArray[np.int64]:
    numbers = chunk.numbers[:, FEATURE_COUNT]
    wrong = ~np.isin(numbers, np.arange(CLASS_COUNT))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DatasetError(
            f"{path}: {file.describe_row(rows_before + row)}, column {CLASS!r} "
            f"{describe_cell(chunk.get_cell(row, FEATURE_COUNT))}; "
            f"the classes are 0 or {CLASS_NAMES[0]}, 1 or {CLASS_NAMES[1]}"
        )
    return numbers.astype(np.int64)
