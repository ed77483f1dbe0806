"""Count the values in a range of an array that are at least a limit, without a pass over the range."""

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


class RangeCounter:
    """Counts how many values in a range of an array are at least a limit.

    Source: Claude, Navarro and Ordóñez, "The wavelet matrix: an efficient wavelet tree for large alphabets",
    Information Systems 47, 2015. A query takes as many steps as the greatest value has bits.

    Args:
        values: (N,) int64, 0 or more.
    """

    def __init__(self, values: IntArray) -> None:
        self._bits = max(1, int(values.max(initial=0)).bit_length())
        self._ones = np.zeros((self._bits, len(values) + 1), dtype=np.int64)  # ones before each place, by level
        for level in range(self._bits):
            ones = (values >> (self._bits - 1 - level)) & 1
            np.cumsum(ones, out=self._ones[level, 1:])
            values = np.concatenate((values[ones == 0], values[ones == 1]))  # in the order of the next level

    def count_at_least(self, start: IntArray, stop: IntArray, least: IntArray) -> IntArray:
        """Return how many of values[start:stop] are at least ``least``, for Q queries (Q,) at once."""
        impossible = least >> self._bits > 0
        count = np.zeros(len(least), dtype=np.int64)
        for level, ones in enumerate(self._ones):
            bit = ((least >> (self._bits - 1 - level)) & 1).astype(np.bool_)
            start_ones, stop_ones = ones[start], ones[stop]
            # Where the limit's bit is 0, all values with a 1 reach it; the next level compares the others.
            count += np.where(bit, 0, stop_ones - start_ones)
            zeros = len(ones) - 1 - ones[-1]
            start = np.where(bit, zeros + start_ones, start - start_ones)
            stop = np.where(bit, zeros + stop_ones, stop - stop_ones)
        return np.where(impossible, 0, count + stop - start)
