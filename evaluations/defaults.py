"""Defaults that the command line shows and the library uses; standard library only."""

from typing import Final

TRAIN_MONTH: Final = "2016_01"
"""The month of training where no checkpoint names one."""
