"""The numbers of the figures on certainty: how well it is calibrated, and what thresholds on it can reach."""

from typing import Final

import numpy as np
import pandas as pd

import models
from figs.figure_data import Material, Numbers, display_name, missing_fronts
from figs.results_folder import TWO_EXITS, UNCALIBRATED, EvaluationFile
from utils.metrics import ECE_BINS, expected_calibration_error, reliability_bins
from utils.results import Evaluation, read_evaluation

CALIBRATED: Final = "calibrated"
BEFORE: Final = "uncalibrated"
CALIBRATION_MONTH: Final = "2016_02"
"""What the published networks, and ours where nothing else is said, are calibrated on."""

RELIABILITY_COLUMNS: Final = (
    "network",
    "exit",
    "certainties",
    "month",
    "least",
    "most",
    "events",
    "mean_certainty",
    "accuracy",
    "ece",
)
FRONT_COLUMNS: Final = (
    "network",
    "point",
    "error",
    "time",
    "quality",
    "normal_exit_1",
    "attack_exit_1",
    "normal_exit_2",
    "attack_exit_2",
    "operating_point",
)


def reliability_rows(evaluation: Evaluation) -> pd.DataFrame:
    """Return the filled bins of both exits: the columns of ``RELIABILITY_COLUMNS`` that follow from the answers."""
    tables = []
    answers = (
        (1, evaluation.prediction_1, evaluation.certainty_1),
        (2, evaluation.prediction_2, evaluation.certainty_2),
    )
    edges = np.linspace(0, 1, ECE_BINS + 1)
    for number, prediction, certainty in answers:
        correct = prediction == evaluation.labels
        counts, mean_certainty, accuracy = reliability_bins(certainty, correct)
        columns = {
            "exit": number,
            "least": edges[:-1],
            "most": edges[1:],
            "events": counts,
            "mean_certainty": mean_certainty,
            "accuracy": accuracy,
            "ece": expected_calibration_error(certainty, correct),
        }
        tables.append(pd.DataFrame(columns)[counts > 0])
    return pd.concat(tables, ignore_index=True)


def reliability(material: Material) -> Numbers:
    """Return reliability bins of both networks and exits; columns ``RELIABILITY_COLUMNS``."""
    tables, files, missing = [], [], []
    for network in models.FAMILIES:
        chosen = reliability_files(material, network)
        if TWO_EXITS not in chosen:
            missing.append(f"evaluations of two exits of {display_name(network)}")
        elif UNCALIBRATED not in chosen:
            missing.append(f"evaluations of two exits of {display_name(network)} before calibration")
        for kind, file in chosen.items():
            table = reliability_rows(read_evaluation([file.path]))
            certainties = BEFORE if kind == UNCALIBRATED else CALIBRATED
            tables.append(table.assign(network=network, certainties=certainties, month=file.month))
            files.append(file.path)
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(RELIABILITY_COLUMNS))
    return Numbers(
        table[list(RELIABILITY_COLUMNS)],
        f"Accuracy by certainty ({ECE_BINS} bins of equal width) and expected calibration error (ECE) of both exits, "
        "with and without calibration",
        files,
        missing,
    )


def reliability_files(material: Material, network: str) -> dict[str, EvaluationFile]:
    """Return the evaluations of one month, by kind: of the first after calibration of which there are most kinds."""
    about = material.results.about
    calibrated_on = CALIBRATION_MONTH if about is None else about.calibration_month
    kinds = {
        kind: {file.month: file for file in material.results.by_month(kind, network)}
        for kind in (TWO_EXITS, UNCALIBRATED)
    }
    months = sorted(set().union(*kinds.values()))
    if not months:
        return {}
    best = min(months, key=lambda month: (month <= calibrated_on, -sum(month in there for there in kinds.values())))
    return {kind: there[best] for kind, there in kinds.items() if best in there}


def pareto_front(material: Material) -> Numbers:
    """Return the points of the fronts; columns ``FRONT_COLUMNS``."""
    tables, files = [], []
    for network, chosen in material.operating_points.items():
        table = chosen.front.rename(columns=dict(zip(("n_1", "a_1", "n_2", "a_2"), FRONT_COLUMNS[5:9], strict=True)))
        tables.append(table.assign(network=network, operating_point=table.index == chosen.row))
        files.append(chosen.path)
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(FRONT_COLUMNS))
    return Numbers(
        table[list(FRONT_COLUMNS)],
        "Pareto front of the thresholds, error of the accepted events against normalised time, and the operating point",
        files,
        missing_fronts(material),
    )
