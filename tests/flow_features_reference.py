"""The flow features again, packet by packet in plain Python: slow, easy to hold against the definition."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

FIN, SYN, RST, PSH, ACK, URG = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


class Packet(NamedTuple):
    """One packet; the fields are those of ``Packets``, one row of it."""

    time: int
    source: int
    destination: int
    size: int
    protocol: int = 6
    flags: int = 0
    ports: int = 0


class Record(NamedTuple):
    """One record; the fields are those of ``Records``, one row of it."""

    window_start: int
    address_a: int
    address_b: int
    features: list[float]


def reference_records(packets: list[Packet]) -> list[Record]:
    """Return the records of packets in file order."""
    groups: dict[tuple[int, frozenset[int]], list[Packet]] = {}
    for packet in packets:
        key = (packet.time // 15_000_000, frozenset((packet.source, packet.destination)))
        groups.setdefault(key, []).append(packet)
    return [
        Record(window * 15, group[0].source, group[0].destination, features_of(group))
        for (window, _), group in groups.items()
    ]


def features_of(group: list[Packet]) -> list[float]:
    """Return the 58 features of a record's packets, in file order."""
    a_b = [packet for packet in group if packet.source == group[0].source]
    b_a = [packet for packet in group if packet.source != group[0].source]
    features: list[float] = []
    features += statistics([step for step in steps(group) if step >= 0])
    features += statistics([step for step in steps(a_b) if step > 0])
    features += statistics([step for step in steps(b_a) if step > 0])
    for packets in (group, a_b, b_a):
        features += statistics([packet.size for packet in packets])
    for counts in COUNTERS:
        features += [sum(map(counts, a_b)), sum(map(counts, b_a))]
    return [*features, throughput(a_b), throughput(a_b)]


def steps(packets: list[Packet]) -> list[int]:
    return [later.time - earlier.time for earlier, later in pairwise(packets)]


def statistics(values: list[int]) -> list[float]:
    """Return minimum, first quartile, median, average, third quartile, maximum and variance."""
    if not values:
        return [2000, 0, 0, 0, 0, 0, 0]
    ordered = sorted(values)
    n = len(ordered)
    middle = ordered[(n - 1) // 2 : n // 2 + 1]  # one value, or two where n is even
    return [
        min(2000, ordered[0]),
        ordered[math.floor(n * 0.25 / 100 + 0.5)],
        int(sum(middle) / len(middle)),
        int(float32(sum(values)) / float32(n)),
        ordered[math.floor(n * 0.75 / 100 + 0.5)],
        max(0, ordered[-1]),
        variance(values),
    ]


def variance(values: list[int]) -> float:
    n = len(values)
    if n < 2:
        return 0
    difference = sum(wrap32(v * v) for v in values) - sum(values) ** 2 // n
    if difference < 0:
        return 0
    x = float32(difference) / float32(n - 1)
    return math.floor(math.sqrt(x) ** 2 * 100 + 0.5) / 100


def wrap32(value: int) -> int:
    """Return what remains of a number in a signed integer of 32 bits."""
    return (value + 2**31) % 2**32 - 2**31


def float32(value: int) -> np.float32:
    """Return the nearest float32; from int64, because a detour over float64 would round twice."""
    return np.int64(value).astype(np.float32)


def throughput(a_b: list[Packet]) -> int:
    elapsed = a_b[-1].time - a_b[0].time
    if elapsed == 0:
        return 0
    quotient = sum(packet.size for packet in a_b) // abs(elapsed)
    return quotient if elapsed > 0 else -quotient


def flag(mask: int) -> Callable[[Packet], bool]:
    return lambda packet: packet.protocol == 6 and packet.flags & mask != 0


def pure_ack(packet: Packet) -> bool:
    return packet.size == 64 and packet.protocol == 6 and packet.flags & (ACK | SYN | FIN | RST) == ACK


COUNTERS: tuple[Callable[[Packet], bool], ...] = (
    lambda _: True,
    flag(ACK),
    pure_ack,
    flag(PSH),
    flag(SYN),
    flag(FIN),
    flag(URG),
)
