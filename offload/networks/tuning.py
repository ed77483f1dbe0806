"""Measure which number of threads and which chunk make exit 1 fastest on this machine."""

import time
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from offload.networks.exits import Network
from utils.schema import FEATURE_COUNT

CHUNKS: Final = (8, 16, 32, 64, 128)
_EVENTS: Final = 128
_PASSES: Final = 3

OpenNetwork = Callable[[int | None, int], Network]
"""Opens a network, given its number of threads and the events of one pass."""


def find_fastest(
    open_network: OpenNetwork, threads: Iterable[int | None], chunks: Iterable[int]
) -> tuple[Network, int | None, int]:
    """Return the network whose exit 1 takes least time for 128 events, with its threads and chunk.

    Args:
        open_network: opens a network.
        threads: numbers of threads to try.
        chunks: events of one pass to try; nothing is measured if there is only one pair of values.
    """
    pairs = [(count, chunk) for count in threads for chunk in chunks]
    best = min(pairs, key=lambda pair: _time_exit_1(open_network(*pair))) if len(pairs) > 1 else pairs[0]
    return open_network(*best), *best


def _time_exit_1(network: Network) -> float:
    """Return the least time of some passes in seconds, after one pass that allocates memory."""
    features = np.random.default_rng(0).random((_EVENTS, FEATURE_COUNT), dtype=np.float32)
    network.exit_1(features)
    times = []
    for _ in range(_PASSES):
        start = time.perf_counter()
        network.exit_1(features)
        times.append(time.perf_counter() - start)
    return min(times)
