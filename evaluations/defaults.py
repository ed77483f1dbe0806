"""Defaults that the command line shows and the library uses; this module imports the standard library only."""

from typing import Final

TRAIN_MONTH: Final = "2016_01"
"""The training month that is assumed if no checkpoint names one."""

FROZEN: Final = "frozen"
WATCHED: Final = "watched"
RECERTIFIED: Final = "recertified"
RENEWED: Final = "renewed"
POLICIES: Final = (FROZEN, WATCHED, RECERTIFIED, RENEWED)
"""What is done after the month of the choice; see ``evaluations.policies``."""

RANDOM_SHARE: Final = 0.5
"""Share of the records to label that is random; the others are informative."""
