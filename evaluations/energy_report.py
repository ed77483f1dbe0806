"""Report what an event costs the edge, beside the paper's own readings: a table, a text and a picture."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from evaluations.energy_measurement import IDLE, MeasuredInterval, Run, select_method
from evaluations.energy_meters import PowerLog
from utils.classification_metrics import ratio
from utils.cost_models import MILLISECONDS
from utils.page import fill_template
from utils.plotting import new_figure

_TEMPLATE: Final = Path(__file__).parent / "templates" / "energy_report.txt.j2"
MODEL: Final = "model"
PAPER: Final = "the paper's own, on a Raspberry Pi"
COLUMNS: Final = (
    "network", "meter", "basis", "method", "rounds", "events", "joules", "joules_least", "joules_most",
    "joules_share_of_single_exit", "cpu_ms", "cpu_ms_least", "cpu_ms_most", "cpu_share_of_single_exit",
    "exit_2_share", "rejected_share", "error", "paper_microampere_hours_a_request", "paper_share_of_single_exit",
)  # fmt: skip
"""Joules and milliseconds are per event: median over the rounds, least and most; ``events`` is that of all rounds."""

_SHARES: Final = {
    "joules_share_of_single_exit": "joules",
    "cpu_share_of_single_exit": "cpu_ms",
    "paper_share_of_single_exit": "paper_microampere_hours_a_request",
}
_COLOURS: Final = ("#595959", "#D55E00", "#009E73")  # those of the same methods in ``figs.drawing``


@dataclass(frozen=True)
class Meter:
    """A way to find the energy of an interval.

    Attributes:
        name: ``rapl``, ``csv`` or ``model``.
        words: name of the meter in the report.
        joules: returns the joules of an interval: of the whole machine, or, for a model, of this process.
    """

    name: str
    words: str
    joules: Callable[[MeasuredInterval], float]


def make_power_model(watts: float) -> Meter:
    """Return a model that multiplies processor time by a power, without any reading."""
    words = f"MODEL, no reading: processor time times the stated {watts:g} W"
    return Meter(MODEL, words, lambda interval: watts * interval.cpu_seconds)


def make_log_meter(log: PowerLog) -> Meter:
    """Return a meter that integrates the log of an external meter."""
    return Meter("csv", f"external meter, {log.path.name}", lambda part: log.integrate(part.start, part.end))


def build_energy_table(run: Run, meter: Meter, paper: Mapping[str, float]) -> pd.DataFrame:
    """Return a row for each method, with columns ``COLUMNS``.

    The idle power is subtracted from a reading. If the worker ran on the same machine, the client's part is estimated
    by its share of the machine's processor time. A model counts only this process and needs neither.

    Args:
        run: the measurement.
        meter: returns the energy of an interval.
        paper: method -> the paper's reading in µAh per request.
    """
    idle = find_idle_watts(run, meter)
    rows = []
    for method in run.methods:
        intervals = select_method(run.intervals, method)
        joules = [_subtract_idle(run, meter, idle, interval) / interval.events for interval in intervals]
        cpu = [interval.cpu_seconds / MILLISECONDS / interval.events for interval in intervals]
        outcome = run.outcomes[method]
        values = (
            run.family, meter.name, _describe_basis(run, meter, method), method, len(intervals),
            sum(interval.events for interval in intervals),
            median(joules), min(joules), max(joules), np.nan, median(cpu), min(cpu), max(cpu), np.nan,
            outcome.exit_2_share, outcome.rejected_share, outcome.error, paper.get(method, np.nan), np.nan,
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for share, column in _SHARES.items():
        # With noise, a reading less idle power can be 0 or below; then there is no ratio.
        values_above_zero = table[column].where(table[column] > 0)
        table[share] = values_above_zero / values_above_zero.iloc[0]
    return table


def find_idle_watts(run: Run, meter: Meter) -> float:
    """Return the power of the idle machine in watts; 0 if idling was not measured or the meter is a model."""
    idle = [] if meter.name == MODEL else select_method(run.intervals, IDLE)
    return sum(meter.joules(part) for part in idle) / sum(part.end - part.start for part in idle) if idle else 0.0


def _subtract_idle(run: Run, meter: Meter, idle: float, interval: MeasuredInterval) -> float:
    joules = meter.joules(interval) - idle * (interval.end - interval.start)
    if meter.name == MODEL or interval.method != run.shared:
        return joules
    return joules * min(ratio(interval.cpu_seconds, interval.busy_seconds), 1.0)


def _describe_basis(run: Run, meter: Meter, method: str) -> str:
    if meter.name == MODEL:
        return meter.words
    less = "reading less idle power" if select_method(run.intervals, IDLE) else "reading"
    return less if method != run.shared else f"{less}, the client's share of it by processor time"


def render_report(table: pd.DataFrame, meter: str, idle: float) -> str:
    """Return the report for the terminal: a sentence, the table, and a separate table of the paper's own numbers.

    Args:
        table: the result of ``build_energy_table``.
        meter: name of the meter in the report.
        idle: watts that were subtracted.
    """
    rows = table.to_dict("records")
    stated = [row for row in rows if not np.isnan(row["paper_microampere_hours_a_request"])]
    return fill_template(
        _TEMPLATE,
        conclusion=state_saving(table),
        meter=meter,
        idle=idle,
        measured=pd.DataFrame([_format_measured(row) for row in rows]),
        about_paper=PAPER,
        paper=pd.DataFrame([_format_stated(row) for row in stated]),
        bases=zip(table["method"], table["basis"], strict=True) if table["basis"].nunique() > 1 else (),
        is_weak=bool((table["joules_least"] <= 0).any()),
        is_unknown=bool(table["joules"].isna().any()),
    )


def state_saving(table: pd.DataFrame) -> str:
    """Return one sentence that compares the cost of an event with the last method to that of the single exit."""
    row = table.iloc[-1]
    share, what = row["joules_share_of_single_exit"], "modelled energy" if row["meter"] == MODEL else "energy"
    if np.isnan(share):
        share, what = row["cpu_share_of_single_exit"], "processor time; the share of energy is unknown"
    return f"With {row['method']}, an event costs the edge {_format_percent(share)} of the single exit's {what}."


def _format_measured(row: Mapping[Hashable, Any]) -> dict[str, str]:
    joules = _format_spread(*(1e3 * row[name] for name in ("joules", "joules_least", "joules_most")))
    return {
        "method": row["method"],
        "energy, mJ": joules,
        "energy share": _format_percent(row["joules_share_of_single_exit"]),
        "CPU time, ms": _format_spread(*(row[name] for name in ("cpu_ms", "cpu_ms_least", "cpu_ms_most"))),
        "CPU share": _format_percent(row["cpu_share_of_single_exit"]),
        "offloaded": _format_percent(row["exit_2_share"]),
        "rejected": _format_percent(row["rejected_share"]),
        "error": _format_percent(row["error"]),
    }


def _format_stated(row: Mapping[Hashable, Any]) -> dict[str, str]:
    reading = f"{row['paper_microampere_hours_a_request']:g}"
    return {
        "method": row["method"],
        "µAh a request": reading,
        "share": _format_percent(row["paper_share_of_single_exit"]),
    }


def _format_spread(middle: float, least: float, most: float) -> str:
    return f"{middle:.3g} ({least:.3g} to {most:.3g})"


def _format_percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.2f} %"


def draw_energy(table: pd.DataFrame) -> Figure:
    """Draw energy and processor time as shares of the single exit's, beside the paper's readings (hatched)."""
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
            ax.bar_label(bars, labels=[_format_percent(row[column])], fontsize=9)
        ax.set_title(title, fontsize=10)
        ax.set_xticks(range(len(table)), [str(method).replace(", ", ",\n") for method in table["method"]], fontsize=8)
        ax.set(ylabel="% of the single exit's", xlim=(-0.6, len(table) - 0.4))
        ax.margins(y=0.12)
    return figure
