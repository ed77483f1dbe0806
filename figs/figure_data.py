"""What every figure is made from, and what is known of it before it is drawn."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pandas as pd

import models
from figs.results_folder import SINGLE_EXIT, TWO_EXITS, UNCALIBRATED, ResultsFolder, month_spans
from utils.schema import Thresholds

SINGLE: Final = "single exit"
"""What tables and legends call the conventional network."""


@dataclass(frozen=True)
class OperatingPoint:
    """The thresholds at which a network is shown.

    Attributes:
        path: the result file.
        front: its points, with the columns of ``nsga2.operating_point.front_table``.
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
class Material:
    """What the figures are made from.

    Attributes:
        results: the folder.
        operating_points: by network; those without a front have none.
        watts: of the edge's processor when it is busy, to turn its time into energy; None leaves it time.
    """

    results: ResultsFolder
    operating_points: Mapping[str, OperatingPoint]
    watts: float | None = None


@dataclass(frozen=True)
class Numbers:
    """The numbers of one figure.

    Attributes:
        table: exactly what is drawn; without rows where there is nothing to draw.
        shows: what it shows, as the beginning of a sentence.
        files: what it came from.
        missing: what would have been drawn too, if it were there.
    """

    table: pd.DataFrame
    shows: str
    files: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def display_name(network: str) -> str:
    """Return a network's name for people."""
    return models.find(network, exits=1).name


def missing_months(results: ResultsFolder, kind: str) -> list[str]:
    """Return, for people, the evaluations of a kind that a whole year of both networks would have besides."""
    years = sorted({file.month[:4] for file in results.evaluations}) or ["2016"]
    whole = {f"{year}_{month:02}" for year in years for month in range(1, 13)}
    lacking: dict[str, list[str]] = {}
    for network in models.FAMILIES:
        there = {file.month for file in results.by_month(kind, network)}
        if whole - there:
            months = f" in {month_spans(whole - there)}" if there else ""
            lacking.setdefault(months, []).append(display_name(network))
    what = {TWO_EXITS: "two exits", SINGLE_EXIT: "the single exit", UNCALIBRATED: "two exits before calibration"}[kind]
    return [f"evaluations of {what} of {' and '.join(names)}{months}" for months, names in lacking.items()]


def missing_fronts(material: Material) -> list[str]:
    """Return, for people, the networks without a front."""
    names = [display_name(name) for name in models.FAMILIES if name not in material.operating_points]
    return [f"the front of {' and '.join(names)}"] if names else []


def point_words(material: Material) -> str:
    """Return which operating points are meant, and what their fronts say of them."""
    words = []
    for network, chosen in material.operating_points.items():
        row = chosen.front.loc[chosen.row]
        found = f"error {100 * row['error']:.1f} % at normalised time {row['time']:.3f}"
        words.append(f"{display_name(network)} point {chosen.label}, {found} by its front")
    return ", ".join(words)
