"""What an event costs, by whom it is decided: the cost models."""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils.csv_tables import read_csv
from utils.errors import InputFileError
from utils.files import check_readable
from utils.results import Evaluation

COST_MODELS: Final = ("paper", "full", "edge")
MILLISECONDS: Final = 1e-3
TIMING_COLUMNS: Final = ("batch_size", "request_process_time")

FloatArray = NDArray[np.float64]


def event_costs(
    evaluation: Evaluation, model: str = "paper", cost_per_offload: float | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return what each event costs in seconds, decided at exit 1 (N,), and offloaded (N,).

    Args:
        evaluation: the cost of each part of the network, for each event.
        model: ``paper``: a whole path through the network, as published, without head 1 for an offloaded event;
            ``full``: the same with head 1, which every event runs through; ``edge``: what the edge pays alone,
            segment 1 and head 1, and for an offloaded event its sending.
        cost_per_offload: seconds that the edge spends to send an event; for ``edge`` alone.
    """
    exit_1 = evaluation.time_segment_1 + evaluation.time_exit_1
    if model == "edge":
        if cost_per_offload is None:
            raise ValueError("the cost model of the edge needs the cost of an offloaded event")
        return exit_1, exit_1 + cost_per_offload
    exit_2 = evaluation.time_segment_1 + evaluation.time_segment_2 + evaluation.time_exit_2
    return exit_1, exit_2 + evaluation.time_exit_1 if model == "full" else exit_2


_MOST: Final = 1e15
"""Events, or milliseconds, of a request: beyond any, and no sum of them overflows."""


def read_cost_per_offload(path: Path, where: dict[str, str]) -> float:
    """Return the seconds of processor time that the edge spends to send an event, from a table of measured requests.

    Args:
        path: TSV with a row for each kind of request, its columns ``TIMING_COLUMNS`` among others: events in a request,
            and milliseconds of the edge's processor for one.
        where: column -> value that the rows to be used have; of several rows the mean is taken.

    Raises:
        InputFileError: the file is missing, is no such table, or has no such row.
    """
    check_readable(path, InputFileError)
    table = read_csv(path, InputFileError, TIMING_COLUMNS, "\t")
    missing = [name for name in (*TIMING_COLUMNS, *where) if name not in table]
    if missing:
        raise InputFileError(
            f"{path}: is no table of offload timings, it lacks {missing[0]!r} and has {', '.join(map(str, table))}"
        )
    if table.empty:
        raise InputFileError(f"{path}: has no rows")
    for name, value in where.items():
        chosen = table[table[name].astype(str) == value]
        if chosen.empty:
            found = ", ".join(sorted(table[name].astype(str).unique()))
            raise InputFileError(f"{path}: has no row with {name} = {value}; among the rows left there are {found}")
        table = chosen
    size, milliseconds = (pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64) for name in TIMING_COLUMNS)
    if not ((size >= 1) & (milliseconds >= 0) & (size <= _MOST) & (milliseconds <= _MOST)).all():
        raise InputFileError(f"{path}: holds a {TIMING_COLUMNS[0]} under 1, or a {TIMING_COLUMNS[1]} that is no number")
    costs = milliseconds / size
    return MILLISECONDS * float(costs.mean())
