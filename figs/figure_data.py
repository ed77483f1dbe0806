"""The inputs of all figures, and the data of one figure: its table, sources and caption."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pandas as pd

import models
from figs.results_folder import SINGLE_EXIT, TWO_EXITS, UNCALIBRATED, ResultsFolder, format_months
from utils.schema import Thresholds

SINGLE: Final = "single exit"
"""Name of the conventional network in tables and legends."""


@dataclass(frozen=True)
class OperatingPoint:
    """The operating point of a network that the figures show.

    Attributes:
        path: the result file.
        front: its points, with the columns of ``nsga2.operating_point.build_front_table``.
        row: the chosen row of ``front``.
        label: that row's number, or its name.
        thresholds: of that row.
    """

    path: Path
    front: pd.DataFrame
    row: int
    label: str
    thresholds: Thresholds


@dataclass(frozen=True)
class Inputs:
    """The inputs of the figures.

    Attributes:
        results: the folder.
        operating_points: network -> its operating point; networks without a front are left out.
        watts: power of the edge's busy processor, to turn its time into energy; None: figures show time.
    """

    results: ResultsFolder
    operating_points: Mapping[str, OperatingPoint]
    watts: float | None = None


@dataclass(frozen=True)
class FigureData:
    """The data of one figure.

    Attributes:
        table: exactly what is drawn; empty if there is nothing to draw.
        shows: what the figure shows; the caption begins with it.
        files: those that the table was made from.
        missing: descriptions of missing files, whose data would also be drawn.
    """

    table: pd.DataFrame
    shows: str
    files: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def get_display_name(network: str) -> str:
    """Return a network's name as figures and captions show it."""
    return models.find(network, exits=1).name


def list_missing_months(results: ResultsFolder, kind: str) -> list[str]:
    """Return descriptions of the evaluations of a kind that a network lacks in the years with any evaluation."""
    years = sorted({file.month[:4] for file in results.evaluations}) or ["2016"]
    whole = {f"{year}_{month:02}" for year in years for month in range(1, 13)}
    lacking: dict[str, list[str]] = {}
    for network in models.FAMILIES:
        there = {file.month for file in results.list_by_month(kind, network)}
        if whole - there:
            months = f" in {format_months(whole - there)}" if there else ""
            lacking.setdefault(months, []).append(get_display_name(network))
    what = {TWO_EXITS: "two exits", SINGLE_EXIT: "the single exit", UNCALIBRATED: "two exits before calibration"}[kind]
    return [f"evaluations of {what} of {' and '.join(names)}{months}" for months, names in lacking.items()]


def list_missing_fronts(inputs: Inputs) -> list[str]:
    """Return a description of the missing fronts, as a list that is empty if none is missing."""
    names = [get_display_name(name) for name in models.FAMILIES if name not in inputs.operating_points]
    return [f"the front of {' and '.join(names)}"] if names else []


def describe_points(inputs: Inputs) -> str:
    """Return a description of the operating points, with their error and time on the front."""
    words = []
    for network, chosen in inputs.operating_points.items():
        row = chosen.front.loc[chosen.row]
        found = f"error {100 * row['error']:.1f} % at normalised time {row['time']:.3f}"
        words.append(f"{get_display_name(network)} point {chosen.label}, {found} by its front")
    return ", ".join(words)
