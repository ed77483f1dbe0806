"""The time that packets have reached, which a lone packet with a wrong time does not change."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

IN_A_ROW: Final = 8
"""Packets in a row that must have reached a time before it is believed; a power of 2."""

NEVER: Final = float("-inf")


class ConfirmedMaximum:
    """The greatest value that ``IN_A_ROW`` values in a row have reached.

    Attributes:
        value: that value; ``NEVER`` while there were fewer values.
    """

    def __init__(self) -> None:
        self.value = NEVER
        self._last: NDArray[Any] = np.empty(0, np.int64)

    def add(self, values: NDArray[Any]) -> None:
        """Take the next values (N,)."""
        lowest = np.concatenate((self._last, values)) if len(self._last) else values
        self._last = lowest[1 - IN_A_ROW :]
        reach = 1  # values that each of the lowest is the lowest of
        while reach < IN_A_ROW:
            lowest = np.minimum(lowest[:-reach], lowest[reach:])
            reach *= 2
        if len(lowest):
            self.value = max(self.value, float(lowest.max()))

    @property
    def unconfirmed(self) -> float:
        """The least of the values so far while there are fewer than ``IN_A_ROW``; ``NEVER`` where there are none."""
        return float(self._last.min()) if len(self._last) else NEVER
