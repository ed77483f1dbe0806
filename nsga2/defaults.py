"""Choices and defaults that the command lines show and the library uses; it imports the standard library only."""

from typing import Final

KNEE: Final = "knee"
LEAST_ERROR: Final = "least-error"
LEAST_COST: Final = "least-cost"
NAMED_POINTS: Final = (KNEE, LEAST_ERROR, LEAST_COST)
"""The points of a front that can be chosen by name."""

NUMBERED_POINT: Final = 5
"""Number of the point that is chosen by default, as published; on a shorter front, the last point is chosen."""

COST_MODELS: Final = ("paper", "full", "edge")
COST_MODEL: Final = "paper"
"""The default cost model; see ``utils.cost_models.compute_event_costs``."""

GRID_SIZE: Final = 512
"""The most thresholds of a class at an exit that the exact solver tries by default."""

TOLERANCE: Final = 0.08
"""Tolerated difference of the share of a kind of event. On the published months, thresholds of February go on to hold
in March to September, whose shares differ by up to 0.06; in October, a share differs by 0.20, and they do not hold."""
