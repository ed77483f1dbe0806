"""Pairs of addresses crafted to be slow: their numbers collide in the hash table of pandas, whose hash has no key.

pandas hashes a 64-bit number k to the lower 32 bits of k >> 33 ^ k ^ k << 11, and probes in steps of a hash of that.
"""

import numpy as np
from numpy.typing import NDArray

from dataset.packets.packets import Packets

Numbers = NDArray[np.uint64]


def make_colliding_pairs(count: int) -> Numbers:
    """Return different pairs (count,), the lower address in the upper 32 bits, that all have the hash 2**31."""
    low = np.arange(2**24, 2**24 + 4 * count, dtype=np.uint64)
    wanted = np.uint64(2**31) ^ low >> np.uint64(1)
    high = (wanted ^ wanted << np.uint64(11) ^ wanted << np.uint64(22)) & np.uint64(2**32 - 1)
    pairs: Numbers = (low << np.uint64(32) | high)[low < high][:count]
    assert len(pairs) == count
    assert (hash_like_pandas(pairs) == 2**31).all()
    return pairs


def make_random_pairs(count: int) -> Numbers:
    """Return as many different random pairs."""
    pairs = np.random.default_rng(1).integers(0, 2**63, 2 * count, dtype=np.uint64)
    return np.unique(pairs[pairs >> np.uint64(32) < pairs & np.uint64(2**32 - 1)])[:count]


def hash_like_pandas(numbers: Numbers) -> Numbers:
    """Return the hashes of numbers (N,) in the hash table of pandas."""
    hashed: Numbers = (numbers >> np.uint64(33) ^ numbers ^ numbers << np.uint64(11)) & np.uint64(2**32 - 1)
    return hashed


def make_packets(pairs: Numbers) -> Packets:
    """Return a SYN of each pair (N,), a microsecond apart, in one window."""
    count = len(pairs)
    return Packets(
        1_600_000_005 * 10**6 + np.arange(count),
        (pairs >> np.uint64(32)).astype(np.uint32),
        pairs.astype(np.uint32),
        np.full(count, 60),
        np.full(count, 6, np.uint8),
        np.full(count, 2, np.uint8),
        np.zeros(count, np.uint32),
    )
