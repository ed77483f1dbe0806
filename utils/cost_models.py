"""Compute what an event costs, in seconds, if it is accepted at exit 1 and if it is offloaded."""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils.csv_tables import read_csv
from utils.errors import InputFileError
from utils.results import Evaluation

MILLISECONDS: Final = 1e-3
_COLUMNS: Final = ("batch_size", "request_process_time")

FloatArray = NDArray[np.float64]


def compute_event_costs(
    evaluation: Evaluation, model: str = "paper", cost_per_offload: float | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return the cost of each event in seconds: if accepted at exit 1 (N,), and if offloaded (N,).

    Args:
        evaluation: holds the time of each part of the network for each event.
        model: the parts whose times are added up. ``paper``: all parts that the event passes, but, as published,
            without exit 1 for an offloaded event. ``full``: all parts that the event passes; every event passes exit 1.
            ``edge``: segment 1 and exit 1, which the edge computes, and ``cost_per_offload`` for an offloaded event.
        cost_per_offload: processor seconds that the edge needs to send an event; only for ``edge``.

    Raises:
        ValueError: ``model`` is ``edge``, and ``cost_per_offload`` is None.
    """
    exit_1 = evaluation.time_segment_1 + evaluation.time_exit_1
    if model == "edge":
        if cost_per_offload is None:
            raise ValueError("the cost model edge needs cost_per_offload")
        return exit_1, exit_1 + cost_per_offload
    exit_2 = evaluation.time_segment_1 + evaluation.time_segment_2 + evaluation.time_exit_2
    return exit_1, exit_2 + evaluation.time_exit_1 if model == "full" else exit_2


_MOST: Final = 1e15
"""Largest accepted number of events or milliseconds of a request: above any real value, but sums cannot overflow."""


def read_cost_per_offload(path: Path, where: dict[str, str]) -> float:
    """Return the processor time in seconds that the edge needs to send an event, averaged over measured requests.

    Args:
        path: TSV with a row for each kind of request. Its column ``batch_size`` is the number of events in a request,
            ``request_process_time`` the processor time of the edge for the request, in milliseconds.
        where: maps columns to values; only rows with all these values are used.

    Raises:
        InputFileError: the file is missing, is not such a table, or has no row with these values.
    """
    columns, kind = (*_COLUMNS, *where), "a table of offload timings"
    table = read_csv(path, InputFileError, columns, kind, "name another file", "\t")
    for name, value in where.items():
        chosen = table[table[name].astype(str) == value]
        if chosen.empty:
            found = ", ".join(sorted(table[name].astype(str).unique()))
            raise InputFileError(f"{path}: has no row with {name} = {value}; choose from {found}")
        table = chosen
    size, milliseconds = (pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64) for name in _COLUMNS)
    if not ((size >= 1) & (milliseconds >= 0) & (size <= _MOST) & (milliseconds <= _MOST)).all():
        raise InputFileError(f"{path}: holds a {_COLUMNS[0]} under 1, or a {_COLUMNS[1]} that is no number; correct it")
    costs = milliseconds / size
    return MILLISECONDS * float(costs.mean())
