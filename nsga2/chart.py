"""A Pareto front as a table, as a picture, and as the client's command line."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from utils.plotting import new_figure
from utils.results import Front
from utils.schema import Thresholds

COLUMNS = ("quality", "error", "time", "n_1", "a_1", "n_2", "a_2")


def quality(objectives: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how near each point (k, 2) comes to the ideal, within [0, 1], 1 being best (k,).

    The ideal has the least error and the least time of the front; each objective is scaled by its range over the front.
    """
    spread = objectives.max(axis=0) - objectives.min(axis=0)
    scaled = (objectives - objectives.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    result: NDArray[np.float64] = 1.0 - np.hypot(*scaled.T) / np.sqrt(2.0)
    return result


def front_table(front: Front) -> pd.DataFrame:
    """Return the distinct points of a front, fastest first, with the columns ``COLUMNS``.

    error is wrong / accepted, time is normalised, n and a are the thresholds of the classes normal and attack at exits
    1 and 2.
    """
    values = np.column_stack((quality(front.objectives), front.objectives, front.thresholds))
    table = pd.DataFrame(values, columns=list(COLUMNS))
    # Points of equal objectives are one operating point; the first stands for them.
    table = table.drop_duplicates(subset=["error", "time"])
    return table.sort_values(["time", "error"], ignore_index=True)


def thresholds_of(table: pd.DataFrame, point: int) -> Thresholds:
    """Return the thresholds of one row of ``front_table``."""
    return Thresholds(*(float(value) for value in table[list(COLUMNS[3:])].to_numpy()[point]))


def client_command(thresholds: Thresholds) -> str:
    """Return the edge client's command line for the thresholds; capitals stand for what the user fills in."""
    return (
        "python offload/ee-processor-client.py --mq-hostname HOST --trained-network-file M.pth --network NETWORK "
        "--dataset D.csv"
        f" --normal-exit1-min-certainty {thresholds.normal_exit_1!r}"
        f" --attack-exit1-min-certainty {thresholds.attack_exit_1!r}"
        f" --normal-exit2-min-certainty {thresholds.normal_exit_2!r}"
        f" --attack-exit2-min-certainty {thresholds.attack_exit_2!r}"
    )


def front_figure(table: pd.DataFrame, point: int, title: str) -> Figure:
    """Return the front with the chosen point marked."""
    figure, (ax,) = new_figure(width=6.4)
    ax.plot(table["time"], 100 * table["error"], marker="o", markersize=4, color="tab:blue", label="Pareto front")
    chosen = table.loc[point]
    ax.plot(
        chosen["time"],
        100 * chosen["error"],
        marker="*",
        markersize=16,
        linestyle="none",
        color="tab:red",
        label=f"operation point {point}: error {100 * chosen['error']:.2f} %, time {chosen['time']:.3f}",
    )
    ax.set(xlabel="normalised time (0: all at exit 1, 1: all at exit 2)", ylabel="error of accepted events, %")
    ax.set_title(title, parse_math=False)  # it holds a file's name, in which a $ is only a $
    ax.margins(0.05)
    ax.grid(alpha=0.3)
    ax.legend()
    return figure
