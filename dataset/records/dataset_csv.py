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
from typing import Final, TextIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dataset.records.labels import Labels
from dataset.records.scaling import PUBLISHED, Scaler
from utils.errors import CaptureError
from utils.files import COMPRESSIONS, replacing
from utils.records import Records, identity_columns
from utils.schema import CLASS, FEATURES

_CACHED: Final = 2**15  # rows, and numbers, that are kept in words
_VARIANCES: Final = [name for name in FEATURES if "variance" in name]


def record_table(
    records: Records, scaler: Scaler | None, labels: NDArray[np.int64] | None = None, *, identity: bool = False
) -> pd.DataFrame:
    """Return records as rows of a dataset CSV.

    Args:
        records: R of them.
        scaler: turns features into network inputs; None: they stay raw.
        labels: (R,) classes; None: no such column.
        identity: put the columns ``IDENTITY`` in front.
    """
    values = records.features if scaler is None else scaler.scale(records.features)
    table = pd.DataFrame(values + 0.0, columns=list(FEATURES), copy=False)  # which makes a zero 0, not -0
    if scaler is None:
        whole = [name for name in FEATURES if name not in _VARIANCES]
        table[whole] = table[whole].astype(np.int64)
    if identity:
        table = pd.concat((pd.DataFrame(identity_columns(records)), table), axis=1)
    if labels is not None:
        table[CLASS] = labels
    return table


def csv_lines(table: pd.DataFrame) -> str:
    """Return the rows of a table as CSV, as pandas would write them; equal rows of numbers are put into words once.

    Args:
        table: columns of text, of float64, without -0, or of int64, of less than 2**53.
    """
    columns: list[list[str]] = []
    for numbers, run in groupby(table.dtypes.items(), lambda column: column[1].kind in "if"):
        some = table[[name for name, _ in run]]
        columns += [_number_rows(some)] if numbers else [some[name].tolist() for name in some]
    return "".join(f"{','.join(row)}\n" for row in zip(*columns, strict=True))


def _number_rows(table: pd.DataFrame) -> list[str]:
    """Return the rows of columns of numbers, as ``csv_lines``, without the ends of the lines."""
    fraction = lru_cache(_CACHED)(str)
    whole = lru_cache(_CACHED)(lambda value: str(int(value)))
    words = [fraction if dtype.kind == "f" else whole for dtype in table.dtypes]
    row = struct.Struct(f"{len(words)}d")

    @lru_cache(_CACHED)
    def line(packed: bytes) -> str:
        return ",".join(map(call, words, row.unpack(packed)))

    packed = table.to_numpy(np.float64).tobytes()
    return [line(packed[at : at + row.size]) for at in range(0, len(packed), row.size)]


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        rows: records.
        windows: they lie in.
        outside: values that lie outside the scaler's range, of ``rows`` times 58.
        attacks: records labelled so; None without labels.
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
    explain_none: Callable[[], str] = lambda: "there were no IPv4 packets, so there is nothing to write",
) -> Written:
    """Write records as a dataset CSV, whole or not at all.

    Args:
        records: in the order of the rows.
        path: plain, or compressed where its ending says so.
        scaler: turns features into network inputs; None: they stay raw.
        labels: tell the attacks; None: there is no class column.
        identity: put the columns ``IDENTITY`` in front.
        explain_none: returns the message where there are no records.

    Raises:
        CaptureError: there are no records.
        InputFileError: the file cannot be written.
    """
    rows = outside = attacks = 0
    starts: set[int] = set()
    with replacing(path) as unfinished, _opened(unfinished) as stream:
        for some in records:
            classes = None if labels is None else labels.of(some)
            table = record_table(some, scaler, classes, identity=identity)
            if not rows:
                stream.write(",".join(map(str, table)) + "\n")
            stream.write(csv_lines(table))
            rows += len(some)
            starts.update(some.window_start.tolist())
            outside += (scaler or PUBLISHED).out_of_range(some.features)
            attacks += 0 if classes is None else int(classes.sum())
        if not rows:
            raise CaptureError(explain_none())
    return Written(rows, len(starts), outside, None if labels is None else attacks)


def _opened(path: Path) -> TextIO:
    """Open a text file to write, compressed where its ending says so."""
    match COMPRESSIONS.get(path.suffix.lower()):
        case "gzip":
            return gzip.open(path, "wt", encoding="utf-8")
        case "bz2":
            return bz2.open(path, "wt", encoding="utf-8")
    return path.open("w", encoding="utf-8")
