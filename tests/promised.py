"""What a promise of the toolkit came to when it was measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One promise, what was measured, and whether that meets it."""

    name: str
    goal: str
    measured: str
    met: bool
