"""What an event costs: the table of a measurement beside the paper's own readings, in words and as a picture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from evaluations.energy_measurement import IDLE, Interval, Run, of_method
from utils.classification_metrics import ratio
from utils.cost_models import MILLISECONDS
from utils.plotting import new_figure

MODEL: Final = "model"
PAPER: Final = "the paper's own, on a Raspberry Pi"
COLUMNS: Final = (
    "network", "meter", "basis", "method", "rounds", "events", "joules", "joules_least", "joules_most",
    "joules_share_of_single_exit", "cpu_ms", "cpu_ms_least", "cpu_ms_most", "cpu_share_of_single_exit",
    "exit_2_share", "rejected_share", "error", "paper_microampere_hours_a_request", "paper_share_of_single_exit",
)  # fmt: skip
"""Joules and milliseconds are those of one event: the median over the rounds, the least and the most; ``events`` is how
many were decided in all rounds."""

_SHARES: Final = {
    "joules_share_of_single_exit": "joules",
    "cpu_share_of_single_exit": "cpu_ms",
    "paper_share_of_single_exit": "paper_microampere_hours_a_request",
}
_COLOURS: Final = ("#595959", "#D55E00", "#009E73")  # of the same methods in the paper's figures


@dataclass(frozen=True)
class Meter:
    """How the energy of an interval is found.

    Attributes:
        name: ``rapl``, ``csv`` or ``model``.
        words: what it is, for people.
        joules: of an interval: of the whole machine, or with a model of this process.
    """

    name: str
    words: str
    joules: Callable[[Interval], float]


def power_model(watts: float) -> Meter:
    """Return the model of energy as processor time times a power: no reading."""
    words = f"MODEL, no reading: processor time times the stated {watts:g} W"
    return Meter(MODEL, words, lambda interval: watts * interval.cpu_seconds)


def energy_table(run: Run, meter: Meter, paper: Mapping[str, float]) -> pd.DataFrame:
    """Return a row for each method, with columns ``COLUMNS``.

    A reading is taken less the idle power. Where the worker was on the same machine, the client's part of it is found
    by its share of the machine's processor time. A model counts this process alone, and needs neither.

    Args:
        run: what was measured.
        meter: reads or models it.
        paper: method -> the paper's µAh a request.
    """
    idle = idle_watts(run, meter)
    rows = []
    for method in run.methods:
        intervals = of_method(run.intervals, method)
        joules = [_net_joules(run, meter, idle, interval) / interval.events for interval in intervals]
        cpu = [interval.cpu_seconds / MILLISECONDS / interval.events for interval in intervals]
        outcome = run.outcomes[method]
        values = (
            run.family, meter.name, _basis(run, meter, method), method, len(intervals),
            sum(interval.events for interval in intervals),
            median(joules), min(joules), max(joules), np.nan, median(cpu), min(cpu), max(cpu), np.nan,
            outcome.exit_2_share, outcome.rejected_share, outcome.error, paper.get(method, np.nan), np.nan,
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for share, column in _SHARES.items():
        # Noise may leave nothing, or less, over idling: no ratio then.
        values_above_zero = table[column].where(table[column] > 0)
        table[share] = values_above_zero / values_above_zero.iloc[0]
    return table


def idle_watts(run: Run, meter: Meter) -> float:
    """Return the power of the idle machine in watts; 0 where no idling was measured, or the meter is a model."""
    idle = [] if meter.name == MODEL else of_method(run.intervals, IDLE)
    return sum(meter.joules(part) for part in idle) / sum(part.end - part.start for part in idle) if idle else 0.0


def _net_joules(run: Run, meter: Meter, idle: float, interval: Interval) -> float:
    joules = meter.joules(interval) - idle * (interval.end - interval.start)
    if meter.name == MODEL or interval.method != run.shared:
        return joules
    return joules * min(ratio(interval.cpu_seconds, interval.busy_seconds), 1.0)


def _basis(run: Run, meter: Meter, method: str) -> str:
    if meter.name == MODEL:
        return meter.words
    less = "reading less idle power" if of_method(run.intervals, IDLE) else "reading"
    return less if method != run.shared else f"{less}, the client's share of it by processor time"


def words(table: pd.DataFrame) -> str:
    """Return the table for a screen; the paper's numbers stand apart and are called so."""
    lines = [
        f"{'':22}{'mJ an event':>26}{'CPU ms an event':>26}{'of the single exit':>22}   {PAPER}",
        f"{'':22}{'(least to most)':>26}{'(least to most)':>26}{'energy':>12}{'CPU':>10}   "
        f"{'µAh a request':>14}{'of the single exit':>20}",
    ]
    for row in table.to_dict("records"):
        joules = _spread(*(1e3 * row[name] for name in ("joules", "joules_least", "joules_most")))
        cpu = _spread(*(row[name] for name in ("cpu_ms", "cpu_ms_least", "cpu_ms_most")))
        stated = row["paper_microampere_hours_a_request"]
        lines.append(
            f"{row['method']:22}{joules:>26}{cpu:>26}{_percent(row['joules_share_of_single_exit']):>12}"
            f"{_percent(row['cpu_share_of_single_exit']):>10}   {'-' if np.isnan(stated) else f'{stated:g}':>14}"
            f"{_percent(row['paper_share_of_single_exit']):>20}"
        )
    return "\n".join(lines)


def notes(table: pd.DataFrame) -> list[str]:
    """Return what must be said of the numbers besides."""
    found = [f"{method}: {basis}" for method, basis in zip(table["method"], table["basis"], strict=True)]
    found = found if table["basis"].nunique() > 1 else []
    found += [
        f"{row['method']}: exit 2 asked about {_percent(row['exit_2_share'])}, rejected "
        f"{_percent(row['rejected_share'])}, error of the accepted {_percent(row['error'])}"
        for row in table.to_dict("records")
    ]
    if (table["joules_least"] <= 0).any():
        found.append("some readings do not stand out from idling: measure longer (--seconds), on a quieter machine")
    if table["joules"].isna().any():
        found.append("this machine does not say its processor time, so the client's share is unknown")
    found.append("the paper's numbers are of other hardware and another meter; only the ratios compare")
    return found


def _spread(middle: float, least: float, most: float) -> str:
    return f"{middle:.3g} ({least:.3g} to {most:.3g})"


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.2f} %"


def energy_figure(table: pd.DataFrame) -> Figure:
    """Draw energy and processor time as shares of the single exit's, and beside them the paper's own, hatched."""
    kind = "modelled, no reading" if (table["meter"] == MODEL).all() else f"measured by {table['meter'].iloc[0]}"
    parts = {
        f"energy an event,\n{kind}": "joules_share_of_single_exit",
        "processor time an event,\nmeasured": "cpu_share_of_single_exit",
        PAPER.replace(", ", ",\n"): "paper_share_of_single_exit",
    }
    figure, axes = new_figure(len(parts), width=3.0, height=4.4)
    for ax, (title, column) in zip(axes, parts.items(), strict=True):
        for place, row in enumerate(table.to_dict("records")):
            if np.isnan(row[column]):
                continue
            hatch = "//" if column.startswith("paper") else None
            bars = ax.bar(place, 100 * row[column], 0.8, color=_COLOURS[place], hatch=hatch, edgecolor="white")
            ax.bar_label(bars, labels=[_percent(row[column])], fontsize=9)
        ax.set_title(title, fontsize=10)
        ax.set_xticks(range(len(table)), [str(method).replace(", ", ",\n") for method in table["method"]], fontsize=8)
        ax.set(ylabel="% of the single exit's", xlim=(-0.6, len(table) - 0.4))
        ax.margins(y=0.12)
    return figure
