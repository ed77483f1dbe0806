"""The report of a judgement: one page, the verdict first."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import pandas as pd

from evaluations.months import ALL_ROWS, DISTINCT, SUBSETS, UNSEEN
from evaluations.rates import AREA, MEAN, PREVALENCES, mean_rate
from evaluations.year_pictures import pictures
from utils import page

_PREVALENCE_WORDS: Final = {share: f"{100 * share:g} %" for share in PREVALENCES}
_ABOUT: Final = {
    ALL_ROWS: "Every row of each later month.",
    UNSEEN: "Only rows whose feature vector is not among the training rows: no network can know them by heart.",
    DISTINCT: "Each vector of a month once, however many rows it has. Where its rows have different labels, that of "
    "the majority counts; of as many of both, attack.",
}


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Attributes:
        title: names the networks and the months.
        verdict: sentences, the headline first.
        networks: a row for each.
        on_later: rates of the later months, by network.
        overall: the same over the months, see ``rates.over_time``.
        comparisons: differences of errors.
        columns: sentences about the columns of the training months.
        method: sentences about how it was done.
    """

    title: str
    verdict: Sequence[str]
    networks: pd.DataFrame
    on_later: pd.DataFrame
    overall: pd.DataFrame
    comparisons: pd.DataFrame
    columns: Sequence[str]
    method: Sequence[str]


def render(report: Report) -> str:
    """Return the page."""
    headline, *rest = report.verdict
    months = [str(month) for month in dict.fromkeys(report.on_later["month"])]
    everything = pd.concat((report.on_later, report.overall), ignore_index=True)
    parts = [f"<p><strong>{escape(headline)}</strong></p>", *map(page.paragraph, rest), page.heading("In pictures")]
    figures = pictures(report.on_later, report.comparisons, months)
    parts += [page.picture(figure, caption) for figure, caption in figures]
    parts.append(page.heading("The networks, and what was chosen for them"))
    parts += [page.paragraph(_NETWORKS), page.table(report.networks)]
    parts.append(page.paragraph(_COLUMNS))
    for subset in SUBSETS:
        parts += [page.heading(f"Means over the later months: {subset}, %"), page.paragraph(_ABOUT[subset])]
        parts.append(page.table(summary(report.overall, report.comparisons, subset)))
    for rate, words in (("error", "Error"), ("accuracy", "Accuracy"), ("f1", "F1")):
        parts += [
            page.heading(f"{words} of accepted events by month, all rows, %"),
            page.table(by_month(everything, months, rate)),
        ]
    parts += [page.heading("Precision where attacks are rare, %"), page.paragraph(_PRECISION)]
    parts.append(page.table(precisions(report.overall)))
    parts += [page.heading("Columns of the training rows"), *map(page.paragraph, report.columns)]
    parts += [page.heading("How this was done"), *map(page.paragraph, report.method)]
    return page.page(report.title, *parts)


_NETWORKS: Final = (
    "n and a are the least certainties for the classes normal and attack at exits 1 and 2. Shares are percentages on "
    "the month of the choice; error is of accepted events. The last columns are CPU time an event."
)
_COLUMNS: Final = (
    "In the three tables that follow, error and F1 are of accepted events, “of bound” is the accuracy as a share of "
    "the best by exact match, and cost is that of an event, as a share of what is named below. The last column is the "
    "error of the two exits less that of the system, in points, with its 95 % interval."
)
_PRECISION: Final = (
    "Where attacks are rarer than in these months, more of the alarms are false. What share of them would be attacks "
    "follows from the share of attacks that raise an alarm and that of normal events that do. A rejected event raises "
    "none. Means over the later months, all rows."
)


def summary(overall: pd.DataFrame, comparisons: pd.DataFrame, subset: str) -> pd.DataFrame:
    """Return a row for each system: its mean rates over the later months and networks, as text.

    Args:
        overall: see ``rates.over_time``.
        comparisons: see ``comparisons.compare``.
        subset: of the rows.
    """
    rows = []
    of_subset = comparisons[(comparisons["month"] == MEAN) & (comparisons["subset"] == subset)]
    intervals = {str(row["system"]): row for row in of_subset.to_dict("records")}
    for system in dict.fromkeys(overall["system"]):
        row: dict[str, str] = {"system": str(system)}
        for title, month, rate in (
            ("accepted", MEAN, "acceptance"),
            ("error", MEAN, "error"),
            ("AUT error", AREA, "error"),
            ("of bound", MEAN, "share_of_bound"),
            ("F1", MEAN, "f1"),
            ("offloaded", MEAN, "offloaded"),
            ("cost", MEAN, "cost_share"),
        ):
            row[title] = _cell(mean_rate(overall, month, subset, str(system), rate))
        row["two exits less it"] = _interval(intervals.get(str(system)))
        rows.append(row)
    return pd.DataFrame(rows)


def by_month(table: pd.DataFrame, months: Sequence[str], rate: str) -> pd.DataFrame:
    """Return a rate of all rows, a row for each system and a column for each month, mean and area, as text."""
    rows = []
    for system in dict.fromkeys(table["system"]):
        cells = {month: _cell(mean_rate(table, month, ALL_ROWS, str(system), rate)) for month in (*months, MEAN, AREA)}
        rows.append({"system": str(system), **cells})
    return pd.DataFrame(rows)


def precisions(overall: pd.DataFrame) -> pd.DataFrame:
    """Return what share of alarms would be attacks, a row for each system and a column for each prevalence, as text."""
    columns = {"detected": "detection_rate", "false alarms": "false_alarm_rate"}
    columns |= {f"attacks {words}": f"precision_at_{share:g}" for share, words in _PREVALENCE_WORDS.items()}
    rows = []
    for system in dict.fromkeys(overall["system"]):
        cells = {title: _cell(mean_rate(overall, MEAN, ALL_ROWS, str(system), rate)) for title, rate in columns.items()}
        rows.append({"system": str(system), **cells})
    return pd.DataFrame(rows)


def printed(overall: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    """Return the means of all rows for the shell."""
    return summary(overall, comparisons, ALL_ROWS).drop(columns=["AUT error"]).to_string(index=False)


def _cell(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.2f}"


def _interval(row: Mapping[Hashable, float] | None) -> str:
    if row is None:
        return ""
    low, high = row["low"], row["high"]
    bounds = f" ({100 * low:+.2f} to {100 * high:+.2f})" if low <= high else " (unknown)"
    return f"{100 * row['estimate']:+.2f}{bounds}"
