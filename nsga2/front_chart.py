"""Draw a Pareto front as a picture."""

import pandas as pd
from matplotlib.figure import Figure

from nsga2.operating_point import label_point, marks
from utils.plotting import new_figure

_SHAPES = {"knee": "D", "least-error": "v", "least-cost": "s"}


def draw_front(table: pd.DataFrame, row: int, title: str) -> Figure:
    """Draw a ``build_front_table``; the chosen row and the named points are marked."""
    figure, (ax,) = new_figure(width=6.8)
    ax.plot(table["time"], 100 * table["error"], marker="o", markersize=4, color="tab:blue", label="Pareto front")
    for name, marked in marks(table).items():
        ax.plot(
            table["time"][marked],
            100 * table["error"][marked],
            marker=_SHAPES[name],
            markersize=10,
            markerfacecolor="none",
            markeredgewidth=1.5,
            linestyle="none",
            color="black",
            label=f"{name} (point {label_point(table, marked)})" if pd.notna(table["point"][marked]) else name,
        )
    chosen = table.loc[row]
    words = f"error {100 * chosen['error']:.2f} %, time {chosen['time']:.3f}"
    ax.plot(
        chosen["time"],
        100 * chosen["error"],
        marker="*",
        markersize=16,
        linestyle="none",
        color="tab:red",
        label=f"operation point {label_point(table, row)}: {words}",
    )
    ax.set(xlabel="normalised time (0: all at exit 1, 1: all at exit 2)", ylabel="error of accepted events, %")
    ax.set_title(title)
    ax.margins(0.05)
    ax.grid(alpha=0.3)
    ax.legend()
    return figure
