"""Whoever chooses the addresses of packets cannot make them slow to group."""

import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from dataset.packets.packets import Packets
from dataset.records.flow_features import flow_features
from dataset.records.live_records import live_windows
from tests.crafted_pairs import colliding_pairs, packets_of, random_pairs

COUNT = 20_000
MOST = 2.5
"""Times as long as for random pairs, at most: measured 1.0, and 15 with numbers without a key."""


def window_of(packets: Packets) -> int:
    windows = live_windows()
    for start in range(0, len(packets), 1000):
        windows.add(packets.take(np.arange(start, start + 1000)))
    return sum(map(len, windows.close()))


def seconds(work: Callable[[], object]) -> float:
    """Return the least processor time that it took."""

    def once() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return min(once() for _ in range(3))


def test_crafted_pairs_do_collide_in_a_hash_without_a_key() -> None:
    crafted, random = (pairs(COUNT) for pairs in (colliding_pairs, random_pairs))
    assert seconds(lambda: pd.factorize(crafted)) > 10 * seconds(lambda: pd.factorize(random))


@pytest.mark.parametrize("work", [flow_features, window_of])
def test_crafted_pairs_take_no_longer_than_random_ones(work: Callable[[Packets], object]) -> None:
    crafted, random = (packets_of(pairs(COUNT)) for pairs in (colliding_pairs, random_pairs))
    assert seconds(lambda: work(crafted)) < MOST * seconds(lambda: work(random))


def test_pairs_have_other_numbers_than_those_of_their_addresses_and_different_ones_stay_different() -> None:
    pairs = np.concatenate((colliding_pairs(COUNT), random_pairs(COUNT)))
    numbers = packets_of(pairs).pairs
    assert len(np.unique(numbers)) == len(pairs)
    assert not np.isin(numbers, pairs).any()
