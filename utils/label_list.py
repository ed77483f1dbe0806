"""Read and write label lists: records of verdict CSVs that a person labels.

A label list is a CSV with a row for each record:

    file         name of the verdict CSV
    row          number of the record's row in it, from 1, the header not counted
    window_start, address_a, address_b
                 what identifies the record, if the verdict CSV says so
    chosen       random: drawn from all rows; informative: chosen because the network is not certain
    weight       number of rows that a random record stands for; 0 for an informative one, which stands for itself only
    prediction, certainty
                 of the exit that counts, for the person's information
    class        for the person to fill in, if it is not known: 0 or normal, 1 or attack; empty if unknown
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils.csv_tables import read_header, read_text_in_chunks
from utils.csv_text import describe_cell, describe_row, parse_number
from utils.dataset import parse_class, strip_ending
from utils.errors import ResultFileError
from utils.schema import CLASS, CLASS_COUNT, CLASS_NAMES, IDENTITY

RANDOM: Final = "random"
INFORMATIVE: Final = "informative"
KEY_COLUMNS: Final = ("file", "row", "weight", CLASS)
"""Columns that a label list must have to be read."""
COLUMNS: Final = ("file", "row", *IDENTITY, "chosen", "weight", "prediction", "certainty", CLASS)

_REMEDY: Final = "write one with evaluations/choose-for-labels.py"
_MOST: Final = 1e12
"""Largest accepted row or weight: above any real value, but exact in floating point."""


@dataclass(frozen=True)
class LabelList:
    """The n records of a label list, in the order of the file.

    Attributes:
        path: of the file, for messages.
        files: (n,) text, names of verdict CSVs without their endings.
        rows: (n,) int64, numbers of rows from 0.
        weights: (n,) float64, 0 or more.
        labels: (n,) int64; -1 if the record has no class.
    """

    path: Path
    files: NDArray[np.object_]
    rows: NDArray[np.int64]
    weights: NDArray[np.float64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def is_labelled(self) -> NDArray[np.bool_]:
        """Whether a person gave the record a class (n,)."""
        return self.labels >= 0

    def describe(self, index: int) -> str:
        """Return the name of a record for messages, with its place in the list."""
        return f"{describe_row(index)} names row {self.rows[index] + 1} of {self.files[index]}"


def name_file(path: Path) -> str:
    """Return the name by which a label list and a CSV are matched: that of the file, without folder and ending."""
    return strip_ending(path.name)


def read_label_lists(paths: Sequence[Path]) -> list[LabelList]:
    """Read label lists, none of whose records may occur twice.

    Raises:
        ResultFileError: a file is missing, damaged or of another kind, a value is out of range, a record occurs twice,
            or no record has a class.
    """
    lists = [_read_list(path) for path in paths]
    seen = dict[tuple[str, int], tuple[Path, int]]()
    for one in lists:
        for index, key in enumerate(zip(one.files.tolist(), one.rows.tolist(), strict=True)):
            if key in seen:
                path, row = seen[key]
                where = describe_row(row) if path == one.path else f"{path}: {describe_row(row)}"
                raise ResultFileError(f"{one.path}: {one.describe(index)}, as {where} does; remove one of them")
            seen[key] = one.path, index
    if not any(one.is_labelled.any() for one in lists):
        raise ResultFileError(
            f"{lists[0].path}: no record has a class; fill in the column {CLASS!r} with 0 or {CLASS_NAMES[0]}, 1 or "
            f"{CLASS_NAMES[1]}"
        )
    return lists


def _read_list(path: Path) -> LabelList:
    names = read_header(path, ResultFileError, COLUMNS)
    if missing := [name for name in KEY_COLUMNS if name not in names]:
        found = ", ".join(names)[:200]
        raise ResultFileError(
            f"{path}: is not a label list, it lacks {', '.join(missing[:3])} and has {found}; {_REMEDY}"
        )
    chunks = list(read_text_in_chunks(path, ResultFileError, KEY_COLUMNS))
    table = pd.concat(chunks, ignore_index=True)
    if table.empty:
        raise ResultFileError(f"{path}: has a header but no rows; {_REMEDY}")
    rows = _parse(table, path, "row", lambda values: (values >= 1) & (values % 1 == 0), "a whole number from 1")
    weights = _parse(table, path, "weight", lambda values: values >= 0, "a number of rows, 0 or more")
    is_empty = (table[CLASS].str.strip() == "").to_numpy(np.bool_)
    labels = table[CLASS].where(~is_empty, "0").map(parse_class).to_numpy(np.float64)
    allowed = f"0 or {CLASS_NAMES[0]}, 1 or {CLASS_NAMES[1]}, or empty if it is not known"
    _check(~np.isin(labels, np.arange(CLASS_COUNT)), table, path, CLASS, allowed)
    files = np.array([strip_ending(name) for name in table["file"]], dtype=object)
    return LabelList(path, files, rows.astype(np.int64) - 1, weights, np.where(is_empty, -1, labels).astype(np.int64))


def _parse(
    table: pd.DataFrame,
    path: Path,
    column: str,
    is_right: Callable[[NDArray[np.float64]], NDArray[np.bool_]],
    allowed: str,
) -> NDArray[np.float64]:
    values: NDArray[np.float64] = table[column].map(parse_number).to_numpy(np.float64)
    _check(~((values <= _MOST) & is_right(values)), table, path, column, allowed)
    return values


def _check(wrong: NDArray[np.bool_], table: pd.DataFrame, path: Path, column: str, allowed: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ResultFileError(
            f"{path}: {describe_row(row)}, column {column!r} {describe_cell(table[column].iloc[row])}; it must be "
            f"{allowed}"
        )
