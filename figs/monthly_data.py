"""Collect the data of the figures by month: rates of the networks, and the offloaded and rejected shares."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

import models
from figs.figure_data import (
    SINGLE,
    FigureData,
    Inputs,
    describe_points,
    get_display_name,
    list_missing_fronts,
    list_missing_months,
)
from figs.results_folder import SINGLE_EXIT, TWO_EXITS, EvaluationFile, ResultsFolder
from utils.decision import DecisionCounts, Decisions
from utils.results import SingleExitEvaluation, read_evaluation, read_single_exit_evaluation

AT_POINT: Final = "two exits"

SINGLE_EXIT_COLUMNS: Final = ("network", "month", "events", "true_positive_rate", "true_negative_rate", "error")
AT_POINT_COLUMNS: Final = ("network", "month", "system", "events", "accepted", "accuracy", "f1")
REJECTION_COLUMNS: Final = ("network", "month", "events", "rejected_share", "offloaded_share")

Acceptances = dict[str, list[float]]
"""Network -> the share of events that it accepts in each month."""


def count_single_exit(evaluation: SingleExitEvaluation) -> DecisionCounts:
    """Count the answers of a single exit, which accepts every event."""
    all_events = np.ones(len(evaluation), dtype=np.bool_)
    return Decisions(evaluation.labels, all_events, ~all_events, evaluation.prediction).count()


def collect_single_exit(inputs: Inputs) -> FigureData:
    """Return the single exits' rates; columns ``SINGLE_EXIT_COLUMNS``, rates within [0, 1]."""
    rows = []
    files = list(_iterate_files(inputs.results, SINGLE_EXIT))
    for file in files:
        found = count_single_exit(read_single_exit_evaluation(file.path))
        specificity = 1 - found.false_positive_rate
        rows.append((file.network, file.month, found.rows, found.true_positive_rate, specificity, found.error))
    return FigureData(
        pd.DataFrame(rows, columns=list(SINGLE_EXIT_COLUMNS)),
        "True positive rate, true negative rate and error of the conventional single-exit networks by month",
        [file.path for file in files],
        list_missing_months(inputs.results, SINGLE_EXIT),
    )


def collect_operating_point(inputs: Inputs) -> FigureData:
    """Return accuracy and F1 of two exits and of the single exit; columns ``AT_POINT_COLUMNS``."""
    rows, files = [], []
    acceptances: Acceptances = {}
    for file, found in _decide_at_point(inputs):
        rows.append((file.network, file.month, AT_POINT, found.rows, found.accepted, found.accuracy, found.f1))
        files.append(file.path)
        acceptances.setdefault(file.network, []).append(found.acceptance)
    for file in _iterate_files(inputs.results, SINGLE_EXIT):
        if file.network in acceptances:
            found = count_single_exit(read_single_exit_evaluation(file.path))
            rows.append((file.network, file.month, SINGLE, found.rows, found.accepted, found.accuracy, found.f1))
            files.append(file.path)
    return FigureData(
        pd.DataFrame(rows, columns=list(AT_POINT_COLUMNS)),
        "Accuracy and F1 by month, of the events that two exits accept at the operating point "
        f"({describe_points(inputs)}) and of all events at the single exit{_remark_acceptance(inputs, acceptances)}",
        [*_list_fronts(inputs), *files],
        [
            *list_missing_fronts(inputs),
            *list_missing_months(inputs.results, TWO_EXITS),
            *list_missing_months(inputs.results, SINGLE_EXIT),
        ],
    )


def collect_rejection(inputs: Inputs) -> FigureData:
    """Return the shares of all events that are rejected and offloaded at the operating point, by month.

    Returns:
        columns ``REJECTION_COLUMNS``.
    """
    rows, files = [], []
    acceptances: Acceptances = {}
    for file, found in _decide_at_point(inputs):
        rows.append((file.network, file.month, found.rows, found.rejected_share, found.offloaded_share))
        files.append(file.path)
        acceptances.setdefault(file.network, []).append(found.acceptance)
    return FigureData(
        pd.DataFrame(rows, columns=list(REJECTION_COLUMNS)),
        "Share of all events that is offloaded, and that is rejected, by month at the operating point "
        f"({describe_points(inputs)}){_remark_acceptance(inputs, acceptances)}",
        [*_list_fronts(inputs), *files],
        [*list_missing_fronts(inputs), *list_missing_months(inputs.results, TWO_EXITS)],
    )


def _remark_acceptance(inputs: Inputs, acceptances: Acceptances) -> str:
    """Return a remark if no month reaches the acceptance in a front's file name, as with the published fronts."""
    found = []
    for network, reached in acceptances.items():
        promised = re.search(r"_x_f_([01]\.\d+)_", inputs.operating_points[network].path.name)
        if promised is not None and max(reached) < float(promised[1]):
            found.append(f"{promised[1]} of {get_display_name(network)}, at most {max(reached):.2f} here")
    return (
        f", though no month keeps the acceptance that the front's name promises ({', '.join(found)})" if found else ""
    )


def _iterate_files(results: ResultsFolder, kind: str) -> Iterator[EvaluationFile]:
    for network in models.FAMILIES:
        yield from results.list_by_month(kind, network)


def _decide_at_point(inputs: Inputs) -> Iterator[tuple[EvaluationFile, DecisionCounts]]:
    for file in _iterate_files(inputs.results, TWO_EXITS):
        point = inputs.operating_points.get(file.network)
        if point is not None:
            yield file, read_evaluation([file.path]).decide(point.thresholds).count()


def _list_fronts(inputs: Inputs) -> list[Path]:
    return [point.path for point in inputs.operating_points.values()]
