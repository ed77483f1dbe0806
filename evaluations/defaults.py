"""Defaults that the command line shows and the library uses; this module imports the standard library only."""

from typing import Final

TRAIN_MONTH: Final = "2016_01"
"""The training month that is assumed if no checkpoint names one."""
