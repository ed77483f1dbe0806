"""Render the report on a year: the conclusion in one sentence, a table of four systems, then all details."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from evaluations.baselines import MATCHED, REJECT
from evaluations.bootstrap import LEVEL, ConfidenceInterval
from evaluations.comparisons import collect_findings
from evaluations.conclusion import build_overview, format_difference, format_share, list_cautions, state_conclusion
from evaluations.later_months import BOUND, BY_CLASS, SYSTEM
from evaluations.monthly_rates import AREA, MEAN, PREVALENCES, average_months, find_rate
from evaluations.months import ALL_ROWS, DISTINCT, SUBSETS, UNSEEN, Month, find_constant_columns, find_equal_columns
from evaluations.networks import Origin
from evaluations.year_evaluation import Months, YearEvaluation
from evaluations.year_pictures import draw_pictures
from utils.page import fill_template

_PAGE: Final = Path(__file__).parent / "templates" / "year_report.html.j2"
_TEXT: Final = _PAGE.with_name("year_report.txt.j2")
_ABOUT: Final = {
    ALL_ROWS: "Every row of each later month.",
    UNSEEN: "Only rows whose feature vector is not among the training rows, so that no network can have memorised it.",
    DISTINCT: "Each vector of a month once, however many rows it has. If its rows have different labels, the label of "
    "the majority counts; in a tie, attack.",
}
_SUMMARY: Final = (
    ("accepted", MEAN, "acceptance"), ("error", MEAN, "error"), ("AUT error", AREA, "error"),
    ("of bound", MEAN, "share_of_bound"), ("F1", MEAN, "f1"), ("offloaded", MEAN, "offloaded"),
    ("cost", MEAN, "cost_share"),
)  # fmt: skip
_THRESHOLDS: Final = ("n 1", "a 1", "n 2", "a 2")


@dataclass(frozen=True)
class Method:
    """How the networks were evaluated.

    Attributes:
        min_acceptance: the least acceptance that was asked for.
        point: name of the chosen point of the front.
        resamples: number of resamples for the intervals.
        by_vector: whether distinct vectors were resampled; otherwise, rows were.
        reference: the cost that other costs are shares of, in words.
    """

    min_acceptance: float
    point: str
    resamples: int
    by_vector: bool
    reference: str


@dataclass(frozen=True)
class Report:
    """The evaluation of some networks, from which the text and the page are rendered.

    Attributes:
        origins: of the networks.
        months: the rows.
        evaluation: of the networks.
        comparisons: see ``comparisons.compare``.
        method: how they were evaluated.
    """

    origins: Sequence[Origin]
    months: Months
    evaluation: YearEvaluation
    comparisons: pd.DataFrame
    method: Method

    def render_text(self) -> str:
        """Return the conclusion and its table as text for the terminal."""
        return fill_template(_TEXT, **self._summarise())

    def render_page(self) -> str:
        """Return the whole report as an HTML page."""
        on_later, overall = self.evaluation.on_later, average_months(self.evaluation.on_later)
        names = [month.name for month in self.months.later]
        everything = pd.concat((on_later, overall), ignore_index=True)
        training = self.months.training.features
        return fill_template(
            _PAGE,
            **self._summarise(),
            months=self.months,
            method=self.method,
            pictures=draw_pictures(on_later, self.comparisons, names),
            networks=tabulate_networks(self.origins, self.evaluation),
            subsets=[(name, _ABOUT[name], tabulate_systems(overall, self.comparisons, name)) for name in SUBSETS],
            by_month=[
                (words, tabulate_months(everything, names, rate))
                for rate, words in (("error", "Error"), ("accuracy", "Accuracy"), ("f1", "F1"))
            ],
            precisions=tabulate_precisions(overall),
            constant=find_constant_columns(training),
            equal=find_equal_columns(training),
            bound=BOUND,
            reject=REJECT.strip(),
            matched=MATCHED.strip(),
            by_class=BY_CLASS,
            repeated=format_share(find_repeated_share(self.months.later)),
            largest=format_share(find_largest_share(self.months.later)),
        )

    def _summarise(self) -> dict[str, object]:
        overall = average_months(self.evaluation.on_later)
        findings = collect_findings(overall, self.comparisons, len(self.origins))
        return {
            "title": make_title(self.origins, self.months),
            "conclusion": state_conclusion(findings),
            "overview": build_overview(findings),
            "cautions": list_cautions(findings),
            "level": f"{100 * LEVEL:g} %",
            "reference": self.method.reference,
        }


def make_title(origins: Sequence[Origin], months: Months) -> str:
    """Return the report's title."""
    first, last = months.later[0].name, months.later[-1].name
    return f"{origins[0].architecture}, evaluated on {first if first == last else f'{first} to {last}'}"


def tabulate_networks(origins: Sequence[Origin], evaluation: YearEvaluation) -> pd.DataFrame:
    """Return a row for each network: its origin, its thresholds, and its rates and costs on the month of the choice."""
    is_system = (evaluation.on_choice["system"] == SYSTEM) & (evaluation.on_choice["subset"] == ALL_ROWS)
    of_system = evaluation.on_choice[is_system].dropna(subset=["error"]).to_dict("records")
    rows = []
    for number, (origin, choice, costs, rates) in enumerate(
        zip(origins, evaluation.choices, evaluation.costs, of_system, strict=True), 1
    ):
        rows.append(
            {
                "network": f"{number}: {origin.path.name}",
                "seed": origin.seed,
                "calibrated on": " ".join(origin.calibrated),
                **dict(zip(_THRESHOLDS, (f"{value:.4f}" for value in vars(choice.thresholds).values()), strict=True)),
                "accepted": format_share(rates["acceptance"]),
                "error": format_share(rates["error"]),
                "offloaded": format_share(rates["offloaded"]),
                "µs exit 1": f"{1e6 * costs.exit_1:.1f}",
                "µs offloaded": f"{1e6 * costs.offloaded:.1f}",
            }
        )
    return pd.DataFrame(rows)


def tabulate_systems(overall: pd.DataFrame, comparisons: pd.DataFrame, subset: str) -> pd.DataFrame:
    """Return a row for each system: its mean rates over the later months and networks, as text.

    Args:
        overall: see ``monthly_rates.average_months``.
        comparisons: see ``comparisons.compare``.
        subset: name of the subset of the rows.
    """
    of_subset = comparisons[(comparisons["month"] == MEAN) & (comparisons["subset"] == subset)]
    differences = {
        str(row["system"]): ConfidenceInterval(row["estimate"], row["low"], row["high"])
        for row in of_subset.to_dict("records")
    }
    table = _tabulate(overall, subset, _SUMMARY)
    return table.assign(difference=[format_difference(differences.get(system)) for system in table["system"]])


def tabulate_months(table: pd.DataFrame, months: Sequence[str], rate: str) -> pd.DataFrame:
    """Return one rate on all rows as text: a row for each system, a column for each month, the mean and the area."""
    return _tabulate(table, ALL_ROWS, [(month, month, rate) for month in (*months, MEAN, AREA)])


def tabulate_precisions(overall: pd.DataFrame) -> pd.DataFrame:
    """Return how right the alarms of each system are, as text.

    The columns are the share of attacks and the share of normal events that raise an alarm, and, for each prevalence,
    the share of alarms that are attacks.
    """
    columns = {"detected": "detection_rate", "false alarms": "false_alarm_rate"}
    columns |= {f"attacks {100 * share:g} %": f"precision_at_{share:g}" for share in PREVALENCES}
    return _tabulate(overall, ALL_ROWS, [(title, MEAN, rate) for title, rate in columns.items()])


def _tabulate(table: pd.DataFrame, subset: str, columns: Sequence[tuple[str, str, str]]) -> pd.DataFrame:
    """Return rates as text, with a row for each system; ``columns`` are tuples of title, month and rate."""
    rows = [
        {"system": system}
        | {title: format_share(find_rate(table, month, subset, system, rate)) for title, month, rate in columns}
        for system in table["system"].unique()
    ]
    return pd.DataFrame(rows)


def find_repeated_share(months: Sequence[Month]) -> float:
    """Return the share of rows that repeat a vector of the same month, averaged over the months."""
    return float(np.mean([1 - len(month.first) / len(month) for month in months]))


def find_largest_share(months: Sequence[Month]) -> float:
    """Return the share of rows that have the most frequent vector of their month, averaged over the months."""
    return float(np.mean([np.bincount(month.vector_index).max() / len(month) for month in months]))
