"""Draw what a certificate allows: the error that is certified against the acceptance."""

from matplotlib.figure import Figure

from nsga2.certification import Certified, Goal
from utils.plotting import new_figure


def draw_certificate(certified: Certified, goal: Goal) -> Figure:
    """Draw the lowest limits of all proposed thresholds, with the limit and the chosen thresholds."""
    figure, (ax,) = new_figure(width=6.8)
    proposed = 100 * certified.acceptances
    ax.plot(proposed, 100 * certified.errors, ".", color="tab:gray", label="measured error")
    ax.plot(
        proposed, 100 * certified.bounds, "_", markersize=8, color="tab:blue",
        label=f"lowest limit of each by itself (confidence {goal.confidence:g})",
    )  # fmt: skip
    ax.axhline(100 * goal.max_error, color="tab:red", linewidth=1, label=f"limit: {100 * goal.max_error:g} %")
    chosen = certified.accepted / certified.rows
    ax.plot(
        100 * chosen, 100 * certified.bound, marker="*", markersize=16, linestyle="none", color="tab:red",
        label=f"certified: {100 * chosen:.1f} % accepted",
    )  # fmt: skip
    ax.set(xlabel="accepted events, %", ylabel="error of accepted events, %")
    ax.set_title(f"tested on {certified.rows} rows")
    ax.margins(0.05)
    ax.grid(alpha=0.3)
    ax.legend()
    return figure
