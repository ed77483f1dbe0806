"""The figures by name: how their data are collected, drawn and described in captions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pandas as pd
from matplotlib.figure import Figure

from figs import certainty_data, drawing, energy_data, monthly_data, time_data
from figs.figure_data import FigureData, Inputs
from figs.results_folder import ResultsFolder, format_sources

_TWO: Final = "evaluations/{network}_{device}_{YYYY_MM}.csv"
_ONE: Final = "evaluations/{network}_single_{device}_{YYYY_MM}.csv"
_UNCALIBRATED: Final = "evaluations/{network}_uncalibrated_{device}_{YYYY_MM}.csv"
_TIMINGS: Final = "evaluations/{device}_offload_timings.tsv"
_FRONT: Final = "nsga2/{network}_x_f_*.sav"


@dataclass(frozen=True)
class Recipe:
    """How to make a figure.

    Attributes:
        title: the line above the figure.
        looks_for: patterns of the files that it needs.
        collect: returns its data.
        draw: draws the table of its data.
    """

    title: str
    looks_for: str
    collect: Callable[[Inputs], FigureData]
    draw: Callable[[pd.DataFrame], Figure]


RECIPES: Final[dict[str, Recipe]] = {
    "single-exit-by-month": Recipe(
        "Conventional networks by month", _ONE, monthly_data.collect_single_exit, drawing.draw_single_exit_by_month
    ),
    "inference-rate": Recipe(
        "Inference rate by device", f"{_TWO} or {_ONE}", time_data.collect_inference_rates, drawing.draw_inference_rate
    ),
    "reliability": Recipe(
        "Certainty against accuracy",
        f"{_TWO} or {_UNCALIBRATED}",
        certainty_data.collect_reliability,
        drawing.draw_reliability,
    ),
    "pareto-front": Recipe(
        "Thresholds to choose from", _FRONT, certainty_data.collect_fronts, drawing.draw_pareto_front
    ),
    "operating-point-by-month": Recipe(
        "At the operating point, by month",
        f"{_FRONT} and {_TWO}",
        monthly_data.collect_operating_point,
        drawing.draw_operating_point_by_month,
    ),
    "rejection-by-month": Recipe(
        "Offloaded and rejected, by month",
        f"{_FRONT} and {_TWO}",
        monthly_data.collect_rejection,
        drawing.draw_rejection_by_month,
    ),
    "offload-time": Recipe(
        "Exit 2 on the edge and offloaded", _TIMINGS, time_data.collect_offload_times, drawing.draw_offload_time
    ),
    "energy": Recipe(
        "Energy of the edge (single exit: 100 %)",
        f"{_ONE}, or {_FRONT} and {_TWO}",
        energy_data.collect_energy,
        drawing.draw_energy,
    ),
}


def draw_figure(recipe: Recipe, data: FigureData, results: ResultsFolder) -> Figure:
    """Draw a figure with its title, which marks synthetic data as such."""
    figure = recipe.draw(data.table)
    synthetic = results.provenance is not None and results.provenance.synthetic
    figure.suptitle(f"{recipe.title}\nsynthetic data" if synthetic else recipe.title)
    return figure


def format_caption(data: FigureData, results: ResultsFolder) -> str:
    """Return a figure's caption: what it shows, the files that it is drawn from, and what is missing."""
    parts = [data.shows, describe_provenance(results), f"drawn from {format_sources(data.files, results.folder)}"]
    if data.missing:
        parts.append(f"not there: {', '.join(dict.fromkeys(data.missing))}")
    return "; ".join(parts) + "."


def describe_provenance(results: ResultsFolder) -> str:
    """Return a description of the origin of a folder's data, for captions."""
    provenance = results.provenance
    if provenance is None:
        return "the folder does not say on what data (it has no about.json)"
    epochs = f"{provenance.epochs} epoch{'' if provenance.epochs == 1 else 's'}"
    synthetic = "synthetic data, which say nothing of real traffic"
    kind = synthetic if provenance.synthetic else "data not marked as synthetic"
    return (
        f"{kind} (dataset {provenance.dataset}, trained on {provenance.training_month} for {epochs}, calibrated and "
        f"thresholds chosen on {provenance.calibration_month}, {provenance.made})"
    )
