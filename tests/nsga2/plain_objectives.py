"""The objectives of the search in plain code: one candidate at a time, a DataFrame filtered step by step.

The yardstick of ``nsga2.objectives``, for its results and for its speed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils.results import Evaluation
from utils.schema import ATTACK, EVALUATION_COLUMNS, NORMAL

MICROSECONDS = 1e6


class PlainScores(NamedTuple):
    """The results of one candidate: wrong / accepted (1 if nothing is accepted), µs per event, accepted / all."""

    error: float
    time: float
    acceptance: float


def plain_table(evaluation: Evaluation) -> pd.DataFrame:
    """Return an evaluation as the table that its CSV holds."""
    return pd.DataFrame(dict(zip(EVALUATION_COLUMNS, vars(evaluation).values(), strict=True)))


def plain_scores(
    table: pd.DataFrame, thresholds: Sequence[float] | NDArray[np.float64], cost_model: str = "paper"
) -> PlainScores:
    """Evaluate one candidate on an evaluation table: normal and attack at exit 1, normal and attack at exit 2."""
    normal_1, attack_1, normal_2, attack_2 = thresholds

    normal_at_1 = table[(table["y_exit_1"] == NORMAL) & (table["cnf_exit_1"] >= normal_1)]
    attack_at_1 = table[(table["y_exit_1"] == ATTACK) & (table["cnf_exit_1"] >= attack_1)]
    at_1 = pd.concat([normal_at_1, attack_at_1])

    offloaded = table.drop(at_1.index)
    normal_at_2 = offloaded[(offloaded["y_exit_2"] == NORMAL) & (offloaded["cnf_exit_2"] >= normal_2)]
    attack_at_2 = offloaded[(offloaded["y_exit_2"] == ATTACK) & (offloaded["cnf_exit_2"] >= attack_2)]
    at_2 = pd.concat([normal_at_2, attack_at_2])

    accepted = len(at_1) + len(at_2)
    wrong = (at_1["y_exit_1"] != at_1["y"]).sum() + (at_2["y_exit_2"] != at_2["y"]).sum()
    seconds = exit_1_times(at_1).sum() + exit_2_times(offloaded, cost_model).sum()
    return PlainScores(
        error=float(wrong / accepted) if accepted else 1.0,
        time=float(MICROSECONDS * seconds / len(table)),
        acceptance=accepted / len(table),
    )


def plain_normalised(table: pd.DataFrame, time: float, cost_model: str = "paper") -> float:
    """Return a time in µs, scaled so that all events at exit 1 take 0 and all at exit 2 take 1."""
    least = float(MICROSECONDS * exit_1_times(table).mean())
    most = float(MICROSECONDS * exit_2_times(table, cost_model).mean())
    return (time - least) / (most - least)


def exit_1_times(events: pd.DataFrame) -> "pd.Series[float]":
    """Return the seconds of events that exit 1 decides."""
    return events["bb_time_exit_1"] + events["exit_time_exit_1"]


def exit_2_times(events: pd.DataFrame, cost_model: str = "paper") -> "pd.Series[float]":
    """Return the seconds of offloaded events; only the full cost model counts head 1, which ran, too."""
    times = events["bb_time_exit_1"] + events["bb_time_exit_2"] + events["exit_time_exit_2"]
    return times + events["exit_time_exit_1"] if cost_model == "full" else times
