"""How many threads and how large chunks make exit 1 find_fastest on this machine, found by trying."""

import time
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from offload.networks.exits import Network
from utils.schema import FEATURE_COUNT

CHUNKS: Final = (8, 16, 32, 64, 128)
_EVENTS: Final = 128
_PASSES: Final = 3

Opening = Callable[[int | None, int], Network]
"""Opens a network that computes with so many threads, and so many events a pass."""


def find_fastest(
    open_network: Opening, threads: Iterable[int | None], chunks: Iterable[int]
) -> tuple[Network, int | None, int]:
    """Return the network whose exit 1 takes least time for 128 events, with its threads and chunk.

    Args:
        open_network: opens it.
        threads: to try; of one alone, and one chunk, nothing is measured.
        chunks: events of one pass to try.
    """
    pairs = [(count, chunk) for count in threads for chunk in chunks]
    best = min(pairs, key=lambda pair: _seconds(open_network(*pair))) if len(pairs) > 1 else pairs[0]
    return open_network(*best), *best


def _seconds(network: Network) -> float:
    """Return the least time of some passes; the first, which makes room, does not count."""
    features = np.random.default_rng(0).random((_EVENTS, FEATURE_COUNT), dtype=np.float32)
    network.exit_1(features)
    times = []
    for _ in range(_PASSES):
        start = time.perf_counter()
        network.exit_1(features)
        times.append(time.perf_counter() - start)
    return min(times)
