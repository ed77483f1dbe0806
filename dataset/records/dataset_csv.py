"""Write records as the rows of a dataset CSV."""

import bz2
import gzip
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from operator import call
from pathlib import Path
from typing import IO, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dataset.records.labels import Labels
from dataset.records.scaling import PUBLISHED, Scaler
from utils.errors import CaptureError
from utils.files import COMPRESSIONS, replacing
from utils.records import Records, make_identity_columns
from utils.schema import CLASS, FEATURES

_CACHED: Final = 2**15  # formatted rows, and formatted numbers of each type
_VARIANCES: Final = [name for name in FEATURES if "variance" in name]


def build_table(
    records: Records, scaler: Scaler | None, labels: NDArray[np.int64] | None = None, *, identity: bool = False
) -> pd.DataFrame:
    """Return the rows of a dataset CSV for R records.

    Args:
        records: the records.
        scaler: scales the features to network inputs; None leaves them raw.
        labels: (R,) classes; None adds no column.
        identity: add the columns ``IDENTITY`` before the features.
    """
    values = records.features if scaler is None else scaler.scale(records.features)
    table = pd.DataFrame(values + 0.0, columns=list(FEATURES), copy=False)  # + 0.0 turns -0 into 0
    if scaler is None:
        whole = [name for name in FEATURES if name not in _VARIANCES]
        table[whole] = table[whole].astype(np.int64)
    if identity:
        table = pd.concat((pd.DataFrame(make_identity_columns(records)), table), axis=1)
    if labels is not None:
        table[CLASS] = labels
    return table


def format_csv(table: pd.DataFrame) -> str:
    """Return the rows of a table as CSV, as pandas would write them, but format equal rows of numbers once.

    Args:
        table: columns of text, of float64 without -0, and of int64 below 2**53.
    """
    columns: list[list[str]] = []
    for is_numeric, run in groupby(table.dtypes.items(), lambda column: column[1].kind in "if"):
        part = table[[name for name, _ in run]]
        columns += [_format_numbers(part)] if is_numeric else [part[name].tolist() for name in part]
    return "".join(f"{','.join(row)}\n" for row in zip(*columns, strict=True))


def _format_numbers(table: pd.DataFrame) -> list[str]:
    """Return the rows of a table of numbers, as ``format_csv`` but without line ends."""
    fraction = lru_cache(_CACHED)(str)
    whole = lru_cache(_CACHED)(lambda value: str(int(value)))
    formats = [fraction if dtype.kind == "f" else whole for dtype in table.dtypes]
    row = struct.Struct(f"{len(formats)}d")

    @lru_cache(_CACHED)
    def line(packed: bytes) -> str:
        return ",".join(map(call, formats, row.unpack(packed)))

    packed = table.to_numpy(np.float64).tobytes()
    return [line(packed[at : at + row.size]) for at in range(0, len(packed), row.size)]


@dataclass(frozen=True)
class WriteSummary:
    """Numbers about the records in a file that was written.

    Attributes:
        rows: number of records.
        windows: number of windows that the records are of.
        outside: number of raw values outside the range of the scaler, among ``rows`` times 58.
        attacks: number of records labelled as attacks; None without labels.
    """

    rows: int
    windows: int
    outside: int
    attacks: int | None


def write_records(
    records: Iterable[Records],
    path: Path,
    scaler: Scaler | None,
    labels: Labels | None = None,
    *,
    identity: bool = False,
    explain_none: Callable[[], str] = lambda: "no IPv4 packets; observe other traffic",
) -> WriteSummary:
    """Write records as a dataset CSV, completely or not at all.

    Args:
        records: in the order of the rows.
        path: compressed if its suffix says so.
        scaler: scales the features to network inputs; None leaves them raw.
        labels: give the class of each record; None adds no column.
        identity: add the columns ``IDENTITY`` before the features.
        explain_none: returns the error message if there are no records.

    Raises:
        CaptureError: there are no records.
        InputFileError: the file cannot be written.
    """
    rows = outside = attacks = 0
    starts: set[int] = set()
    with replacing(path) as unfinished, _open_text(unfinished) as stream:
        for part in records:
            classes = None if labels is None else labels.classify(part)
            table = build_table(part, scaler, classes, identity=identity)
            if not rows:
                stream.write(",".join(map(str, table)) + "\n")
            stream.write(format_csv(table))
            rows += len(part)
            starts.update(part.window_start.tolist())
            outside += (scaler or PUBLISHED).count_out_of_range(part.features)
            attacks += 0 if classes is None else int(classes.sum())
        if not rows:
            raise CaptureError(explain_none())
    return WriteSummary(rows, len(starts), outside, None if labels is None else attacks)


def _open_text(path: Path) -> IO[str]:
    """Open a text file for writing, compressed if its suffix says so."""
    openers: dict[str | None, Callable[..., IO[str]]] = {"gzip": gzip.open, "bz2": bz2.open, None: open}
    return openers[COMPRESSIONS.get(path.suffix.lower())](path, "wt", encoding="utf-8")
