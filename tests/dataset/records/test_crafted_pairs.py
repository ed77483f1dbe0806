"""A sender cannot choose addresses that make packets slow to group."""

import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from dataset.packets.packets import Packets
from dataset.records.flow_features import compute_records
from dataset.records.live_records import make_live_windows
from tests.crafted_pairs import make_colliding_pairs, make_packets, make_random_pairs

COUNT = 20_000
MOST = 2.5
"""Greatest ratio to the time for random pairs: measured 1.0, and 15 with keys that are not secret."""


def compute_window(packets: Packets) -> int:
    windows = make_live_windows()
    for start in range(0, len(packets), 1000):
        windows.add(packets.take(np.arange(start, start + 1000)))
    return sum(map(len, windows.close()))


def measure(work: Callable[[], object]) -> float:
    """Return the least processor time of three runs, in seconds."""

    def measure_once() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return min(measure_once() for _ in range(3))


def test_crafted_pairs_collide_in_a_hash_without_a_key() -> None:
    crafted, random = (pairs(COUNT) for pairs in (make_colliding_pairs, make_random_pairs))
    assert measure(lambda: pd.factorize(crafted)) > 10 * measure(lambda: pd.factorize(random))


@pytest.mark.parametrize("work", [compute_records, compute_window])
def test_crafted_pairs_take_no_longer_than_random_ones(work: Callable[[Packets], object]) -> None:
    crafted, random = (make_packets(pairs(COUNT)) for pairs in (make_colliding_pairs, make_random_pairs))
    assert measure(lambda: work(crafted)) < MOST * measure(lambda: work(random))


def test_keys_of_pairs_are_unique_and_differ_from_their_addresses() -> None:
    pairs = np.concatenate((make_colliding_pairs(COUNT), make_random_pairs(COUNT)))
    numbers = make_packets(pairs).pairs
    assert len(np.unique(numbers)) == len(pairs)
    assert not np.isin(numbers, pairs).any()
