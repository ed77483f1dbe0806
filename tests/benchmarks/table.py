"""The table of a benchmark: a row for each comparison, as text and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.results import write_results
from tests.benchmarks.rounds import Costs, Turns

COLUMNS = ("step", "unit", "plain", "ours", "ratio", "spread", "goal", "", "of ceiling", "note")


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        step: what was done.
        unit: of the two figures.
        plain, ours: medians over the rounds.
        ratios: how many times better ours was, in each round.
        ratio: their median.
        goal: the least ratio that was aimed at; None where there is none.
        ceiling: what part of the machine's matrix product ours came to; None where that means nothing.
        holds: whether the results are equal enough for the ratio to count.
        note: how equal the results are, and what else must be known.
    """

    step: str
    unit: str
    plain: float
    ours: float
    ratios: Costs
    ratio: float
    goal: float | None = None
    ceiling: float | None = None
    holds: bool = True
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal was met; None where there is none."""
        return None if self.goal is None else self.holds and self.ratio >= self.goal

    def cells(self) -> tuple[str, ...]:
        """Return the row's texts under COLUMNS, but for the note."""
        return (
            self.step, self.unit, figure(self.plain), figure(self.ours), f"{figure(self.ratio)}×",
            f"{figure(min(self.ratios))}–{figure(max(self.ratios))}",
            "–" if self.goal is None else f"≥ {self.goal:g}×",
            {True: "met", False: "MISSED", None: ""}[self.met],
            "–" if self.ceiling is None else f"{100 * self.ceiling:.1f} %",
        )  # fmt: skip


def row(
    step: str, unit: str, turns: Turns, *, scale: float = 1.0, events: int | None = None, goal: float | None = None,
    ceiling: float | None = None, holds: bool = True, note: str = "",
) -> Row:  # fmt: skip
    """Return the row of some turns.

    Args:
        step, unit, goal, ceiling, holds, note: as in ``Row``.
        turns: costs.
        scale: the unit's in the costs' unit, as 1e3 for milliseconds of seconds.
        events: the figures are these over the cost, a rate; None: they are the costs.
    """
    plain, ours = (events / cost if events else scale * cost for cost in turns.medians)
    ratios = turns.ratios
    return Row(
        step, unit, plain, ours, ratios, Turns(ratios, (1.0,) * len(ratios)).medians[0], goal, ceiling, holds, note
    )


def figure(value: float) -> str:
    """Return a number in three digits or more, as many as tell something."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def in_words(rows: Sequence[Row]) -> str:
    """Return the table, its columns aligned, the notes below it by number."""
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    lines = [COLUMNS, *((*row.cells(), f"[{notes.index(row.note) + 1}]" if row.note else "") for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    left = {0, 1, 7, 9}
    table = [
        "  ".join(
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([table[0], "-" * len(table[0]), *table[1:], *(f"[{i}] {note}" for i, note in enumerate(notes, 1))])


def goals(rows: Sequence[Row]) -> str:
    """Return how many goals were met, and which were not."""
    aimed = [row for row in rows if row.met is not None]
    missed = [
        f"MISSED: {row.step}: {figure(row.ratio)}× of {row.goal:g}×{'' if row.holds else ', and other results'}"
        for row in aimed
        if not row.met
    ]
    return "\n".join([f"{len(aimed) - len(missed)} of {len(aimed)} goals met", *missed])


def write_json(path: Path, circumstances: dict[str, object], rows: Sequence[Row], failures: Sequence[str]) -> None:
    """Write the table as ``write_results`` does, and besides all figures: ``figures``, ``failures``."""
    figures = [{**asdict(row), "met": row.met} for row in rows]
    cells = [(*row.cells(), row.note) for row in rows]
    write_results(path, COLUMNS, cells, circumstances=circumstances, figures=figures, failures=list(failures))
