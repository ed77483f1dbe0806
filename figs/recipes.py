"""The figures by name: where their numbers come from, how they are drawn, what is said of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pandas as pd
from matplotlib.figure import Figure

from figs import certainty_data, drawing, energy_data, monthly_data, time_data
from figs.figure_data import Material, Numbers
from figs.results_folder import ResultsFolder, sources

_TWO: Final = "evaluations/{network}_{device}_{YYYY_MM}.csv"
_ONE: Final = "evaluations/{network}_single_{device}_{YYYY_MM}.csv"
_UNCALIBRATED: Final = "evaluations/{network}_uncalibrated_{device}_{YYYY_MM}.csv"
_TIMINGS: Final = "evaluations/{device}_offload_timings.tsv"
_FRONT: Final = "nsga2/{network}_x_f_*.sav"


@dataclass(frozen=True)
class Recipe:
    """How one figure is made.

    Attributes:
        title: stands above it.
        looks_for: patterns of the files without which there is nothing to draw.
        numbers: finds its numbers.
        draw: draws them.
    """

    title: str
    looks_for: str
    numbers: Callable[[Material], Numbers]
    draw: Callable[[pd.DataFrame], Figure]


RECIPES: Final[dict[str, Recipe]] = {
    "single-exit-by-month": Recipe(
        "Conventional networks by month", _ONE, monthly_data.single_exit_by_month, drawing.draw_single_exit_by_month
    ),
    "inference-rate": Recipe(
        "Inference rate by device", f"{_TWO} or {_ONE}", time_data.inference_rate, drawing.draw_inference_rate
    ),
    "reliability": Recipe(
        "Certainty against accuracy", f"{_TWO} or {_UNCALIBRATED}", certainty_data.reliability, drawing.draw_reliability
    ),
    "pareto-front": Recipe("Thresholds to choose from", _FRONT, certainty_data.pareto_front, drawing.draw_pareto_front),
    "operating-point-by-month": Recipe(
        "At the operating point, by month",
        f"{_FRONT} and {_TWO}",
        monthly_data.operating_point_by_month,
        drawing.draw_operating_point_by_month,
    ),
    "rejection-by-month": Recipe(
        "Offloaded and rejected, by month",
        f"{_FRONT} and {_TWO}",
        monthly_data.rejection_by_month,
        drawing.draw_rejection_by_month,
    ),
    "offload-time": Recipe(
        "Exit 2 on the edge and offloaded", _TIMINGS, time_data.offload_time, drawing.draw_offload_time
    ),
    "energy": Recipe(
        "Energy of the edge (single exit: 100 %)",
        f"{_ONE}, or {_FRONT} and {_TWO}",
        energy_data.energy,
        drawing.draw_energy,
    ),
}


def figure_of(recipe: Recipe, numbers: Numbers, results: ResultsFolder) -> Figure:
    """Draw a figure, with its title; one of simulated data says so."""
    figure = recipe.draw(numbers.table)
    synthetic = results.about is not None and results.about.synthetic
    figure.suptitle(f"{recipe.title}\nsynthetic data" if synthetic else recipe.title)
    return figure


def caption(numbers: Numbers, results: ResultsFolder) -> str:
    """Return the sentence that says what a figure shows, what it came from, and what is missing."""
    parts = [numbers.shows, origin(results), f"drawn from {sources(numbers.files, results.folder)}"]
    if numbers.missing:
        parts.append(f"not there: {', '.join(dict.fromkeys(numbers.missing))}")
    return "; ".join(parts) + "."


def origin(results: ResultsFolder) -> str:
    """Return where the data of a folder come from, as far as it says."""
    about = results.about
    if about is None:
        return "the folder does not say on what data (it has no about.json)"
    epochs = f"{about.epochs} epoch{'' if about.epochs == 1 else 's'}"
    kind = "synthetic data, which say nothing of real traffic" if about.synthetic else "data not marked as synthetic"
    return (
        f"{kind} (dataset {about.dataset}, trained on {about.training_month} for {epochs}, calibrated and "
        f"thresholds chosen on {about.calibration_month}, {about.made})"
    )
