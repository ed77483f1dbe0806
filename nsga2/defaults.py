"""Choices and defaults that the command lines show and the library uses; standard library only."""

from typing import Final

KNEE: Final = "knee"
LEAST_ERROR: Final = "least-error"
LEAST_COST: Final = "least-cost"
NAMED_POINTS: Final = (KNEE, LEAST_ERROR, LEAST_COST)
"""Names of points of a front."""

NUMBERED_POINT: Final = 5
"""The point that is shown where none is asked for, as published; the last one on a shorter front."""

COST_MODELS: Final = ("paper", "full", "edge")
COST_MODEL: Final = "paper"
"""How events are charged; see ``utils.cost_models.event_costs``."""

GRID_SIZE: Final = 512
"""Most thresholds of a class at an exit that the exact solver tries."""
