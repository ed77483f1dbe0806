"""Read dataset CSVs and check them against the data contract."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils.errors import DatasetError
from utils.files import check_folder, check_readable
from utils.schema import CLASS, CLASS_COUNT, CLASS_NAMES, FEATURE_COUNT, FEATURES, IDENTITY, IMAGE_SIDE
from utils.tables import found, place, read_csv

SUFFIXES: Final = (".csv", ".csv.bz2", ".csv.gz")


@dataclass(frozen=True)
class Dataset:
    """Flow records ready for a network.

    Attributes:
        features: (N, 58) float32, scaled, in the order of ``schema.FEATURES``.
        labels: (N,) int64, 0 normal and 1 attack; None for an unlabelled file.
        source: the file or files they came from, for messages and checkpoints.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    source: str

    def __len__(self) -> int:
        return len(self.features)


def to_images(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return features (N, 58) zero-padded to 64 and shaped as row-major images (N, 1, 8, 8), float32."""
    padded = np.zeros((len(features), IMAGE_SIDE * IMAGE_SIDE), dtype=np.float32)
    padded[:, :FEATURE_COUNT] = features
    return padded.reshape(-1, 1, IMAGE_SIDE, IMAGE_SIDE)


def distinct_vectors(features: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find the rows that repeat: of real traffic most do, and what is computed for one holds for all.

    Returns:
        (D,) a row of each kind, and (N,) which of those each row of ``features`` (N, 58) equals, so that
        ``features == features[first][place]``.
    """
    rows = np.ascontiguousarray(features)
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    return first, place


def read_dataset(path: Path, *, labelled: bool = False) -> Dataset:
    """Read one dataset CSV, plain or compressed (.bz2, .gz).

    Args:
        path: a CSV with the 58 feature columns in any order and, as 59th, ``class``.
        labelled: whether the ``class`` column is required.

    Raises:
        DatasetError: the file is missing, empty, or breaks the data contract; the message names file, column and row.
    """
    columns = _header(check_readable(path, DatasetError))
    _check_columns(columns, path, labelled=labelled)
    # Text is inspected only where a column turns out not to be numeric; bytes that are not UTF-8 become such text.
    frame = read_csv(path, DatasetError, low_memory=False, encoding_errors="backslashreplace")
    if frame.empty:
        raise DatasetError(f"{path}: has a header but no rows; it needs at least one record")
    features = _finite_numbers(frame, path)
    labels = _labels(frame[CLASS], path) if CLASS in columns else None
    return Dataset(features, labels, path.name)


def read_labelled(path: Path) -> tuple[Dataset, NDArray[np.int64]]:
    """Read a dataset CSV that must have the ``class`` column; return it with its labels (N,) int64.

    Raises:
        DatasetError: as ``read_dataset``, or there is no ``class`` column.
    """
    dataset = read_dataset(path, labelled=True)
    assert dataset.labels is not None  # guaranteed by labelled=True
    return dataset, dataset.labels


def find_datasets(folder: Path, pattern: str) -> list[Path]:
    """Return the dataset CSVs of a folder whose names match, sorted.

    Args:
        folder: where to look.
        pattern: a glob such as ``2016_0[1-3]`` or ``2016_*``, with or without the ending; a name without wildcards
            stands for itself.

    Raises:
        DatasetError: no file matches.
        InputFileError: the folder is missing.
    """
    check_folder(folder)
    endings = ("",) if pattern.endswith(SUFFIXES) else SUFFIXES
    try:
        found = sorted({path for ending in endings for path in folder.glob(pattern + ending) if path.is_file()})
    except (ValueError, NotImplementedError) as problem:
        raise DatasetError(f"--glob {pattern!r} is not a file name pattern: {problem}") from problem
    if not found:
        there = sorted(path.name for path in folder.iterdir() if path.name.endswith(SUFFIXES))
        listing = f"it holds {', '.join(there[:12])}" if there else "it holds no dataset CSV"
        raise DatasetError(f"{folder}: no dataset matches {pattern!r}; {listing}")
    return found


def read_all_labelled(paths: Sequence[Path]) -> tuple[Dataset, NDArray[np.int64]]:
    """Read several labelled CSVs as one dataset, in the order given.

    Raises:
        DatasetError: as ``read_labelled``.
    """
    parts = [read_labelled(path) for path in paths]
    features = np.concatenate([dataset.features for dataset, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    return Dataset(features, labels, " ".join(dataset.source for dataset, _ in parts)), labels


def _header(path: Path) -> list[str]:
    first = read_csv(path, DatasetError, header=None, nrows=1, dtype=str, keep_default_na=False)
    return [str(name) for name in first.iloc[0]]


def _check_columns(columns: list[str], path: Path, *, labelled: bool) -> None:
    known = {*FEATURES, CLASS, *IDENTITY}
    missing = [name for name in FEATURES if name not in columns]
    extra = [name for name in columns if name not in known]
    repeated = [name for name in dict.fromkeys(columns) if name in known and columns.count(name) > 1]
    if len(missing) == FEATURE_COUNT:
        raise DatasetError(f"{path}: row 0: none of the 58 feature columns stands in the header; add the header line")
    for problem, names in (("missing", missing), ("unknown", extra), ("repeated", repeated)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise DatasetError(
                f"{path}: row 0: {problem} column {', '.join(map(repr, names[:3]))}{more}; "
                f"the header must hold the 58 features and, optionally, {CLASS!r}"
            )
    if labelled and CLASS not in columns:
        raise DatasetError(f"{path}: has no {CLASS!r} column; this stage needs a labelled dataset")


def _finite_numbers(frame: pd.DataFrame, path: Path) -> NDArray[np.float32]:
    values = np.empty((len(frame), FEATURE_COUNT), dtype=np.float32)
    for index, name in enumerate(FEATURES):
        column = frame[name]
        numbers = column if column.dtype.kind in "iuf" else pd.to_numeric(column.astype(str), errors="coerce")
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is refused below
            values[:, index] = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
        wrong = ~np.isfinite(values[:, index])
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DatasetError(
                f"{path}: {place(row)}, column {name!r} {found(column.iloc[row])}; "
                "a finite number is needed, mend or drop the row"
            )
    return values


def _labels(column: "pd.Series[Any]", path: Path) -> NDArray[np.int64]:
    if column.dtype.kind in "iuf":
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        labels = {word: label for label, name in enumerate(CLASS_NAMES) for word in (name, str(label))}
        numbers = column.astype(str).str.strip().map(labels).to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = ~np.isin(numbers, np.arange(CLASS_COUNT))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DatasetError(
            f"{path}: {place(row)}, column {CLASS!r} {found(column.iloc[row])}; "
            f"the classes are 0 or {CLASS_NAMES[0]}, 1 or {CLASS_NAMES[1]}"
        )
    return numbers.astype(np.int64)
