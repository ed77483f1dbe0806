"""Compute both exits for a whole dataset, and repeated rows only once, with any runtime and without importing torch."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from utils.dataset import find_distinct_vectors
from utils.schema import CLASS_COUNT

FloatArray = NDArray[np.float32]
Progress = Callable[[int], object]
"""Called after each batch with the number of rows that it completed, including repeated ones."""

_LOOKED_AT: Final = 32_768
"""Number of consecutive rows among which repeated rows are found. It is limited, because they are sorted and copied."""


def compute_each_once(
    features: FloatArray, batch_size: int, compute: Callable[[FloatArray], tuple[FloatArray, FloatArray]],
    progress: Progress,
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Return the logits of both exits, each (N, 2) float32, for features (N, 58).

    Args:
        features: (N, 58) float32; copied in parts, so they may be mapped from a file.
        batch_size: distinct rows per batch.
        compute: returns the logits of both exits, each (n, 2), for a batch of features (n, 58).
        progress: see ``Progress``.
    """
    logits = np.empty((2, len(features), CLASS_COUNT), dtype=np.float32)
    for start in range(0, len(features), _LOOKED_AT):
        part = slice(start, start + _LOOKED_AT)
        first, place = find_distinct_vectors(features[part])
        events, repeats = features[part][first], np.bincount(place)
        computed = np.empty((2, len(first), CLASS_COUNT), dtype=np.float32)
        for begin in range(0, len(first), batch_size):
            rows = slice(begin, begin + batch_size)
            computed[0, rows], computed[1, rows] = compute(events[rows])
            progress(int(repeats[rows].sum()))
        logits[:, part] = computed[:, place]
    return logits[0], logits[1]
