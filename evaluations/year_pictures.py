"""Draw the pictures of the report on a year; a system has the same colour in all of them."""

from typing import Final, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluations.baselines import BOOSTING, MAJORITY, REJECT, RULE
from evaluations.later_months import BOUND, EXIT_1, EXIT_2, SYSTEM
from evaluations.monthly_rates import MEAN
from evaluations.months import ALL_ROWS, SUBSETS
from utils.plotting import new_figure

# Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS: Final = {
    SYSTEM: "#0072B2",
    EXIT_1 + REJECT: "#D55E00",
    EXIT_2 + REJECT: "#009E73",
    BOOSTING + REJECT: "#CC79A7",
    RULE: "#E69F00",
    BOUND: "#666666",
}
_MARKERS: Final = dict(zip(COLOURS, "osDv^x", strict=True))


def draw_pictures(table: pd.DataFrame, comparisons: pd.DataFrame, months: list[str]) -> list[tuple[Figure, str]]:
    """Return figures with their captions.

    Args:
        table: records of ``monthly_rates.list_rates`` of the later months.
        comparisons: see ``comparisons.compare``.
        months: names of the later months, in order of time.
    """
    return [
        (
            draw_errors(table, months),
            "Error of accepted events by month, all rows: means over the networks, with a band from the lowest to the "
            f"highest. “{REJECT.strip()}”: at the acceptance of the two exits on the month of the choice. “{BOUND}” "
            "uses the month's labels: no classifier that sees only the vectors has a lower error on all rows.",
        ),
        (
            draw_differences(comparisons),
            "Error of the two exits minus that of another system, mean over the later months, with 95 % intervals. "
            "Left of zero, the two exits err less. An interval that holds zero shows no difference. The "
            f"{MAJORITY} is left out because it is off the scale.",
        ),
        (
            draw_offloaded(table, months),
            "Offloaded events, all rows, by whether exit 2 accepts them: means over the networks. All other events are "
            "accepted at exit 1.",
        ),
    ]


def draw_errors(table: pd.DataFrame, months: list[str]) -> Figure:
    """Draw the error of accepted events by month, for the systems in ``COLOURS``."""
    figure, (ax,) = new_figure(width=8.6, height=4.4)
    rows = table[table["subset"] == ALL_ROWS]
    for system, colour in COLOURS.items():
        of_system = rows[rows["system"] == system]
        if of_system.empty:
            continue
        errors = 100 * of_system.pivot_table(index="month", columns="network", values="error").reindex(months)
        ax.plot(months, errors.mean(axis=1), color=colour, marker=_MARKERS[system], label=system, zorder=3)
        ax.fill_between(months, errors.min(axis=1), errors.max(axis=1), color=colour, alpha=0.15, linewidth=0)
    ax.set(ylabel="error of accepted events, %", ylim=(0, None))
    _finish(ax)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def draw_differences(comparisons: pd.DataFrame) -> Figure:
    """Draw the differences of errors with their intervals, with one axes for each subset."""
    rows = comparisons[(comparisons["month"] == MEAN) & (comparisons["system"] != MAJORITY)]
    systems = list(dict.fromkeys(rows["system"]))[::-1]
    figure, axes = new_figure(columns=len(SUBSETS), width=3.8, height=0.9 + 0.32 * len(systems))
    for ax, subset in zip(axes, SUBSETS, strict=True):
        of_subset = rows[rows["subset"] == subset].set_index("system").loc[systems]
        estimate = 100 * of_subset["estimate"].to_numpy(np.float64)
        reach = np.stack((estimate - 100 * of_subset["low"], 100 * of_subset["high"] - estimate))
        for place, system in enumerate(systems):
            ax.errorbar(
                estimate[place],
                place,
                xerr=np.nan_to_num(np.maximum(reach[:, [place]], 0)),
                color=_find_colour(system),
                marker="o",
                markersize=5,
                capsize=3,
            )
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set(title=subset, xlabel="difference of error, points", yticks=range(len(systems)))
        ax.set_yticklabels([f"{system} " for system in systems] if ax is axes[0] else [""] * len(systems))
        _finish(ax, axis="x")
    return figure


def draw_offloaded(table: pd.DataFrame, months: list[str]) -> Figure:
    """Draw the share of offloaded events by month as stacked bars: accepted at exit 2, and rejected."""
    figure, (ax,) = new_figure(width=8.6, height=3.2)
    rows = table[(table["subset"] == ALL_ROWS) & (table["system"] == SYSTEM)]
    mean = 100 * rows.groupby("month")[["acceptance", "offloaded"]].mean().reindex(months)
    rejected = 100 - mean["acceptance"]
    accepted = mean["offloaded"] - rejected
    ax.bar(months, accepted, color=COLOURS[EXIT_2 + REJECT], width=0.6, label="accepted at exit 2")
    ax.bar(months, rejected, bottom=accepted, color="#BBBBBB", width=0.6, label="rejected")
    ax.set(ylabel="share of all events, %")
    _finish(ax)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def _find_colour(system: str) -> str:
    """Return the colour of a system, regardless of how it rejects."""
    plain = system.partition(" + ")[0]
    return COLOURS.get(plain, COLOURS.get(plain + REJECT, "#333333"))


def _finish(ax: Axes, axis: Literal["x", "y"] = "y") -> None:
    ax.grid(axis=axis, alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
