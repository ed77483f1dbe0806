"""Make a capture of unusual packets of all kinds, as pcap and as pcapng.

Run:
    python tests/odd_capture.py FOLDER

It writes ``odd.pcap.gz``, big-endian with nanoseconds, and ``odd.pcapng.gz``, with two interfaces of different clocks.
Both hold the same frames at the same microseconds.
"""

import argparse
import gzip
import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from tests.capture_reader import Frame

SECOND = 1_000_000
START = 1_600_000_005 * SECOND  # the start of a window
ICMP, IGMP, TCP, UDP, GRE, SCTP = 1, 2, 6, 17, 47, 132
IPV4, ARP, IPV6, VLAN, LLDP = 0x0800, 0x0806, 0x86DD, 0x8100, 0x88CC
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
A, B, C, D = (0xC0000201 + host for host in range(4))
MORE_FRAGMENTS = 0x2000


def make_ip(
    source: int, destination: int, protocol: int, behind: bytes = b"", *, options: int = 0, fragment: int = 0,
    first: int | None = None,
) -> bytes:  # fmt: skip
    """Return an IPv4 packet with ``options`` words of options and, if given, another first byte."""
    first = 0x45 + options if first is None else first
    header = struct.pack(">BBHHHBBH", first, 0, 20 + 4 * options + len(behind), 7, fragment, 64, protocol, 0)
    return header + struct.pack(">II", source, destination) + b"\x01" * (4 * options) + behind


def make_tcp(flags: int, ports: tuple[int, int] = (40_000, 80)) -> bytes:
    """Return a TCP header."""
    return struct.pack(">HHIIBBHHH", *ports, 1, 1, 0x50, flags, 1024, 0, 0)


def make_udp(ports: tuple[int, int] = (50_000, 53)) -> bytes:
    """Return a UDP header."""
    return struct.pack(">HHHH", *ports, 8, 0)


def make_frame(time: float, packet: bytes, size: int = 60, kind: int = IPV4, captured: int = 96) -> Frame:
    """Return an Ethernet frame; ``time`` is in seconds after ``START``."""
    content = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02" + struct.pack(">H", kind) + packet
    return START + round(time * SECOND), size, content.ljust(size, b"\0")[: min(captured, size)]


def make_handshakes() -> Iterator[Frame]:
    """Yield TCP sessions with every flag, pure acknowledgements of 64 bytes and steps of zero."""
    for number, (source, destination, size, flags) in enumerate((
        (A, B, 74, SYN), (B, A, 74, SYN | ACK), (A, B, 64, ACK), (A, B, 590, PSH | ACK), (B, A, 64, ACK),
        (B, A, 1514, ACK), (B, A, 1514, PSH | ACK), (A, B, 64, ACK), (A, B, 64, ACK | FIN), (B, A, 64, ACK | RST),
        (A, B, 60, URG | ACK), (A, B, 64, 0xFF), (A, B, 60, 0),
    )):  # fmt: skip
        yield make_frame(0.001 * (number // 2), make_ip(source, destination, TCP, make_tcp(flags)), size)


def make_headers() -> Iterator[Frame]:
    """Yield headers of all lengths and versions, and truncated frames."""
    for words in range(11):
        yield make_frame(1 + words / 7, make_ip(A, C, TCP, make_tcp(SYN | PSH), options=words), 150)
    for first in (0x40, 0x42, 0x44, 0x4F, 0x65, 0x05, 0xF5):
        yield make_frame(3 + first / 1000, make_ip(A, C, TCP, make_tcp(ACK), first=first))
    for captured in (14, 33, 34, 47, 48, 54):
        yield make_frame(4 + captured / 100, make_ip(C, A, TCP, make_tcp(SYN | ACK)), 60, captured=captured)


def make_protocols() -> Iterator[Frame]:
    """Yield other protocols on IPv4, and frames that are not IPv4."""
    for number, protocol in enumerate((ICMP, IGMP, UDP, GRE, SCTP, 0, 255)):
        yield make_frame(5 + number / 10, make_ip(B, D, protocol, b"\x08\0" + b"\x33" * 30), 98)
    for number, kind in enumerate((VLAN, IPV6, ARP, LLDP, 0x88A8, 0x0026)):
        yield make_frame(6 + number / 10, b"\0\x05\x08\0" + make_ip(B, D, UDP, make_udp()), 98, kind)


def make_fragments() -> Iterator[Frame]:
    """Yield the fragments of datagrams, the last of one before its first."""
    for number, (offset, size) in enumerate(((MORE_FRAGMENTS, 1514), (MORE_FRAGMENTS | 185, 1514), (370, 300))):
        yield make_frame(7 + number / 1000, make_ip(C, D, UDP, make_udp(), fragment=offset), size)
    yield make_frame(7.1, make_ip(D, C, TCP, make_tcp(SYN), fragment=185), 300)
    yield make_frame(7.1, make_ip(D, C, TCP, make_tcp(SYN), fragment=MORE_FRAGMENTS), 1514)


def make_addresses() -> Iterator[Frame]:
    """Yield packets from a host to itself, and of the lowest and highest addresses."""
    for number, (source, destination) in enumerate(((A, A), (A, A), (0, 2**32 - 1), (2**32 - 1, 0), (0, 0))):
        yield make_frame(8 + number / 3, make_ip(source, destination, UDP, make_udp()), 342)


def make_times_and_sizes() -> Iterator[Frame]:
    """Yield steps back in time and into an earlier window, sizes whose squares wrap, and a packet two hours ahead."""
    for time, size in ((10, 60), (9.5, 61), (9.5, 65), (12, 46_340), (11.999999, 46_341), (16, 60), (14.999999, 60)):
        yield make_frame(time, make_ip(A, D, UDP, make_udp()), size)
    for time in (15, 29.999999, 30, 44.999999, 7200.25, 45, 44, 30.5):
        yield make_frame(time, make_ip(D, A, UDP, make_udp()), 2_000_000 if time == 45 else 590)


def make_long_records() -> Iterator[Frame]:
    """Yield records with so many packets that their quartiles differ from the minimum."""
    generator = random.Random(1)
    times = sorted(generator.uniform(60, 80) for _ in range(900))
    for time in times:
        source, destination = generator.choice(((B, C), (B, C), (C, B)))
        flags = generator.choice((ACK, ACK, PSH | ACK, SYN, FIN | ACK))
        wrong = generator.choice((0, 0, 0, -0.01))
        size = generator.choice((60, 64, 590, 1514))
        yield make_frame(time + wrong, make_ip(source, destination, TCP, make_tcp(flags)), size, captured=54)


def make_odd_frames() -> list[Frame]:
    """Return all frames, in the order of the file."""
    kinds = (
        make_handshakes, make_headers, make_protocols, make_fragments, make_addresses, make_times_and_sizes,
        make_long_records,
    )  # fmt: skip
    return [one for kind in kinds for one in kind()]


def make_pcap(frames: list[Frame]) -> bytes:
    """Return a big-endian pcap with timestamps in nanoseconds, which readers round down to microseconds."""
    content = struct.pack(">IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1)
    for number, (time, size, captured) in enumerate(frames):
        seconds, microseconds = divmod(time, SECOND)
        nanoseconds = 1000 * microseconds + number % 1000
        content += struct.pack(">IIII", seconds, nanoseconds, len(captured), size) + captured
    return content


def make_pcapng(frames: list[Frame]) -> bytes:
    """Return a little-endian pcapng of two alternating interfaces; the second has a clock of nanoseconds."""

    def block(kind: int, body: bytes) -> bytes:
        body += b"\0" * (-len(body) % 4)
        return struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12)

    content = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    content += block(1, struct.pack("<HHI", 1, 0, 0)) + block(1, struct.pack("<HHIHHB3x", 1, 0, 0, 9, 1, 9))
    for number, (time, size, captured) in enumerate(frames):
        ticks = 1000 * time + number % 1000 if number % 2 else time
        head = struct.pack("<IIIII", number % 2, ticks >> 32, ticks & 0xFFFFFFFF, len(captured), size)
        content += block(6, head + captured)
        if number % 50 == 0:
            content += block(5, struct.pack("<III", 0, 0, 0))  # statistics
    return content


def main() -> int:
    """Write both files; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder = parser.parse_args().folder
    frames = make_odd_frames()
    for name, content in (("odd.pcap.gz", make_pcap(frames)), ("odd.pcapng.gz", make_pcapng(frames))):
        (folder / name).write_bytes(gzip.compress(content, mtime=0))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
