"""Read and write result files: CSV tables, evaluation CSVs, and NSGA-II result files."""

import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype

from utils import plain_pickle
from utils.csv_tables import read_csv
from utils.csv_text import describe_cell, describe_row, escape_formula
from utils.decision import Decisions, decide
from utils.errors import ResultFileError
from utils.files import COMPRESSIONS, check_readable, check_table_ending, replacing
from utils.schema import CLASS_COUNT, EVALUATION_COLUMNS, SINGLE_EXIT_EVALUATION_COLUMNS, Thresholds

_LARGEST_RESULT_FILE: Final = 4 * 2**20
_MOST_SECONDS: Final = 1e12
"""Largest accepted time of an event: above any real value, but sums of such times cannot overflow."""
_REMEDY: Final = "write it again with nsga2/nsga2_2variables.py"


def write_table(table: pd.DataFrame, path: Path, delimiter: str = ",", float_format: str | None = None) -> None:
    """Write a table as CSV, atomically. Text is escaped, so that no spreadsheet runs it as a formula.

    Args:
        table: numbers and text.
        path: the file to write; it is compressed if it ends in .gz or .bz2.
        delimiter: character between cells.
        float_format: format of fractions, such as ``%.9g``; None: with as many digits as are needed to read them back.

    Raises:
        InputFileError: the file cannot be written, or its ending names another format.
    """
    check_table_ending(path)
    safe = table.copy(deep=False)
    for name, column in table.items():
        if not is_numeric_dtype(column):
            safe[name] = column.map(_escape_cell)
    safe = safe.rename(columns=_escape_cell)
    with replacing(path) as partial:
        compression = COMPRESSIONS.get(path.suffix.lower())
        safe.to_csv(partial, index=False, sep=delimiter, float_format=float_format, compression=compression)


def _escape_cell(cell: object) -> object:
    return escape_formula(cell) if isinstance(cell, str) else cell


@dataclass(frozen=True)
class Evaluation:
    """Predictions, certainties and times of two exits on N labelled rows.

    Attributes:
        labels: (N,) int64.
        prediction_1, prediction_2: (N,) int64, predicted classes.
        certainty_1, certainty_2: (N,) float64 within [0, 1], of the predicted classes.
        time_segment_1, time_exit_1, time_segment_2, time_exit_2: (N,) float64, seconds per event of each part.
    """

    labels: NDArray[np.int64]
    prediction_1: NDArray[np.int64]
    certainty_1: NDArray[np.float64]
    time_segment_1: NDArray[np.float64]
    time_exit_1: NDArray[np.float64]
    prediction_2: NDArray[np.int64]
    certainty_2: NDArray[np.float64]
    time_segment_2: NDArray[np.float64]
    time_exit_2: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.intp]) -> "Evaluation":
        """Return the rows with the given indices."""
        return Evaluation(*(column[rows] for column in vars(self).values()))

    def decide(self, thresholds: Thresholds) -> Decisions:
        """Decide the rows with the given thresholds."""
        first, second = (self.prediction_1, self.certainty_1), (self.prediction_2, self.certainty_2)
        return decide(self.labels, *first, *second, thresholds)


@dataclass(frozen=True)
class SingleExitEvaluation:
    """Predictions, certainties and times of a single exit on N labelled rows.

    Attributes:
        labels, prediction: (N,) int64, true and predicted classes.
        certainty: (N,) float64 within [0, 1].
        time: (N,) float64, seconds per event.
    """

    labels: NDArray[np.int64]
    prediction: NDArray[np.int64]
    certainty: NDArray[np.float64]
    time: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)


def read_evaluation(paths: Sequence[Path]) -> Evaluation:
    """Read evaluation CSVs of a network with two exits as one evaluation.

    Raises:
        ResultFileError: a file is missing, is not an evaluation CSV, or holds a value out of range.
    """
    return join_evaluations([Evaluation(*_read_columns(path, EVALUATION_COLUMNS, "two exits")) for path in paths])


def join_evaluations(parts: Sequence[Evaluation]) -> Evaluation:
    """Return the rows of one or more evaluations, one after another."""
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Evaluation(*(np.concatenate(column) for column in columns))


def read_single_exit_evaluation(path: Path) -> SingleExitEvaluation:
    """Read the evaluation CSV of a network with a single exit.

    Raises:
        ResultFileError: as for ``read_evaluation``.
    """
    return SingleExitEvaluation(*_read_columns(path, SINGLE_EXIT_EVALUATION_COLUMNS, "a single exit"))


def _read_columns(path: Path, columns: Sequence[str], kind: str) -> list[NDArray[Any]]:
    remedy = "write one with evaluations/generate-model-evaluation-csv.py"
    table = read_csv(path, ResultFileError, columns, f"an evaluation CSV of {kind}", remedy)
    return [_check_column(table, name, path) for name in columns]


def _check_column(table: pd.DataFrame, name: str, path: Path) -> NDArray[Any]:
    values = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64)
    if name.startswith("y"):
        wrong, allowed = ~np.isin(values, np.arange(CLASS_COUNT)), "0 or 1"
    elif name.startswith("cnf"):
        wrong, allowed = ~((values >= 0) & (values <= 1)), "a certainty between 0 and 1"
    else:
        wrong, allowed = ~((values >= 0) & (values <= _MOST_SECONDS)), "a time in seconds, 0 or more"
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ResultFileError(
            f"{path}: {describe_row(row)}, column {name!r} {describe_cell(table[name].iloc[row])}; it must be {allowed}"
        )
    return values.astype(np.int64) if name.startswith("y") else values


@dataclass(frozen=True)
class Front:
    """A Pareto front of thresholds: the content of an NSGA-II result file.

    Attributes:
        thresholds: (k, 4) float64: normal and attack at exit 1, normal and attack at exit 2.
        objectives: (k, 2) float64: error of accepted events, and normalised time.
        min_time, max_time: µs per event if all events are decided at exit 1, and if all are decided at exit 2.
        accuracy_1, acceptance_1: accuracy and acceptance if all events are decided at exit 1; the acceptance is 1.
        accuracy_2, acceptance_2: accuracy and acceptance if all events are decided at exit 2; the acceptance is 1.
    """

    thresholds: NDArray[np.float64]
    objectives: NDArray[np.float64]
    min_time: float
    max_time: float
    accuracy_1: float
    acceptance_1: float
    accuracy_2: float
    acceptance_2: float

    def __len__(self) -> int:
        return len(self.thresholds)


def write_front(front: Front, path: Path) -> None:
    """Write an NSGA-II result file atomically.

    Raises:
        InputFileError: the file cannot be written.
    """
    with replacing(path) as partial:
        partial.write_bytes(pickle.dumps(list(vars(front).values()), protocol=4))


def read_front(path: Path) -> Front:
    """Read an NSGA-II result file without executing anything in it.

    Raises:
        ResultFileError: the file is missing, damaged, malicious or of another kind, or a value is out of range.
    """
    if check_readable(path, ResultFileError).stat().st_size > _LARGEST_RESULT_FILE:
        raise ResultFileError(f"{path}: is larger than any NSGA-II result file; {_REMEDY}")
    try:
        content = plain_pickle.load(path.read_bytes())
    except plain_pickle.ForbiddenError as problem:
        raise ResultFileError(f"{path}: asks for {problem}, which a result file never needs; do not trust it") from None
    except Exception as problem:  # a damaged pickle may raise almost any exception
        raise ResultFileError(f"{path}: is not an NSGA-II result file, or is cut off; {_REMEDY}") from problem
    if not isinstance(content, list) or len(content) != len(Front.__dataclass_fields__):
        raise ResultFileError(f"{path}: is not the list of 8 items that an NSGA-II result file holds; {_REMEDY}")
    thresholds, objectives = (_check_matrix(content[index], columns, path) for index, columns in ((0, 4), (1, 2)))
    if len(thresholds) != len(objectives):
        raise ResultFileError(
            f"{path}: {len(thresholds)} sets of thresholds but {len(objectives)} of objectives; {_REMEDY}"
        )
    if not ((thresholds >= 0) & (thresholds <= 1)).all():
        raise ResultFileError(f"{path}: holds a threshold outside [0, 1]; {_REMEDY}")
    return Front(thresholds, objectives, *(_check_number(value, path) for value in content[2:]))


def _check_matrix(value: object, columns: int, path: Path) -> NDArray[np.float64]:
    array = value.to_numpy() if isinstance(value, plain_pickle.PickledArray) else None
    if array is None or array.dtype.kind != "f" or array.ndim != 2 or array.shape[1] != columns:
        raise ResultFileError(f"{path}: does not hold a table of {columns} columns where it should; {_REMEDY}")
    if not np.isfinite(array).all():
        raise ResultFileError(f"{path}: holds NaN or infinity; {_REMEDY}")
    return array.astype(np.float64)


def _check_number(value: object, path: Path) -> float:
    array = value.to_numpy() if isinstance(value, plain_pickle.PickledArray) else None
    number = array.item() if array is not None and array.size == 1 else value
    if not isinstance(number, int | float):
        raise ResultFileError(f"{path}: holds no number in the place of a time or a rate; {_REMEDY}")
    if not math.isfinite(number) or number < 0:
        raise ResultFileError(f"{path}: holds {number} in the place of a time or a rate; {_REMEDY}")
    return float(number)
