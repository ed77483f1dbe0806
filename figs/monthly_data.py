"""The numbers of the figures by month: how often a network is right, and what it leaves undecided."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

import models
from figs.figure_data import SINGLE, Material, Numbers, display_name, missing_fronts, missing_months, point_words
from figs.results_folder import SINGLE_EXIT, TWO_EXITS, EvaluationFile, ResultsFolder
from utils.decision import Decisions, Outcome
from utils.results import SingleExitEvaluation, read_evaluation, read_single_exit_evaluation

AT_POINT: Final = "two exits"

SINGLE_EXIT_COLUMNS: Final = ("network", "month", "events", "true_positive_rate", "true_negative_rate", "error")
AT_POINT_COLUMNS: Final = ("network", "month", "system", "events", "accepted", "accuracy", "f1")
REJECTION_COLUMNS: Final = ("network", "month", "events", "rejected_share", "offloaded_share")

Acceptances = dict[str, list[float]]
"""By network, the share of events accepted in each month."""


def single_exit_outcome(evaluation: SingleExitEvaluation) -> Outcome:
    """Count what a single exit, which decides every event, makes of them."""
    all_events = np.ones(len(evaluation), dtype=np.bool_)
    return Decisions(evaluation.labels, all_events, ~all_events, evaluation.prediction).outcome()


def single_exit_by_month(material: Material) -> Numbers:
    """Return the single exits' rates; columns ``SINGLE_EXIT_COLUMNS``, rates within [0, 1]."""
    rows = []
    files = list(_files(material.results, SINGLE_EXIT))
    for file in files:
        found = single_exit_outcome(read_single_exit_evaluation(file.path))
        specificity = 1 - found.false_positive_rate
        rows.append((file.network, file.month, found.rows, found.true_positive_rate, specificity, found.error))
    return Numbers(
        pd.DataFrame(rows, columns=list(SINGLE_EXIT_COLUMNS)),
        "True positive rate, true negative rate and error of the conventional single-exit networks by month",
        [file.path for file in files],
        missing_months(material.results, SINGLE_EXIT),
    )


def operating_point_by_month(material: Material) -> Numbers:
    """Return accuracy and F1 of two exits and of the single exit; columns ``AT_POINT_COLUMNS``."""
    rows, files = [], []
    acceptances: Acceptances = {}
    for file, found in _at_point(material):
        rows.append((file.network, file.month, AT_POINT, found.rows, found.accepted, found.accuracy, found.f1))
        files.append(file.path)
        acceptances.setdefault(file.network, []).append(found.acceptance)
    for file in _files(material.results, SINGLE_EXIT):
        if file.network in acceptances:
            found = single_exit_outcome(read_single_exit_evaluation(file.path))
            rows.append((file.network, file.month, SINGLE, found.rows, found.accepted, found.accuracy, found.f1))
            files.append(file.path)
    return Numbers(
        pd.DataFrame(rows, columns=list(AT_POINT_COLUMNS)),
        "Accuracy and F1 by month, of the events that two exits accept at the operating point "
        f"({point_words(material)}) and of all events at the single exit{_unkept(material, acceptances)}",
        [*_fronts(material), *files],
        [
            *missing_fronts(material),
            *missing_months(material.results, TWO_EXITS),
            *missing_months(material.results, SINGLE_EXIT),
        ],
    )


def rejection_by_month(material: Material) -> Numbers:
    """Return what is rejected and offloaded at the operating point; columns ``REJECTION_COLUMNS``, shares of all."""
    rows, files = [], []
    acceptances: Acceptances = {}
    for file, found in _at_point(material):
        rows.append((file.network, file.month, found.rows, found.rejected_share, found.offloaded_share))
        files.append(file.path)
        acceptances.setdefault(file.network, []).append(found.acceptance)
    return Numbers(
        pd.DataFrame(rows, columns=list(REJECTION_COLUMNS)),
        "Share of all events that is offloaded, and that is rejected, by month at the operating point "
        f"({point_words(material)}){_unkept(material, acceptances)}",
        [*_fronts(material), *files],
        [*missing_fronts(material), *missing_months(material.results, TWO_EXITS)],
    )


def _unkept(material: Material, acceptances: Acceptances) -> str:
    """Return a remark on the fronts whose name promises an acceptance that no month keeps, as with the published."""
    found = []
    for network, reached in acceptances.items():
        promised = re.search(r"_x_f_([01]\.\d+)_", material.operating_points[network].path.name)
        if promised is not None and max(reached) < float(promised[1]):
            found.append(f"{promised[1]} of {display_name(network)}, at most {max(reached):.2f} here")
    return (
        f", though no month keeps the acceptance that the front's name promises ({', '.join(found)})" if found else ""
    )


def _files(results: ResultsFolder, kind: str) -> Iterator[EvaluationFile]:
    for network in models.FAMILIES:
        yield from results.by_month(kind, network)


def _at_point(material: Material) -> Iterator[tuple[EvaluationFile, Outcome]]:
    for file in _files(material.results, TWO_EXITS):
        point = material.operating_points.get(file.network)
        if point is not None:
            yield file, read_evaluation([file.path]).decide(point.thresholds).outcome()


def _fronts(material: Material) -> list[Path]:
    return [point.path for point in material.operating_points.values()]
