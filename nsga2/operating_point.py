"""List the points of a front, choose one of them, and evaluate it on other months."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nsga2.defaults import COST_MODEL, KNEE, NAMED_POINTS, NUMBERED_POINT
from utils.classification_metrics import compute_accuracy, divide
from utils.cost_models import compute_event_costs
from utils.errors import InfeasibleError, InputFileError
from utils.results import Evaluation, Front, SingleExitEvaluation
from utils.schema import Thresholds

FloatArray = NDArray[np.float64]

THRESHOLD_COLUMNS: Final = ("n_1", "a_1", "n_2", "a_2")
COLUMNS: Final = ("point", "quality", "error", "time", *THRESHOLD_COLUMNS)
EVALUATED_COLUMNS: Final = ("acceptance", "offloaded")


def compute_quality(objectives: FloatArray) -> FloatArray:
    """Return the published quality of points: 100 * (1 - (error + time) / 2).

    Args:
        objectives: (k, 2) error of accepted events and normalised time.

    Returns:
        (k,) 100 where both are 0. Source: the authors' chart script.
    """
    result: FloatArray = 100.0 * (1.0 - objectives.sum(axis=1) / 2.0)
    return result


def compute_nearness(objectives: FloatArray) -> FloatArray:
    """Return how close points are to the ideal, which has the least error and time of the front; the knee is closest.

    Args:
        objectives: (k, 2) error of accepted events and normalised time; each is scaled by its range over the front.

    Returns:
        (k,) within [0, 1], 1 being the ideal.
    """
    spread = objectives.max(axis=0) - objectives.min(axis=0)
    scaled = (objectives - objectives.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    result: FloatArray = 1.0 - np.hypot(*scaled.T) / np.sqrt(2.0)
    return result


def has_number(objectives: FloatArray) -> NDArray[np.bool_]:
    """Return which points the published chart script numbers.

    It skips points that another point dominates, and all points that have the same error and time as another.

    Args:
        objectives: (k, 2) error of accepted events and normalised time.

    Returns:
        (k,) bool.
    """
    error, time = objectives.T
    order = np.lexsort((error, time))
    # In order of time, a point is dominated unless its error is below that of all points before it.
    least_before = np.minimum.accumulate(np.concatenate(([np.inf], error[order][:-1])))
    numbered = np.empty(len(objectives), dtype=np.bool_)
    numbered[order] = error[order] < least_before
    _, group, size = np.unique(objectives, axis=0, return_inverse=True, return_counts=True)
    result: NDArray[np.bool_] = numbered & (size[group.reshape(-1)] == 1)
    return result


def build_front_table(front: Front, evaluation: Evaluation | None = None) -> pd.DataFrame:
    """Return the distinct points of a front, fastest first, with the columns ``COLUMNS``.

    ``point`` is the published number (Int64), missing for points without one, see ``has_number``; ``error`` is wrong /
    accepted; ``time`` is normalised; n and a are the thresholds of the classes normal and attack at exits 1 and 2.

    Args:
        front: the points.
        evaluation: the one that the front was found on; it adds ``EVALUATED_COLUMNS``, shares of its events.
    """
    values = np.column_stack((compute_quality(front.objectives), front.objectives, front.thresholds))
    table = pd.DataFrame(values, columns=list(COLUMNS[1:]))
    table.insert(0, "point", has_number(front.objectives))
    # Points of equal objectives are one operating point; the first is kept.
    table = table.drop_duplicates(subset=["error", "time"]).sort_values(["time", "error"], ignore_index=True)
    table["point"] = table["point"].cumsum().sub(1).astype("Int64").where(table["point"])
    if evaluation is not None:
        counted = [evaluation.decide(get_thresholds(table, row)).count() for row in range(len(table))]
        table["acceptance"] = [counts.acceptance for counts in counted]
        table["offloaded"] = [counts.offloaded_share for counts in counted]
    return table


def find_point(table: pd.DataFrame, asked: int | str | None, path: Path) -> int:
    """Return the row of ``build_front_table`` of a numbered or named point.

    Args:
        table: the result of ``build_front_table``.
        asked: a number, one of ``NAMED_POINTS``, or None: point ``NUMBERED_POINT``, or the last one.
        path: the file of the front, for the message.

    Raises:
        InputFileError: no point has that number.
    """
    named, last = find_named_points(table), int(table["point"].max()) if table["point"].notna().any() else -1
    if isinstance(asked, str):
        return named[asked]
    if asked is None:
        if last < 0:
            return named[KNEE]
        asked = min(NUMBERED_POINT, last)
    if asked > last:
        there = f"its front has the points 0 to {last}" if last >= 0 else "no point of its front has a number"
        raise InputFileError(f"{path}: has no operation point {asked}; {there}")
    return int(np.flatnonzero((table["point"] == asked).fillna(False))[0])


def label_point(table: pd.DataFrame, row: int) -> str:
    """Return the number of a row of ``build_front_table``; if it has none, its name or "without a number"."""
    number = table["point"][row]
    if not pd.isna(number):
        return str(number)
    return next((name for name, marked in find_named_points(table).items() if marked == row), "without a number")


def get_thresholds(table: pd.DataFrame, row: int) -> Thresholds:
    """Return the thresholds of one row of ``build_front_table``."""
    return Thresholds(*(float(value) for value in table[list(THRESHOLD_COLUMNS)].to_numpy()[row]))


def find_named_points(table: pd.DataFrame) -> dict[str, int]:
    """Return the row of ``build_front_table`` of each of the ``NAMED_POINTS``: name -> row."""
    objectives = table[["error", "time"]].to_numpy()
    found = (int(compute_nearness(objectives).argmax()), int(objectives[:, 0].argmin()), 0)
    return dict(zip(NAMED_POINTS, found, strict=True))


@dataclass(frozen=True)
class Limits:
    """The limits of an operating point; None: no limit.

    Attributes:
        error: wrong / accepted.
        time: normalised.
        offloaded: offloaded / all.
    """

    error: float | None = None
    time: float | None = None
    offloaded: float | None = None

    def list_given(self) -> dict[str, float]:
        """Return column -> limit, without those that are None."""
        return {field.name: limit for field in fields(self) if (limit := getattr(self, field.name)) is not None}


def choose_within(table: pd.DataFrame, limits: Limits) -> int:
    """Return the row of a front table within limits: the fastest if the error is limited, else that of least error.

    Raises:
        InfeasibleError: no point is within the limits.
        InputFileError: the offloaded share is limited, but the table does not hold it.
    """
    given = limits.list_given()
    if given.keys() - set(table):
        raise InputFileError(
            "the front does not hold the offloaded share; give the evaluation CSV that it was found on with --eval-file"
        )
    values = table[list(given)].to_numpy()
    # The margin absorbs rounding errors, so that a limit equal to the value of a point includes the point.
    kept = np.flatnonzero((values <= np.array(list(given.values())) + 1e-9).all(axis=1))
    if len(kept):
        return int(kept[0] if limits.error is not None else kept[table["error"].to_numpy()[kept].argmin()])
    asked = " and ".join(f"{name} of at most {limit:g}" for name, limit in given.items())
    least = ", ".join(f"{name} {least:.4f}" for name, least in zip(given, values.min(axis=0), strict=True))
    raise InfeasibleError(f"no point of the front has an {asked}; the lowest values of any point: {least}")


@dataclass(frozen=True)
class CostModel:
    """A cost model and its cost per offload in seconds; see ``utils.cost_models.compute_event_costs``."""

    name: str = COST_MODEL
    cost_per_offload: float | None = None

    def find_mean(self, evaluation: Evaluation, thresholds: Thresholds) -> float:
        """Return the mean cost of an event in seconds."""
        at_1, offloaded = compute_event_costs(evaluation, self.name, self.cost_per_offload)
        return float(np.where(evaluation.decide(thresholds).at_1, at_1, offloaded).mean())


def evaluate_point(
    names: Sequence[str],
    evaluations: Sequence[Evaluation],
    singles: Sequence[SingleExitEvaluation],
    thresholds: Thresholds,
    costs: CostModel,
) -> pd.DataFrame:
    """Return the rates of an operating point on evaluations, a row for each.

    ``error`` to ``f1`` are rates of the accepted events; ``acceptance`` and ``offloaded`` are shares of all events.
    ``cost`` is in µs per event; ``of_whole_path`` and ``of_single_exit`` are the cost divided by that of the whole path
    through exit 2, and by that of the single-exit network.

    Args:
        names: of the evaluations, for the column ``data``.
        evaluations: of the network on other months.
        singles: evaluations of the single-exit network on the same months, or none; they add the columns
            ``single_exit_error`` and ``of_single_exit``.
        thresholds: the operating point.
        costs: the cost model.
    """
    rows = []
    for number, (name, evaluation) in enumerate(zip(names, evaluations, strict=True)):
        counts = evaluation.decide(thresholds).count()
        cost = costs.find_mean(evaluation, thresholds)
        whole = float((evaluation.time_segment_1 + evaluation.time_segment_2 + evaluation.time_exit_2).mean())
        row = {
            "data": name,
            "rows": counts.rows,
            "acceptance": counts.acceptance,
            "error": counts.error,
            "true_positive_rate": counts.true_positive_rate,
            "false_positive_rate": counts.false_positive_rate,
            "precision": counts.precision,
            "f1": counts.f1,
            "offloaded": counts.offloaded_share,
            "cost": 1e6 * cost,
            "of_whole_path": divide(cost, whole),
        }
        if singles:
            single = singles[number]
            row["single_exit_error"] = 1.0 - compute_accuracy(single.prediction, single.labels)
            row["of_single_exit"] = divide(cost, float(single.time.mean()))
        rows.append(row)
    return pd.DataFrame(rows)


def format_client_command(thresholds: Thresholds) -> str:
    """Return the edge client's command line for the thresholds; the user replaces the words in capitals."""
    return (
        "python offload/ee-processor-client.py --mq-hostname HOST --trained-network-file M.pth --network NETWORK "
        f"--dataset D.csv {' '.join(thresholds.make_options())}"
    )
