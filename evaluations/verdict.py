"""What the numbers say, in words, by rules that stand here.

One system errs less than another, or more, only where the interval of the difference lies wholly under zero, or over
it. Where it holds zero, or is unknown, nothing has been shown. The second exit *earns its place* only where the two
exits err less than exit 1 alone in three ways: with one threshold of equal acceptance on the month of the choice, with
such thresholds for each class, and with as many events accepted on the later months. Where one of the three shows the
opposite, exit 1 alone is the better one. The *offloading* earns its place only where, besides, it costs less than
asking exit 2 always, or errs less.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from evaluations.bootstrap import Interval
from utils.classification_metrics import ratio

LOWER: Final = "lower"
HIGHER: Final = "higher"
OPEN: Final = "open"
UNKNOWN: Final = "unknown"

ENOUGH_NETWORKS: Final = 3
UNEQUAL_ACCEPTANCE: Final = 0.01
"""Acceptances that differ by more are called unequal."""


@dataclass(frozen=True)
class Alternative:
    """A system that is compared with the two exits, over the later months.

    Attributes:
        error: of its accepted events.
        acceptance: accepted / all.
        difference: error of the two exits - its error.
    """

    error: float
    acceptance: float
    difference: Interval


@dataclass(frozen=True)
class Findings:
    """The numbers that the verdict rests on; means over the later months and the networks.

    Attributes:
        months: how many are judged.
        networks: how many.
        error, acceptance, offloaded: of the two exits.
        cost: of the two exits, as a share of what the network is compared with.
        cost_exit_1, cost_exit_2: of each exit alone, likewise.
        reference: what costs are shares of.
        exit_1, exit_1_by_class: exit 1 alone, at equal acceptance on the month of the choice.
        exit_1_matched, exit_2: each exit alone, at equal acceptance on the later months.
        others: name -> what else is compared, at equal acceptance on the later months where it can reject.
        exit_1_elsewhere: subset of the rows -> exit 1 alone, at equal acceptance there.
        elsewhere: subset of the rows -> name -> what else is compared there.
    """

    months: int
    networks: int
    error: float
    acceptance: float
    offloaded: float
    cost: float
    cost_exit_1: float
    cost_exit_2: float
    reference: str
    exit_1: Alternative
    exit_1_by_class: Alternative
    exit_1_matched: Alternative
    exit_2: Alternative
    others: Mapping[str, Alternative]
    exit_1_elsewhere: Mapping[str, Alternative]
    elsewhere: Mapping[str, Mapping[str, Alternative]]


def judged(difference: Interval) -> str:
    """Return which way a difference has been shown to go: ``LOWER``, ``HIGHER``, ``OPEN`` or ``UNKNOWN``."""
    if not difference.low <= difference.high:  # NaN
        return UNKNOWN
    if difference.high < 0:
        return LOWER
    return HIGHER if difference.low > 0 else OPEN


def percent(share: float) -> str:
    """Return a share as a percentage, with more digits where it is small."""
    size = round(abs(share), 6)  # 1 - 0.9 is a hair under 0.1
    digits = 3 if size < 0.001 else 2 if size < 0.1 else 1
    return f"{100 * share:.{digits}f} %"


def in_points(difference: Interval) -> str:
    """Return a difference of shares and its interval in percentage points."""
    if judged(difference) == UNKNOWN:
        return f"{100 * difference.estimate:+.2f} points, interval unknown"
    low, high = 100 * difference.low, 100 * difference.high
    return f"{100 * difference.estimate:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"


def verdict(findings: Findings) -> list[str]:
    """Return the verdict: a headline, then what it rests on, a sentence or a few each."""
    return [
        headline(findings),
        rivals(findings.others),
        situation(findings),
        against_exit_1(findings),
        price(findings),
        against_exit_2(findings),
        *against_others(findings.others),
        *on_subsets(findings),
        *cautions(findings),
    ]


def headline(findings: Findings) -> str:
    """Return whether the second exit, and so the offloading, earns its place."""
    alone = (findings.exit_1, findings.exit_1_by_class, findings.exit_1_matched)
    ways = {judged(other.difference) for other in alone}
    if ways == {LOWER}:
        if findings.cost >= findings.cost_exit_2 and judged(findings.exit_2.difference) != LOWER:
            return (
                "The second exit earns its place on these months, but exit 1 and the offloading do not: exit 2 alone "
                "is not shown to err more than the two exits, and costs no more."
            )
        few = findings.networks < ENOUGH_NETWORKS
        restriction = f", with {_counted(findings.networks, 'network')} alone" if few else ""
        return f"The second exit and the offloading earn their place on these months{restriction}: {_gain(findings)}"
    if UNKNOWN in ways:
        return (
            "Whether the second exit and the offloading earn their place cannot be said: too few events are accepted."
        )
    lost = "The second exit and the offloading do not earn their place on these months: "
    cost = ", and costs less" if findings.cost_exit_1 < findings.cost else ""
    if HIGHER in ways:
        return f"{lost}exit 1 alone errs less, in one way of rejecting at least{cost}."
    return f"{lost}exit 1 alone is not shown to err more in every way of rejecting{cost}."


def _gain(findings: Findings) -> str:
    """Return how much less the two exits err than exit 1 alone, for how much more, and where that is not shown."""
    words = (
        f"they err {-100 * findings.exit_1_matched.difference.estimate:.2f} points less than exit 1 alone at equal "
        f"acceptance, at {ratio(findings.cost, findings.cost_exit_1):.2f} times its cost."
    )
    open_ways = [name for name, other in findings.exit_1_elsewhere.items() if judged(other.difference) != LOWER]
    return f"{words} On {' and '.join(open_ways)} this is not shown." if open_ways else words


def rivals(others: Mapping[str, Alternative]) -> str:
    """Return whether anything simpler does as well."""
    better = [name for name, other in others.items() if judged(other.difference) == HIGHER]
    equal = [name for name, other in others.items() if judged(other.difference) == OPEN]
    parts = []
    if better:
        parts.append(f"shown to err less than the two exits: {', '.join(better)}")
    if equal:
        parts.append(f"not shown to err more than the two exits: {', '.join(equal)}")
    if not parts:
        return "Nothing else that was compared is shown to do as well."
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def situation(findings: Findings) -> str:
    """Return what the system does on the later months."""
    return (
        f"On {_counted(findings.months, 'later month')}, with {_counted(findings.networks, 'network')}, the two exits "
        f"accept {percent(findings.acceptance)} of the events and err on {percent(findings.error)} of those."
    )


def against_exit_1(findings: Findings) -> str:
    """Return what exit 1 alone does at equal acceptance, in three ways."""
    ways = {
        "with one threshold": findings.exit_1,
        "with one for each class, as the two exits have": findings.exit_1_by_class,
        "with as many events accepted on the later months": findings.exit_1_matched,
    }
    found = [
        f"on {percent(other.error)} of the {percent(other.acceptance)} accepted {way} (two exits: "
        f"{in_points(other.difference)})"
        for way, other in ways.items()
    ]
    return f"Exit 1 alone, rejecting what it is not certain of, errs {'; '.join(found)}."


def price(findings: Findings) -> str:
    """Return what the second exit costs, and how much of what it is asked it answers."""
    rejected = 1.0 - findings.acceptance
    return (
        f"The two exits offload {percent(findings.offloaded)} of all events, accept "
        f"{percent(max(findings.offloaded - rejected, 0.0))} at exit 2 and reject {percent(rejected)}. An event costs "
        f"them {percent(findings.cost)} of {findings.reference}; exit 1 alone {percent(findings.cost_exit_1)}."
    )


def against_exit_2(findings: Findings) -> str:
    """Return what is lost, or not, by not asking exit 2 always."""
    cheaper = "for less cost" if findings.cost < findings.cost_exit_2 else "for no less cost"
    words = {
        LOWER: f"the two exits err less, {cheaper}",
        HIGHER: f"the two exits err more, {cheaper}",
        OPEN: f"no difference of error is shown, {cheaper}",
        UNKNOWN: "the difference of error is unknown",
    }
    other = findings.exit_2
    return (
        f"Asking exit 2 always costs {percent(findings.cost_exit_2)}, and at as many events accepted it errs on "
        f"{percent(other.error)}: {words[judged(other.difference)]} ({in_points(other.difference)})."
    )


def against_others(others: Mapping[str, Alternative]) -> list[str]:
    """Return a sentence for each way in which comparisons ended."""
    words = {
        LOWER: "The two exits err less than",
        OPEN: "No difference is shown from",
        HIGHER: "The two exits err more than",
        UNKNOWN: "Unknown is the difference from",
    }
    sentences = []
    for way, beginning in words.items():
        found = [
            f"{name} ({percent(other.error)} of {percent(other.acceptance)} accepted: {in_points(other.difference)})"
            for name, other in others.items()
            if judged(other.difference) == way
        ]
        if found:
            sentences.append(f"{beginning} {'; '.join(found)}.")
    return sentences


def on_subsets(findings: Findings) -> list[str]:
    """Return what is different where rows do not repeat, a sentence for each subset of the rows."""
    words = {
        LOWER: "err less than",
        OPEN: "are not shown to differ from",
        HIGHER: "err more than",
        UNKNOWN: "cannot be compared with",
    }
    sentences = []
    for subset, exit_1 in findings.exit_1_elsewhere.items():
        compared = {"exit 1 alone at equal acceptance": exit_1, **findings.elsewhere[subset]}
        found = [
            f"{words[judged(other.difference)]} {name} ({in_points(other.difference)})"
            for name, other in compared.items()
        ]
        sentences.append(f"On {subset} the two exits {'; '.join(found)}.")
    return sentences


def cautions(findings: Findings) -> list[str]:
    """Return what a reader must know before believing the rest."""
    found = []
    drift = findings.exit_1.acceptance - findings.acceptance
    if abs(drift) > UNEQUAL_ACCEPTANCE:
        less = "exit 1 alone accepts" if drift < 0 else "the two exits accept"
        found.append(
            "Acceptances that were equal on the month of the choice have drifted apart on the later ones: "
            f"{less} less now, and who accepts less has the easier events."
        )
    if findings.cost_exit_2 <= findings.cost_exit_1:
        found.append(
            "Exit 1 alone costs no less than the path to exit 2 here: to decide an event at exit 1 saves nothing."
        )
    if findings.networks < ENOUGH_NETWORKS:
        found.append(
            f"With {_counted(findings.networks, 'network')} the spread from seed to seed is not covered; "
            f"give {ENOUGH_NETWORKS} or more, each trained with a seed of its own."
        )
    return found


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
