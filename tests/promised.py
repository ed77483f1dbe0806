"""What a promise of the toolkit came to when it was measured."""

from dataclasses import dataclass

FIGURE_COLUMNS = ("figure", "goal", "measured", "")


@dataclass(frozen=True)
class Figure:
    """One promise, what was measured, and whether that meets it; None where it is stated beside another's claim."""

    name: str
    goal: str
    measured: str
    met: bool | None

    @property
    def word(self) -> str:
        """Whether it is met, in a word."""
        return {True: "met", False: "NOT MET", None: "stated"}[self.met]

    def cells(self) -> tuple[str, ...]:
        """Return the texts under ``FIGURE_COLUMNS``."""
        return self.name, self.goal, self.measured, self.word
