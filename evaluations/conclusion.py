"""State whether exit 2 and offloading pay off, as one sentence, a table and cautions.

One system has a lower error than another only if the interval of the difference lies entirely below zero, and a higher
error only if it lies entirely above zero. If the interval contains zero or is unknown, no difference is shown.

Exit 2 *pays off* only if the two exits have a lower error than exit 1 alone in each of three ways of rejecting: with as
many events accepted on the later months; with thresholds by class; and with one threshold. The thresholds accept as
many events as the two exits on the month of the choice, which is the month that all thresholds are chosen on.
*Offloading* pays off only if, in addition, the two exits cost less than exit 2 alone or have a lower error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

import numpy as np
import pandas as pd

from evaluations.bootstrap import LEVEL, ConfidenceInterval
from utils.classification_metrics import ratio

ENOUGH_NETWORKS: Final = 3
UNEQUAL_ACCEPTANCE: Final = 0.01
"""Acceptances that differ by more than this share are reported as unequal."""


class Direction(IntEnum):
    """The direction of a difference of errors, as far as its interval shows one.

    Of several differences, the one with the greatest direction decides whether exit 2 pays off.
    """

    LOWER = 0
    OPEN = 1
    HIGHER = 2
    UNKNOWN = 3


@dataclass(frozen=True)
class System:
    """The mean rates of a compared system over the later months and the networks; NaN where unknown.

    Attributes:
        name: as the report shows it.
        error: wrong / accepted.
        acceptance: accepted / all.
        offloaded: sent to exit 2 / all.
        cost: of an event, as a share of the reference.
        difference: error of the two exits minus that of this system; None for the two exits themselves.
    """

    name: str
    error: float
    acceptance: float
    offloaded: float
    cost: float
    difference: ConfidenceInterval | None


@dataclass(frozen=True)
class Findings:
    """The rates and differences that the conclusion is based on.

    Attributes:
        networks: number of networks.
        two_exits: the system that is compared with the others.
        exit_1: exit 1 alone with three ways of rejecting: accepting as many events as the two exits on later months,
            and with thresholds by class and with one threshold, which accept as many on the month of the choice.
        exit_2: exit 2 alone, accepting as many events.
        baselines: all other systems; those that can reject accept as many events.
        exit_1_elsewhere: each subset but all rows -> difference from exit 1 alone that accepts as many of its events.
    """

    networks: int
    two_exits: System
    exit_1: tuple[System, System, System]
    exit_2: System
    baselines: Sequence[System]
    exit_1_elsewhere: Mapping[str, ConfidenceInterval]


def find_direction(difference: ConfidenceInterval | None) -> Direction:
    """Return the direction that the interval of a difference shows."""
    if difference is None or not difference.low <= difference.high:  # also true if a bound is NaN
        return Direction.UNKNOWN
    if difference.high < 0:
        return Direction.LOWER
    return Direction.HIGHER if difference.low > 0 else Direction.OPEN


def find_deciding_exit_1(findings: Findings) -> System:
    """Return exit 1 alone with the way of rejecting that is least favourable to exit 2; of equal ones, the first."""
    return max(findings.exit_1, key=lambda system: find_direction(system.difference))


def state_conclusion(findings: Findings) -> str:
    """Return one sentence that says whether exit 2 and offloading pay off."""
    exit_1, exit_2 = find_deciding_exit_1(findings), findings.exit_2
    few = f" (with {_format_count(findings.networks)})" if findings.networks < ENOUGH_NETWORKS else ""
    cheaper = " and costs less" if exit_1.cost < findings.two_exits.cost else ""
    match find_direction(exit_1.difference):
        case Direction.UNKNOWN:
            return "It is unknown whether exit 2 pays off here: too few events are accepted."
        case Direction.HIGHER:
            return f"Exit 2 does not pay off here: {exit_1.name} errs less{cheaper}."
        case Direction.OPEN:
            same = f"reaches the same error within the {100 * LEVEL:g} % interval"
            return f"Exit 2 does not pay off here: {exit_1.name} {same}{cheaper}."
    if findings.two_exits.cost >= exit_2.cost and find_direction(exit_2.difference) != Direction.LOWER:
        return (
            f"Exit 2 pays off here{few}, but exit 1 and offloading do not: exit 2 alone is not shown to err more and "
            "costs no more."
        )
    assert exit_1.difference is not None
    gain, price = -100 * exit_1.difference.estimate, ratio(findings.two_exits.cost, exit_1.cost)
    return (
        f"Exit 2 pays off here{few}: the two exits err {gain:.2f} points less than exit 1 alone at equal acceptance, "
        f"at {price:.2f} times its cost."
    )


def build_overview(findings: Findings) -> pd.DataFrame:
    """Return a table of text with exit 1 alone, the two exits, exit 2 alone and the baseline with the lowest error."""
    systems = [find_deciding_exit_1(findings), findings.two_exits, findings.exit_2]
    if findings.baselines:
        best = min(findings.baselines, key=lambda system: system.error if system.error == system.error else 1.0)
        systems.append(replace(best, name=f"best baseline: {best.name}"))
    rates = {"error": "error", "accepted": "acceptance", "offloaded": "offloaded", "cost": "cost"}
    return pd.DataFrame(
        {
            "system": [system.name for system in systems],
            **{title: [format_share(getattr(system, rate)) for system in systems] for title, rate in rates.items()},
            "difference": [format_difference(system.difference) for system in systems],
        }
    )


def list_cautions(findings: Findings) -> list[str]:
    """Return the limits of the conclusion, each as one sentence."""
    found = []
    exit_1 = find_deciding_exit_1(findings)
    if find_direction(exit_1.difference) == Direction.LOWER:
        not_shown = [
            subset
            for subset, difference in findings.exit_1_elsewhere.items()
            if find_direction(difference) != Direction.LOWER
        ]
        if not_shown:
            found.append(f"On {' and '.join(not_shown)}, no gain over exit 1 alone is shown.")
    for direction, words in (
        (Direction.HIGHER, "Baselines that err less than the two exits"),
        (Direction.OPEN, "Baselines that are not shown to err more than the two exits"),
    ):
        names = [system.name for system in findings.baselines if find_direction(system.difference) == direction]
        if names:
            found.append(f"{words}: {', '.join(names)}.")
    drift = findings.exit_1[-1].acceptance - findings.two_exits.acceptance
    if abs(drift) > UNEQUAL_ACCEPTANCE:
        fewer = "exit 1 alone accepts" if drift < 0 else "the two exits accept"
        found.append(
            f"With thresholds of equal acceptance on the month of the choice, {fewer} fewer events on later months; "
            "the events that are still accepted are easier ones."
        )
    if findings.exit_2.cost <= exit_1.cost:
        found.append("The path to exit 2 costs no more than exit 1: deciding an event at exit 1 saves nothing here.")
    if findings.networks < ENOUGH_NETWORKS:
        found.append(
            f"The spread from seed to seed is not covered by {_format_count(findings.networks)}; give "
            f"{ENOUGH_NETWORKS} or more, each trained with another seed."
        )
    return found


def format_share(share: float) -> str:
    """Return a share in percent with two decimals and without the percent sign; empty if it is unknown."""
    return "" if np.isnan(share) else f"{100 * share:.2f}"


def format_difference(difference: ConfidenceInterval | None) -> str:
    """Return a difference of shares in percentage points, and its interval; empty for None."""
    if difference is None:
        return ""
    bounds = f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f}"
    is_known = find_direction(difference) != Direction.UNKNOWN
    return f"{100 * difference.estimate:+.2f} ({bounds if is_known else 'unknown'})"


def _format_count(networks: int) -> str:
    return f"{networks} network{'' if networks == 1 else 's'}"
