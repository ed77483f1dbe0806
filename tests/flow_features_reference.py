"""Compute the features packet by packet in plain Python: slow, but easy to compare with their definition.

Run:
    python tests/flow_features_reference.py CAPTURE > records.csv

It prints the raw records of an Ethernet capture (pcap or pcapng, plain or gzip-compressed) in the form of
``dataset/extract-features.py --raw --identity``. It imports the standard library only, none of the code that it checks.
"""

import argparse
import ipaddress
import math
import struct
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from tests.capture_reader import parse_ipv4_packet, read_frames

FIN, SYN, RST, PSH, ACK, URG = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


class Packet(NamedTuple):
    """One row of ``Packets``."""

    time: int
    source: int
    destination: int
    size: int
    protocol: int = 6
    flags: int = 0
    ports: int = 0


class Record(NamedTuple):
    """One row of ``Records``."""

    window_start: int
    address_a: int
    address_b: int
    features: list[float]


def compute_reference_records(packets: list[Packet]) -> list[Record]:
    """Return the records of packets in file order."""
    groups: dict[tuple[int, frozenset[int]], list[Packet]] = {}
    for packet in packets:
        key = (packet.time // 15_000_000, frozenset((packet.source, packet.destination)))
        groups.setdefault(key, []).append(packet)
    return [
        Record(window * 15, group[0].source, group[0].destination, compute_features(group))
        for (window, _), group in groups.items()
    ]


def compute_features(group: list[Packet]) -> list[float]:
    """Return the 58 features of a record's packets, in file order."""
    a_b = [packet for packet in group if packet.source == group[0].source]
    b_a = [packet for packet in group if packet.source != group[0].source]
    features: list[float] = []
    features += compute_statistics([step for step in compute_steps(group) if step >= 0])
    features += compute_statistics([step for step in compute_steps(a_b) if step > 0])
    features += compute_statistics([step for step in compute_steps(b_a) if step > 0])
    for packets in (group, a_b, b_a):
        features += compute_statistics([packet.size for packet in packets])
    for counts in COUNTERS:
        features += [sum(map(counts, a_b)), sum(map(counts, b_a))]
    return [*features, compute_throughput(a_b), compute_throughput(a_b)]


def compute_steps(packets: list[Packet]) -> list[int]:
    return [later.time - earlier.time for earlier, later in pairwise(packets)]


def compute_statistics(values: list[int]) -> list[float]:
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
        int(divide_float32(sum(values), n)),
        ordered[math.floor(n * 0.75 / 100 + 0.5)],
        max(0, ordered[-1]),
        compute_variance(values),
    ]


def compute_variance(values: list[int]) -> float:
    n = len(values)
    if n < 2:
        return 0
    difference = sum(wrap32(v * v) for v in values) - sum(values) ** 2 // n
    if difference < 0:
        return 0
    x = divide_float32(difference, n - 1)
    return math.floor(math.sqrt(x) ** 2 * 100 + 0.5) / 100


def wrap32(value: int) -> int:
    """Return a number wrapped to a signed integer of 32 bits."""
    return (value + 2**31) % 2**32 - 2**31


def divide_float32(a: int, b: int) -> float:
    """Return the quotient of two numbers in 32-bit floating point."""
    # Rounding the quotient to 64 bits first gives the same 32-bit float as rounding it once.
    return float(struct.unpack("f", struct.pack("f", round_float32(a) / round_float32(b)))[0])


def round_float32(value: int) -> float:
    """Return the nearest 32-bit float, which has 24 significant bits; ties are rounded to even."""
    spare = max(abs(value).bit_length() - 24, 0)
    return float(round(Fraction(value, 1 << spare)) << spare)


def compute_throughput(a_b: list[Packet]) -> int:
    elapsed = a_b[-1].time - a_b[0].time
    if elapsed == 0:
        return 0
    quotient = sum(packet.size for packet in a_b) // abs(elapsed)
    return quotient if elapsed > 0 else -quotient


def has_flag(mask: int) -> Callable[[Packet], bool]:
    return lambda packet: packet.protocol == 6 and packet.flags & mask != 0


def is_pure_ack(packet: Packet) -> bool:
    return packet.size == 64 and packet.protocol == 6 and packet.flags & (ACK | SYN | FIN | RST) == ACK


COUNTERS: tuple[Callable[[Packet], bool], ...] = (
    lambda _: True,
    has_flag(ACK),
    is_pure_ack,
    has_flag(PSH),
    has_flag(SYN),
    has_flag(FIN),
    has_flag(URG),
)

STATISTICS = ("minimum", "quartileFirst", "median", "avg", "quartileThird", "maximum", "variance")
NAMES = (
    *(
        f"MOORE_{statistic}{quantity}{packets}"
        for quantity in ("InterArrivalTime", "DataWire")
        for packets in ("", "_a_b", "_b_a")
        for statistic in STATISTICS
    ),
    *(
        f"MOORE_{counter}{direction}"
        for counter in (
            "total_packets", "ack_pkts_sent", "pure_acks_sent", "pushed_pkts_sent", "syn_pkts_sent", "fin_pkts_sent",
            "urgent_pkts_sent", "throughput",
        )
        for direction in ("_a_b", "_b_a")
    ),
)  # fmt: skip
"""Names of the 58 features, in order."""


def format_csv(path: Path) -> Iterator[str]:
    """Yield the lines of a CSV of the records of a capture."""
    yield ",".join(("window_start", "address_a", "address_b", *NAMES))
    packets = [Packet(*packet) for frame in read_frames(path) if (packet := parse_ipv4_packet(*frame)) is not None]
    for record in compute_reference_records(packets):
        addresses = (str(ipaddress.IPv4Address(address)) for address in (record.address_a, record.address_b))
        cells = [
            str(float(value)) if "variance" in name else str(value)
            for name, value in zip(NAMES, record.features, strict=True)
        ]
        yield ",".join((str(record.window_start), *addresses, *cells))


def main() -> int:
    """Print the records of a capture; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path, metavar="CAPTURE")
    for line in format_csv(parser.parse_args().capture):
        print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
