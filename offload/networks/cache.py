"""A cache of the logits of both exits by feature vector.

Traffic repeats itself: in batches of one, two thirds of the rows of a published month are among the last 4,096
different ones.
"""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from offload.networks.exits import FloatArray
from utils.schema import CLASS_COUNT

EXITS = 2


class Cache:
    """The logits of the most recently used vectors; others are evicted.

    Args:
        size: most vectors, at least 1.
        on_lookup: called with the number of the exit, the hits and the misses, by ``find_missing``.

    Attributes:
        hits, misses: numbers for exit 1 and exit 2, over all lookups.
    """

    def __init__(self, size: int, on_lookup: Callable[[int, int, int], object] = lambda *_counts: None) -> None:
        self._size = size
        self._on_lookup = on_lookup
        self._rows: OrderedDict[bytes, int] = OrderedDict()  # least recently used first
        self._logits = np.empty((size, EXITS, CLASS_COUNT), dtype=np.float32)
        self.hits, self.misses = [0, 0], [0, 0]

    def make_empty(self) -> "Cache":
        """Return an empty cache for another network; hits and misses of both are counted together."""
        empty = Cache(self._size, self._on_lookup)
        empty.hits, empty.misses = self.hits, self.misses
        return empty

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, keys: list[bytes]) -> FloatArray:
        """Return the logits (n, 2 exits, 2) float32 of n vectors, NaN for those that are not cached."""
        logits = np.full((len(keys), EXITS, CLASS_COUNT), np.nan, dtype=np.float32)
        rows = np.array([self._rows.get(key, -1) for key in keys], dtype=np.intp)
        found = np.flatnonzero(rows >= 0)
        for number in found.tolist():
            self._rows.move_to_end(keys[number])
        logits[found] = self._logits[rows[found]]
        return logits

    def find_missing(self, exit_number: int, logits: FloatArray) -> NDArray[np.intp]:
        """Return the rows (k,) of one exit's logits (n, 2) that ``find`` did not find; count hits and misses."""
        missing = np.flatnonzero(np.isnan(logits[:, 0]))
        hits = len(logits) - len(missing)
        self.hits[exit_number - 1] += hits
        self.misses[exit_number - 1] += len(missing)
        self._on_lookup(exit_number, hits, len(missing))
        return missing

    def put(self, keys: list[bytes], exit_number: int, logits: FloatArray) -> None:
        """Store one exit's logits (n, 2) of n different vectors."""
        keys, logits = keys[-self._size :], logits[-self._size :]  # otherwise a later vector could evict an earlier one
        rows = self._rows
        for key in keys:
            row = rows.pop(key, None)
            if row is None:
                row = len(rows) if len(rows) < self._size else rows.popitem(last=False)[1]
                self._logits[row] = np.nan
            rows[key] = row
        self._logits[[rows[key] for key in keys], exit_number - 1] = logits


def make_keys(features: FloatArray) -> list[bytes]:
    """Return the bytes of each vector of (n, 58) float32."""
    rows = np.ascontiguousarray(features)
    length, data = rows.dtype.itemsize * rows.shape[1], rows.tobytes()
    return [data[start : start + length] for start in range(0, len(data), length)]
