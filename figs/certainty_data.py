"""Collect the data of the figures on certainty: calibration, and the Pareto fronts of thresholds."""

from typing import Final

import numpy as np
import pandas as pd

import models
from figs.figure_data import FigureData, Inputs, get_display_name, list_missing_fronts
from figs.results_folder import CALIBRATION_MONTH, TWO_EXITS, UNCALIBRATED, EvaluationFile
from utils.classification_metrics import ECE_BINS, bin_by_certainty, compute_calibration_error
from utils.results import Evaluation, read_evaluation

CALIBRATED: Final = "calibrated"
BEFORE: Final = "uncalibrated"

RELIABILITY_COLUMNS: Final = (
    "network", "exit", "certainties", "month", "least", "most", "events", "mean_certainty", "accuracy", "ece",
)  # fmt: skip
FRONT_COLUMNS: Final = (
    "network", "point", "error", "time", "quality", "normal_exit_1", "attack_exit_1", "normal_exit_2", "attack_exit_2",
    "operating_point",
)  # fmt: skip


def compute_reliability(evaluation: Evaluation) -> pd.DataFrame:
    """Return the non-empty bins of both exits; columns ``RELIABILITY_COLUMNS`` without network, certainties, month."""
    tables = []
    answers = (
        (1, evaluation.prediction_1, evaluation.certainty_1),
        (2, evaluation.prediction_2, evaluation.certainty_2),
    )
    edges = np.linspace(0, 1, ECE_BINS + 1)
    for number, prediction, certainty in answers:
        correct = prediction == evaluation.labels
        counts, mean_certainty, accuracy = bin_by_certainty(certainty, correct)
        columns = {
            "exit": number,
            "least": edges[:-1],
            "most": edges[1:],
            "events": counts,
            "mean_certainty": mean_certainty,
            "accuracy": accuracy,
            "ece": compute_calibration_error(certainty, correct),
        }
        tables.append(pd.DataFrame(columns)[counts > 0])
    return pd.concat(tables, ignore_index=True)


def collect_reliability(inputs: Inputs) -> FigureData:
    """Return reliability bins of both networks and exits; columns ``RELIABILITY_COLUMNS``."""
    tables, files, missing = [], [], []
    for network in models.FAMILIES:
        chosen = find_reliability_files(inputs, network)
        if TWO_EXITS not in chosen:
            missing.append(f"evaluations of two exits of {get_display_name(network)}")
        elif UNCALIBRATED not in chosen:
            missing.append(f"evaluations of two exits of {get_display_name(network)} before calibration")
        for kind, file in chosen.items():
            table = compute_reliability(read_evaluation([file.path]))
            certainties = BEFORE if kind == UNCALIBRATED else CALIBRATED
            tables.append(table.assign(network=network, certainties=certainties, month=file.month))
            files.append(file.path)
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(RELIABILITY_COLUMNS))
    return FigureData(
        table[list(RELIABILITY_COLUMNS)],
        f"Accuracy by certainty ({ECE_BINS} bins of equal width) and expected calibration error (ECE) of both exits, "
        "with and without calibration",
        files,
        missing,
    )


def find_reliability_files(inputs: Inputs, network: str) -> dict[str, EvaluationFile]:
    """Return kind -> evaluation, all of one month.

    Months after the calibration month are preferred, then months with evaluations of both kinds, then earlier months.
    """
    provenance = inputs.results.provenance
    calibrated_on = CALIBRATION_MONTH if provenance is None else provenance.calibration_month
    kinds = {
        kind: {file.month: file for file in inputs.results.list_by_month(kind, network)}
        for kind in (TWO_EXITS, UNCALIBRATED)
    }
    months = sorted(set().union(*kinds.values()))
    if not months:
        return {}
    best = min(months, key=lambda month: (month <= calibrated_on, -sum(month in there for there in kinds.values())))
    return {kind: there[best] for kind, there in kinds.items() if best in there}


def collect_fronts(inputs: Inputs) -> FigureData:
    """Return the points of the fronts; columns ``FRONT_COLUMNS``."""
    tables, files = [], []
    for network, chosen in inputs.operating_points.items():
        table = chosen.front.rename(columns=dict(zip(("n_1", "a_1", "n_2", "a_2"), FRONT_COLUMNS[5:9], strict=True)))
        tables.append(table.assign(network=network, operating_point=table.index == chosen.row))
        files.append(chosen.path)
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(FRONT_COLUMNS))
    return FigureData(
        table[list(FRONT_COLUMNS)],
        "Pareto front of the thresholds, error of the accepted events against normalised time, and the operating point",
        files,
        list_missing_fronts(inputs),
    )
