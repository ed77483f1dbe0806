"""The maximum of a stream of values that outliers do not raise: the time that packets have reached."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

IN_A_ROW: Final = 8
"""Consecutive values that must reach a maximum to confirm it; a power of 2."""

NEVER: Final = float("-inf")


class ConfirmedMaximum:
    """The greatest value that ``IN_A_ROW`` consecutive values have reached.

    Attributes:
        value: that value; ``NEVER`` as long as there are fewer values.
    """

    def __init__(self) -> None:
        self.value = NEVER
        self._last: NDArray[Any] = np.empty(0, np.int64)

    def add(self, values: NDArray[Any]) -> None:
        """Add the next values (N,)."""
        lowest = np.concatenate((self._last, values)) if len(self._last) else values
        self._last = lowest[1 - IN_A_ROW :]
        reach = 1  # number of consecutive values of which each element of lowest is the minimum
        while reach < IN_A_ROW:
            lowest = np.minimum(lowest[:-reach], lowest[reach:])
            reach *= 2
        if len(lowest):
            self.value = max(self.value, float(lowest.max()))

    @property
    def unconfirmed(self) -> float:
        """The minimum of the values so far, to be used while there are fewer than ``IN_A_ROW``; ``NEVER`` if none."""
        return float(self._last.min()) if len(self._last) else NEVER
