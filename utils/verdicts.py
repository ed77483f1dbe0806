"""Read verdicts, which the client and ``dnn/inference.py`` write: the answers of both exits to each event."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils.csv_tables import read_header, read_text_in_chunks
from utils.csv_text import describe_cell, describe_row
from utils.errors import ResultFileError
from utils.files import ByteProgress, ignore_progress
from utils.schema import CLASS, CLASS_COUNT, IDENTITY, INFERENCE_COLUMNS, NOT_ASKED, OFFLOAD_COLUMNS, REJECTED

_FINAL: Final = "final_prediction"
_KNOWN: Final = (*OFFLOAD_COLUMNS, *IDENTITY)
_REMEDY: Final = "write one with the client's --savefile or with dnn/inference.py"


@dataclass(frozen=True)
class Verdicts:
    """The answers of both exits on N events.

    Attributes:
        prediction_1: (N,) int8.
        certainty_1: (N,) float64 within [0, 1].
        prediction_2: (N,) int8; -1 if exit 2 was not computed.
        certainty_2: (N,) float64; NaN if exit 2 was not computed.
        is_rejected: (N,) bool, also if the traffic had changed; never set where nothing was decided, as by
            ``dnn/inference.py``.
        is_decided_2: (N,) bool, whether the answer of exit 2 counts: where it was asked or, if nothing was decided,
            where it is more certain than exit 1.
        labels: (N,) int8, true classes; -1 where they are unknown, as in most files.
    """

    prediction_1: NDArray[np.int8]
    certainty_1: NDArray[np.float64]
    prediction_2: NDArray[np.int8]
    certainty_2: NDArray[np.float64]
    is_rejected: NDArray[np.bool_]
    is_decided_2: NDArray[np.bool_]
    labels: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.prediction_1)

    @property
    def prediction(self) -> NDArray[np.int8]:
        """The prediction (N,) of the exit that counts."""
        return np.where(self.is_decided_2, self.prediction_2, self.prediction_1)

    @property
    def certainty(self) -> NDArray[np.float64]:
        """The certainty (N,) of that prediction."""
        return np.where(self.is_decided_2, self.certainty_2, self.certainty_1)


def is_verdicts(path: Path) -> bool:
    """Return whether a CSV file has the columns of verdicts.

    Raises:
        ResultFileError: the file is missing, or is not text.
    """
    return set(INFERENCE_COLUMNS) <= set(read_header(path, ResultFileError, _KNOWN))


def read_verdicts(path: Path, progress: ByteProgress = ignore_progress) -> Verdicts:
    """Read a CSV of verdicts in chunks.

    Args:
        path: CSV, plain or compressed with gzip or bzip2.
        progress: called after each chunk.

    Raises:
        ResultFileError: the file is missing or damaged, has other columns or no rows, or a value is out of range.
    """
    names = read_header(path, ResultFileError, _KNOWN)
    if missing := [name for name in INFERENCE_COLUMNS if name not in names]:
        found = ", ".join(names)[:200]
        raise ResultFileError(
            f"{path}: holds no verdicts, it lacks {', '.join(missing[:3])} and has {found}; {_REMEDY}"
        )
    columns = [*INFERENCE_COLUMNS, *(name for name in (_FINAL, CLASS) if name in names)]
    parts, rows = list[Verdicts](), 0
    for chunk in read_text_in_chunks(path, ResultFileError, columns, progress):
        parts.append(_check_chunk(chunk, path, rows))
        rows += len(chunk)
    if not rows:
        raise ResultFileError(f"{path}: has a header but no rows; {_REMEDY}")
    return join_verdicts(parts)


def join_verdicts(parts: list[Verdicts]) -> Verdicts:
    """Return the events of all parts, one or more, in order."""
    names = [field.name for field in fields(Verdicts)]
    return Verdicts(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _check_chunk(chunk: pd.DataFrame, path: Path, rows_before: int) -> Verdicts:
    def parse(name: str, is_needed: NDArray[np.bool_], default: float) -> NDArray[np.float64]:
        values = pd.to_numeric(chunk[name], errors="coerce").to_numpy(np.float64)
        is_certainty = name.endswith("certainty")
        right = (values >= 0) & (values <= 1) if is_certainty else np.isin(values, np.arange(CLASS_COUNT))
        wrong = is_needed & ~right
        if wrong.any():
            row = int(np.argmax(wrong))
            allowed = "a certainty between 0 and 1" if is_certainty else "0 or 1"
            raise ResultFileError(
                f"{path}: {describe_row(rows_before + row)}, column {name!r} {describe_cell(chunk[name].iloc[row])}; "
                f"it must be {allowed}"
            )
        return np.where(is_needed, values, default)

    def is_given(name: str, otherwise: str) -> NDArray[np.bool_]:
        return (chunk[name] != otherwise).to_numpy(np.bool_)

    certain_1, predicted_1, certain_2, predicted_2 = INFERENCE_COLUMNS
    every, is_asked = np.ones(len(chunk), dtype=np.bool_), is_given(predicted_2, NOT_ASKED)
    certainty_1, prediction_1 = parse(certain_1, every, 0), parse(predicted_1, every, 0)
    certainty_2, prediction_2 = parse(certain_2, is_asked, np.nan), parse(predicted_2, is_asked, -1)
    is_rejected, is_decided_2 = ~every, certainty_2 > certainty_1
    if _FINAL in chunk:
        is_rejected, is_decided_2 = ~is_given(_FINAL, REJECTED), is_asked
        parse(_FINAL, ~is_rejected, 0)
    labels = parse(CLASS, is_given(CLASS, NOT_ASKED), -1) if CLASS in chunk else np.full(len(chunk), -1)
    return Verdicts(
        prediction_1.astype(np.int8), certainty_1, prediction_2.astype(np.int8), certainty_2, is_rejected, is_decided_2,
        labels.astype(np.int8),
    )  # fmt: skip


def read_identities(
    path: Path, rows: NDArray[np.intp], progress: ByteProgress = ignore_progress
) -> pd.DataFrame | None:
    """Return the columns of ``schema.IDENTITY`` of some rows as text; None if the file lacks one of them.

    Args:
        path: CSV of verdicts.
        rows: (n,) numbers of rows from 0, ascending.
        progress: called after each chunk.

    Raises:
        ResultFileError: the file is missing or damaged, or lacks a row.
    """
    if not set(IDENTITY) <= set(read_header(path, ResultFileError, _KNOWN)):
        return None
    parts, before = list[pd.DataFrame](), 0
    for chunk in read_text_in_chunks(path, ResultFileError, IDENTITY, progress):
        start, stop = np.searchsorted(rows, (before, before + len(chunk)))
        parts.append(chunk.iloc[rows[start:stop] - before])
        before += len(chunk)
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(IDENTITY))
    if len(found) < len(rows):
        raise ResultFileError(f"{path}: has become shorter while it was read; repeat the command")
    return found
