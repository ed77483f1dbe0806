"""A figure that the toolkit promises, with its goal and its measurement."""

from dataclasses import dataclass

FIGURE_COLUMNS = ("figure", "goal", "measured", "")


@dataclass(frozen=True)
class Figure:
    """One figure; ``met`` is None if it has no goal of its own and is only stated beside the paper's claim."""

    name: str
    goal: str
    measured: str
    met: bool | None

    @property
    def word(self) -> str:
        """One word for whether the goal is met."""
        return {True: "met", False: "NOT MET", None: "stated"}[self.met]

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the columns ``FIGURE_COLUMNS``."""
        return self.name, self.goal, self.measured, self.word
