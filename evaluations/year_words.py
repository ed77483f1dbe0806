"""What a report says of its networks, its data and its method."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from evaluations.baselines import MATCHED, REJECT
from evaluations.bootstrap import LEVEL
from evaluations.comparisons import findings
from evaluations.judgement import Judgement, Months
from evaluations.later_months import BOUND, BY_CLASS, SYSTEM
from evaluations.months import ALL_ROWS, Month, constant_columns, equal_columns
from evaluations.networks import Origin
from evaluations.rates import over_time
from evaluations.verdict import percent, verdict
from evaluations.year_report import Report

_THRESHOLDS: Final = ("n 1", "a 1", "n 2", "a 2")


@dataclass(frozen=True)
class How:
    """How it was judged, for the words.

    Attributes:
        min_acceptance: that was asked for.
        point: of the front.
        resamples: for the intervals.
        by_vector: whether distinct vectors were resampled; else rows.
        reference: what costs are shares of.
    """

    min_acceptance: float
    point: str
    resamples: int
    by_vector: bool
    reference: str


def make_report(
    origins: Sequence[Origin], months: Months, judgement: Judgement, comparisons: pd.DataFrame, how: How
) -> Report:
    """Return the report of a judgement; see ``comparisons.compare``."""
    overall = over_time(judgement.on_later)
    found = findings(overall, comparisons, len(months.later), len(origins), how.reference)
    return Report(
        title=title(origins, months),
        verdict=verdict(found),
        networks=network_table(origins, judgement),
        on_later=judgement.on_later,
        overall=overall,
        comparisons=comparisons,
        columns=about_columns(months.training),
        method=method(months, how),
    )


def title(origins: Sequence[Origin], months: Months) -> str:
    """Return the report's title."""
    first, last = months.later[0].name, months.later[-1].name
    return f"{origins[0].architecture}, judged on {first if first == last else f'{first} to {last}'}"


def network_table(origins: Sequence[Origin], judgement: Judgement) -> pd.DataFrame:
    """Return a row for each network: where it comes from, what was chosen for it, and what that does on that month."""
    is_system = (judgement.on_choice["system"] == SYSTEM) & (judgement.on_choice["subset"] == ALL_ROWS)
    of_system = judgement.on_choice[is_system].dropna(subset=["error"]).to_dict("records")
    rows = []
    for number, (origin, choice, costs, rates) in enumerate(
        zip(origins, judgement.choices, judgement.costs, of_system, strict=True), 1
    ):
        rows.append(
            {
                "network": f"{number}: {origin.path.name}",
                "seed": origin.seed,
                "calibrated on": " ".join(origin.calibrated),
                **dict(zip(_THRESHOLDS, (f"{value:.4f}" for value in vars(choice.thresholds).values()), strict=True)),
                "accepted": _percentage(rates["acceptance"]),
                "error": _percentage(rates["error"]),
                "offloaded": _percentage(rates["offloaded"]),
                "µs exit 1": f"{1e6 * costs.exit_1:.1f}",
                "µs offloaded": f"{1e6 * costs.offloaded:.1f}",
            }
        )
    return pd.DataFrame(rows)


def _percentage(share: float) -> str:
    return f"{100 * share:.2f}"


def about_columns(training: Month) -> list[str]:
    """Return sentences about columns that say nothing, or nothing more."""
    constant, equal = constant_columns(training.features), equal_columns(training.features)
    words = "No column is constant."
    if constant:
        words = f"Constant, so that nothing can be learnt from them: {', '.join(constant)}."
    more = "No others are equal in every row."
    if equal:
        groups = "; ".join(" = ".join(names) for names in equal)
        more = f"Equal in every row, so that the second says nothing more than the first: {groups}."
    return [words, more]


def repeated_share(months: Sequence[Month]) -> float:
    """Return the share of rows that repeat a vector of the same month, the mean over months."""
    return float(np.mean([1 - len(month.first) / len(month) for month in months]))


def largest_share(months: Sequence[Month]) -> float:
    """Return the share of rows that have the most frequent vector, the mean over months."""
    return float(np.mean([np.bincount(month.place).max() / len(month) for month in months]))


def method(months: Months, how: How) -> list[str]:
    """Return how it was done, a paragraph each."""
    units = "distinct vectors, each with all its rows" if how.by_vector else "rows, each for itself"
    resampled = (
        "So vectors were resampled." if how.by_vector else "Here rows were resampled all the same, as asked for."
    )
    return [
        f"All thresholds were chosen on {months.choice.name} alone, those of the two exits as the {how.point} point of "
        f"the exact Pareto front at an acceptance of at least {percent(how.min_acceptance)} there. No label and no row "
        "of a later month has a say in a threshold or a baseline; that none had in a network was checked as far as its "
        "file says what it was trained and calibrated on.",
        f"Baselines were trained on all rows of {months.training.name}; the networks on those that their training did "
        f"not hold back. “{REJECT.strip()}” accepts from that certainty on which, on the month of the choice, accepts "
        "at least as many events as the two exits. Equal certainties stand and fall together, so it can be more: a "
        f"shallow tree has few different ones. “{BY_CLASS}” has thresholds of least error for each class, so it has "
        "all that the two exits have but exit 2.",
        f"“{MATCHED.strip()}” accepts, in each month and subset, exactly as many events as the two exits do there: "
        "the most certain, and a part of those that are equally certain at the limit, as if by lot. No one could "
        "choose that threshold before, for it follows from the certainties in the month that it is judged on, though "
        "not from its labels; it is there for comparison alone: acceptances drift, and who accepts less has the easier "
        "events.",
        "Errors, accuracies and F1 are of accepted events. “Share of bound” is the accuracy as a share of the best "
        "that exact match can reach on the accepted rows: for each vector the label that most of its rows have in "
        f"that month. “{BOUND}” is that bound itself, on all rows. AUT is the area under time, the trapezoidal mean "
        "over the months.",
        f"Costs are CPU time, measured on {months.choice.name} in batches, and given as shares of {how.reference}. "
        "Baselines that are no networks were not timed.",
        f"Intervals hold {percent(LEVEL)} of {how.resamples} paired bootstrap resamples: within each month {units}, "
        "drawn with replacement, the same for both systems, and the networks likewise. Months, training rows and "
        "thresholds are not drawn, so intervals say nothing of other months. Few networks show little of the spread "
        "from seed to seed, so with few the intervals are too narrow. They are not corrected for the number of "
        "comparisons.",
        f"{percent(repeated_share(months.later))} of the rows repeat a vector of their month, and the most frequent "
        f"vector has {percent(largest_share(months.later))}. All rows of a vector get the same answer, so they are no "
        f"evidence of their own: taken as rows, they make intervals narrow. {resampled} A frequent vector makes "
        "intervals by vectors wide, for many resamples lack it.",
    ]
