"""Packets to flow records: the 58 features of the published dataset.

A record is all IPv4 packets between an unordered pair of addresses, whatever their ports and protocols, in
one window of 15 seconds aligned to the epoch; nothing is carried over from window to window. Direction a is
that of the record's first packet, b the other. "First", "last" and "consecutive" always mean the order of the
capture, never that of the timestamps: captures are not always in order of time.

The definitions are those of the published method, oddities included (quartiles that are the 0.25th and 0.75th
percentile, squares that wrap to 32 bits, b's throughput that repeats a's), because the published models have
learned from them.
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


def flow_features(packets: Packets) -> Records:
    """Return the flow records of some packets."""
    order, record = _grouped(_record_numbers(packets))
    count = int(record.max(initial=-1)) + 1
    first = order[_starts(np.bincount(record, minlength=count))]
    time, size = packets.timestamp[order], packets.size[order]
    flags = np.where(packets.protocol == _TCP, packets.tcp_flags, 0)[order]
    from_b = packets.source[order] != packets.source[first][record]

    features = np.empty((count, FEATURE_COUNT))
    steps, sizes, counters = np.split(features, (3 * _STATISTICS, 6 * _STATISTICS), axis=1)  # views
    steps[:, :_STATISTICS] = _statistics(*_steps(time, record, 0), count)
    sizes[:, :_STATISTICS] = _statistics(size, record, count)
    order, side = _grouped(2 * record + from_b)  # a and b of each record
    time, size, flags = time[order], size[order], flags[order]
    # Within one direction, only steps forward in time count.
    steps[:, _STATISTICS:] = _statistics(*_steps(time, side, 1), 2 * count).reshape(count, 2 * _STATISTICS)
    sizes[:, _STATISTICS:] = _statistics(size, side, 2 * count).reshape(count, 2 * _STATISTICS)
    lengths = np.bincount(side, minlength=2 * count)
    for index, counted in enumerate(_counted(size, flags)):
        counters[:, 2 * index : 2 * index + 2] = _sums(counted, lengths).reshape(count, 2)
    counters[:, -2:] = _throughput(time, size, lengths)[::2, np.newaxis]

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


def _record_numbers(packets: Packets) -> Integers:
    """Return the number of each packet's record (P,); records are numbered by their first packets."""
    record = _number_by_appearance(packets.pairs)
    window = packets.timestamp // _WINDOW
    if len(window) and window.min() != window.max():
        pairs = int(record.max()) + 1
        record = _number_by_appearance(_number_by_appearance(window) * pairs + record)
    return record


def _number_by_appearance(values: NDArray[np.integer]) -> Integers:
    """Return a number (N,) for each of the values (N,), equal ones for equal ones, in the order of appearance."""
    order = np.argsort(values)  # not stable, which would take many times as long
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


def _grouped(group: Integers) -> tuple[Integers, Integers]:
    """Return indices of packets (P,) group by group, and each one's group; within a group they keep their order."""
    order = _order(group)
    return order, group[order]


def _order(numbers: Integers) -> Integers:
    """Return the stable order (N,) of numbers that are not negative."""
    # Digit by digit of 16 bits, the lowest first: such ones numpy sorts in linear time.
    order = np.argsort(numbers.astype(np.uint16), kind="stable")
    for shift in range(16, int(numbers.max(initial=0)).bit_length(), 16):
        order = order[np.argsort((numbers[order] >> shift).astype(np.uint16), kind="stable")]
    return order


def _starts(lengths: Integers) -> Integers:
    """Return where each of some consecutive segments starts, given their lengths."""
    return np.cumsum(lengths) - lengths


def _sums(values: Integers | Mask, lengths: Integers) -> Integers:
    """Return the sum (S,) of each of some consecutive segments of values, which may be empty, given their lengths."""
    some = np.flatnonzero(lengths)
    sums = np.zeros_like(lengths)
    if len(some):
        sums[some] = np.add.reduceat(values, _starts(lengths[some]), dtype=np.int64)
    return sums


def _steps(time: Integers, group: Integers, least: int) -> tuple[Integers, Integers]:
    """Return the steps in time of at least ``least`` µs between a group's packets, and their groups."""
    step = np.diff(time)
    kept = np.flatnonzero((group[1:] == group[:-1]) & (step >= least))
    return step[kept], group[1:][kept]


def _statistics(values: Integers, group: Integers, count: int) -> NDArray[np.float64]:
    """Return the seven statistics (G, 7) of each group's values.

    Args:
        values: (V,) within [0, 2**32), group by group.
        group: (V,) ascending, within [0, G).
        count: G, how many groups there are, with values or without.
    """
    statistics = np.zeros((count, _STATISTICS))
    statistics[:, 0] = _NO_MINIMUM
    lengths = np.bincount(group, minlength=count)
    some = np.flatnonzero(lengths)
    if not len(some):
        return statistics
    n = lengths[some]
    start = _starts(n)
    # All groups' values are brought in order at once: the group's number in the high bits keeps groups apart.
    bits = int(values.max()).bit_length()
    ordered = values[_order(group << bits | values)]
    total = np.add.reduceat(values, start)
    columns = (
        np.minimum(ordered[start], _NO_MINIMUM),
        ordered[start + (n + 200) // 400],  # floor(n * 0.25 / 100 + 0.5), in integers
        (ordered[start + (n - 1) // 2] + ordered[start + n // 2]) // 2,
        np.trunc(total.astype(np.float32) / n.astype(np.float32)),
        ordered[start + (3 * n + 200) // 400],
        ordered[start + n - 1],
        _variance(values, start, n, total),
    )
    for index, column in enumerate(columns):
        statistics[some, index] = column
    return statistics


def _variance(values: Integers, start: Integers, n: Integers, total: Integers) -> NDArray[np.float64]:
    """Return the published method's variance (S,) of segments of values.

    Args:
        values: (V,) the segments, one after another.
        start: (S,) where each starts.
        n: (S,) how many values each has.
        total: (S,) their sums.
    """
    squares = np.add.reduceat((values * values).astype(np.int32), start, dtype=np.int64)  # wrapped to 32 bits
    mean, rest = np.divmod(total, n)
    # total² div n, without the square, which 64 bits may not hold.
    difference = squares - (total * mean + total * rest // n)
    # Wrapped squares average less than 2**31: with a large mean the true difference is negative.
    positive = (n > 1) & (mean < 1 << 16) & (difference > 0)
    x = difference.astype(np.float32) / np.maximum(n - 1, 1).astype(np.float32)
    root = np.sqrt(np.where(positive, x, 0), dtype=np.float64)
    return np.floor(root * root * 100 + 0.5) / 100  # ties go up, in the published data too


def _counted(size: Integers, flags: NDArray[np.uint8]) -> Iterator[Mask]:
    """Yield which packets (P,) each of the seven counters counts, in the order of the columns."""
    ack = flags & _ACK != 0
    yield np.ones_like(ack)
    yield ack
    yield ack & (size == _PURE_ACK_SIZE) & (flags & (_SYN | _FIN | _RST) == 0)
    for flag in (_PSH, _SYN, _FIN, _URG):
        yield flags & flag != 0


def _throughput(time: Integers, size: Integers, lengths: Integers) -> Integers:
    """Return the bytes per µs, truncated toward zero, of each of some consecutive segments (S,) of packets."""
    some = np.flatnonzero(lengths)
    throughput = np.zeros_like(lengths)
    n = lengths[some]
    start = _starts(n)
    elapsed: Integers = time[start + n - 1] - time[start]  # negative where the capture is out of order
    throughput[some] = np.sign(elapsed) * (_sums(size, n) // np.maximum(np.abs(elapsed), 1))
    return throughput
