"""Compute records with the 58 features of the published dataset from packets.

A record is all IPv4 packets between an unordered pair of addresses, of all ports and protocols, in one window of 15
seconds aligned to the epoch. Windows are independent of each other. Direction a is that of the record's first packet,
b the other. "First", "last" and "consecutive" refer to the order of the capture, which is not always that of the
timestamps. A step is the time between two consecutive packets (``InterArrivalTime`` in the features' names).

The definitions are those of the published method with all its peculiarities, because the published models were trained
on them: the quartiles are the 0.25th and 0.75th percentile, squares wrap to 32 bits, and b's throughput repeats a's.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dataset.packets.packets import Packets
from utils.records import WINDOW_SECONDS, Records
from utils.schema import FEATURE_COUNT

_WINDOW: Final = WINDOW_SECONDS * 1_000_000
_TCP: Final = 6
_FIN, _SYN, _RST, _PSH, _ACK, _URG = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_PURE_ACK_SIZE: Final = 64
_NO_MINIMUM: Final = 2000
_STATISTICS: Final = 7

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


def compute_records(packets: Packets) -> Records:
    """Return the records of packets, in the order of their first packets."""
    order, record = _group(_number_records(packets))
    count = int(record.max(initial=-1)) + 1
    first = order[_find_starts(np.bincount(record, minlength=count))]
    time, size = packets.timestamp[order], packets.size[order]
    flags = np.where(packets.protocol == _TCP, packets.tcp_flags, 0)[order]
    from_b = packets.source[order] != packets.source[first][record]

    features = np.empty((count, FEATURE_COUNT))
    steps, sizes, counters = np.split(features, (3 * _STATISTICS, 6 * _STATISTICS), axis=1)  # views
    steps[:, :_STATISTICS] = _summarize(*_compute_steps(time, record, 0), count)
    sizes[:, :_STATISTICS] = _summarize(size, record, count)
    order, side = _group(2 * record + from_b)  # directions a and b of each record
    time, size, flags = time[order], size[order], flags[order]
    # Within one direction, only steps forward in time are counted.
    steps[:, _STATISTICS:] = _summarize(*_compute_steps(time, side, 1), 2 * count).reshape(count, 2 * _STATISTICS)
    sizes[:, _STATISTICS:] = _summarize(size, side, 2 * count).reshape(count, 2 * _STATISTICS)
    lengths = np.bincount(side, minlength=2 * count)
    for index, counted in enumerate(_select_counted(size, flags)):
        counters[:, 2 * index : 2 * index + 2] = _sum_segments(counted, lengths).reshape(count, 2)
    counters[:, -2:] = _compute_throughput(time, size, lengths)[::2, np.newaxis]

    return Records(
        window_start=packets.timestamp[first] // _WINDOW * WINDOW_SECONDS,
        address_a=packets.source[first],
        address_b=packets.destination[first],
        features=features,
        first_packet=first,
        first_seen=packets.timestamp[first],
        protocol=packets.protocol[first],
        ports=packets.ports[first],
    )


def _number_records(packets: Packets) -> Integers:
    """Return the index of each packet's record (P,); records are in the order of their first packets."""
    record = _number_by_appearance(packets.pairs)
    window = packets.timestamp // _WINDOW
    if len(window) and window.min() != window.max():
        pairs = int(record.max()) + 1
        record = _number_by_appearance(_number_by_appearance(window) * pairs + record)
    return record


def _number_by_appearance(values: NDArray[np.integer]) -> Integers:
    """Return a code (N,) for each value (N,); distinct values are numbered in order of appearance."""
    order = np.argsort(values)  # a stable sort would take many times as long
    ordered = values[order]
    is_new = np.concatenate((np.ones(min(len(values), 1), np.bool_), ordered[1:] != ordered[:-1]))
    if not len(values):
        return np.empty(0, np.int64)
    first = np.minimum.reduceat(order, np.flatnonzero(is_new))
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    numbers = np.empty(len(values), np.int64)
    numbers[order] = rank[np.cumsum(is_new) - 1]
    return numbers


def _group(group: Integers) -> tuple[Integers, Integers]:
    """Return the indices of packets (P,) sorted by group, stably, and the group of each."""
    order = _argsort(group)
    return order, group[order]


def _argsort(numbers: Integers) -> Integers:
    """Return the indices (N,) that sort non-negative numbers stably."""
    # A radix sort by digits of 16 bits, the lowest first: numpy sorts such digits in linear time.
    order = np.argsort(numbers.astype(np.uint16), kind="stable")
    for shift in range(16, int(numbers.max(initial=0)).bit_length(), 16):
        order = order[np.argsort((numbers[order] >> shift).astype(np.uint16), kind="stable")]
    return order


def _find_starts(lengths: Integers) -> Integers:
    """Return the start of each of consecutive segments (S,), given their lengths."""
    return np.cumsum(lengths) - lengths


def _sum_segments(values: Integers | Mask, lengths: Integers) -> Integers:
    """Return the sum of each of consecutive segments (S,) of values, given their lengths; a segment may be empty."""
    filled = np.flatnonzero(lengths)
    sums = np.zeros_like(lengths)
    if len(filled):
        sums[filled] = np.add.reduceat(values, _find_starts(lengths[filled]), dtype=np.int64)
    return sums


def _compute_steps(time: Integers, group: Integers, least: int) -> tuple[Integers, Integers]:
    """Return the steps of at least ``least`` µs within the groups of packets, and the group of each step."""
    step = np.diff(time)
    kept = np.flatnonzero((group[1:] == group[:-1]) & (step >= least))
    return step[kept], group[1:][kept]


def _summarize(values: Integers, group: Integers, count: int) -> NDArray[np.float64]:
    """Return the seven statistics (G, 7) of each group's values.

    Args:
        values: (V,) within [0, 2**32), sorted by group.
        group: (V,) ascending, within [0, G).
        count: G, the number of groups, empty ones included.
    """
    statistics = np.zeros((count, _STATISTICS))
    statistics[:, 0] = _NO_MINIMUM
    lengths = np.bincount(group, minlength=count)
    filled = np.flatnonzero(lengths)
    if not len(filled):
        return statistics
    n = lengths[filled]
    start = _find_starts(n)
    # One sort orders the values of all groups: the high bits hold the group.
    bits = int(values.max()).bit_length()
    ordered = values[_argsort(group << bits | values)]
    total = np.add.reduceat(values, start)
    columns = (
        np.minimum(ordered[start], _NO_MINIMUM),
        ordered[start + (n + 200) // 400],  # floor(n * 0.25 / 100 + 0.5), in integers
        (ordered[start + (n - 1) // 2] + ordered[start + n // 2]) // 2,
        np.trunc(total.astype(np.float32) / n.astype(np.float32)),
        ordered[start + (3 * n + 200) // 400],
        ordered[start + n - 1],
        _compute_variance(values, start, n, total),
    )
    for index, column in enumerate(columns):
        statistics[filled, index] = column
    return statistics


def _compute_variance(values: Integers, start: Integers, n: Integers, total: Integers) -> NDArray[np.float64]:
    """Return the variance (S,), as the published method computes it, of segments of values.

    Args:
        values: (V,) consecutive segments.
        start: (S,) start of each segment.
        n: (S,) number of its values.
        total: (S,) sum of its values.
    """
    squares = np.add.reduceat((values * values).astype(np.int32), start, dtype=np.int64)  # wrapped to 32 bits
    mean, rest = np.divmod(total, n)
    # total² // n without the square, which may overflow 64 bits.
    difference = squares - (total * mean + total * rest // n)
    # Wrapped squares average less than 2**31; with a large mean the true difference is negative.
    positive = (n > 1) & (mean < 1 << 16) & (difference > 0)
    x = difference.astype(np.float32) / np.maximum(n - 1, 1).astype(np.float32)
    root = np.sqrt(np.where(positive, x, 0), dtype=np.float64)
    return np.floor(root * root * 100 + 0.5) / 100  # ties are rounded up, as in the published data


def _select_counted(size: Integers, flags: NDArray[np.uint8]) -> Iterator[Mask]:
    """Yield the packets (P,) that each of the seven counters counts, in the order of the columns."""
    ack = flags & _ACK != 0
    yield np.ones_like(ack)
    yield ack
    yield ack & (size == _PURE_ACK_SIZE) & (flags & (_SYN | _FIN | _RST) == 0)
    for flag in (_PSH, _SYN, _FIN, _URG):
        yield flags & flag != 0


def _compute_throughput(time: Integers, size: Integers, lengths: Integers) -> Integers:
    """Return the bytes per µs, truncated toward zero, of each of consecutive segments (S,) of packets."""
    filled = np.flatnonzero(lengths)
    throughput = np.zeros_like(lengths)
    n = lengths[filled]
    start = _find_starts(n)
    elapsed: Integers = time[start + n - 1] - time[start]  # negative if the capture is out of order
    throughput[filled] = np.sign(elapsed) * (_sum_segments(size, n) // np.maximum(np.abs(elapsed), 1))
    return throughput
