"""Draw reliability diagrams: the accuracy of an exit against its certainty."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from utils.classification_metrics import bin_by_certainty, classify, compute_calibration_error
from utils.plotting import new_figure


def make_reliability_figure(
    title: str, logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float
) -> Figure:
    """Return a figure with the diagrams of one exit before and after calibration.

    Args:
        title: title of the figure, which names the exit.
        logits: (N, 2), uncalibrated.
        labels: (N,) int64.
        temperature: the temperature that the calibration found.
    """
    figure, axes = new_figure(columns=2, width=4.4)
    figure.suptitle(title)
    for ax, value, name in zip(axes, (1.0, temperature), ("before calibration", "after"), strict=True):
        predictions, certainties = classify(logits / value)
        draw_reliability(ax, certainties, predictions == labels)
        ax.set_title(f"{name} (temperature {value:.3f})")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def draw_reliability(ax: Axes, certainties: NDArray[np.floating], correct: NDArray[np.bool_]) -> None:
    """Draw accuracy and share of rows by certainty. With two classes, certainties (N,) lie within [0.5, 1]."""
    counts, mean_certainty, mean_correct = bin_by_certainty(certainties, correct)
    filled = counts > 0
    ax.plot([0.5, 1], [0.5, 1], color="0.6", linestyle="--", label="perfect calibration")
    edges = np.linspace(0, 1, len(counts) + 1)
    ax.bar(
        edges[:-1],
        counts / counts.sum(),
        width=np.diff(edges),
        align="edge",
        color="tab:orange",
        alpha=0.35,
        label="share of rows",
    )
    ax.plot(mean_certainty[filled], mean_correct[filled], marker="o", color="tab:blue", label="accuracy")
    error = compute_calibration_error(certainties, correct)
    ax.text(0.03, 0.97, f"ECE {error:.4f}", ha="left", va="top", transform=ax.transAxes)
    ax.set(
        xlabel="certainty",
        ylabel="accuracy, share of rows",
        xlim=(0.5 - 0.5 / len(counts), 1),
        ylim=(0, 1.02),
    )
