"""Two versions of the same work in turns, so that what else the machine does falls on both."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")
Costs = tuple[float, ...]
"""What one run cost, by one measure or several (seconds, bytes): less is better."""


@dataclass(frozen=True)
class Turns:
    """What the plain version and ours cost, a number of each for every round."""

    plain: Costs
    ours: Costs

    @property
    def ratios(self) -> Costs:
        """How many times the plain version costs what ours does, in each round."""
        return tuple(plain / ours for plain, ours in zip(self.plain, self.ours, strict=True))

    @property
    def medians(self) -> tuple[float, float]:
        """Of the plain version's costs and of ours."""
        return statistics.median(self.plain), statistics.median(self.ours)


def in_turns(
    plain: Callable[[], Costs], ours: Callable[[], Costs], rounds: int, *, warm_up: bool = True
) -> tuple[Turns, ...]:
    """Run both ``rounds`` times, each of them first in every other round.

    Args:
        plain, ours: run once and return what that cost, by as many measures.
        rounds: that count.
        warm_up: whether one round goes before, uncounted: first calls allocate and choose kernels.

    Returns:
        the turns by each measure.
    """
    if warm_up:
        plain(), ours()
    of_plain: list[Costs] = []
    of_ours: list[Costs] = []
    for number in range(rounds):
        for work, costs in ((plain, of_plain), (ours, of_ours))[:: -1 if number % 2 else 1]:
            costs.append(work())
    return tuple(
        Turns(*measure) for measure in zip(zip(*of_plain, strict=True), zip(*of_ours, strict=True), strict=True)
    )


def timed(work: Callable[[], object]) -> Callable[[], Costs]:
    """Return a function that does the work and returns the seconds it took."""

    def run() -> Costs:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start,)

    return run


def compared_in_turns(
    plain: Callable[[], Result], ours: Callable[[], Result], compare: Callable[[Result, Result], str], rounds: int
) -> tuple[str, Turns]:
    """Time two versions in turns, and compare what they return.

    Args:
        plain, ours: do the work.
        compare: is given both results of each round, and raises where they differ; returns how equal they are.
        rounds: that count; none goes before.

    Returns:
        what was said of the last round, and the turns.
    """
    results: dict[str, list[Result]] = {"plain": [], "ours": []}

    def kept(name: str, work: Callable[[], Result]) -> Callable[[], object]:
        return lambda: results[name].append(work())

    (turns,) = in_turns(timed(kept("plain", plain)), timed(kept("ours", ours)), rounds, warm_up=False)
    said = [compare(*pair) for pair in zip(results["plain"], results["ours"], strict=True)]
    return said[-1], turns
