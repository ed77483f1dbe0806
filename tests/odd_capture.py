"""A hand-made capture of everything that is odd about packets, as pcap and as pcapng.

Run:
    python tests/odd_capture.py FOLDER

It writes ``odd.pcap.gz``, big-endian with nanoseconds, and ``odd.pcapng.gz``, of two interfaces with different clocks.
They hold the same frames at the same microseconds.
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
START = 1_600_000_005 * SECOND  # where a window begins
ICMP, IGMP, TCP, UDP, GRE, SCTP = 1, 2, 6, 17, 47, 132
IPV4, ARP, IPV6, VLAN, LLDP = 0x0800, 0x0806, 0x86DD, 0x8100, 0x88CC
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
A, B, C, D = (0xC0000201 + host for host in range(4))
MORE_FRAGMENTS = 0x2000


def ip(
    source: int, destination: int, protocol: int, behind: bytes = b"", *, options: int = 0, fragment: int = 0,
    first: int | None = None,
) -> bytes:  # fmt: skip
    """Return an IPv4 packet, with so many words of options, and its first byte replaced where one is given."""
    first = 0x45 + options if first is None else first
    header = struct.pack(">BBHHHBBH", first, 0, 20 + 4 * options + len(behind), 7, fragment, 64, protocol, 0)
    return header + struct.pack(">II", source, destination) + b"\x01" * (4 * options) + behind


def tcp(flags: int, ports: tuple[int, int] = (40_000, 80)) -> bytes:
    """Return a TCP header."""
    return struct.pack(">HHIIBBHHH", *ports, 1, 1, 0x50, flags, 1024, 0, 0)


def udp(ports: tuple[int, int] = (50_000, 53)) -> bytes:
    """Return a UDP header."""
    return struct.pack(">HHHH", *ports, 8, 0)


def frame(time: float, packet: bytes, size: int = 60, kind: int = IPV4, captured: int = 96) -> Frame:
    """Return an Ethernet frame: seconds after ``START``, its content, its size on the wire, how much was captured."""
    content = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02" + struct.pack(">H", kind) + packet
    return START + round(time * SECOND), size, content.ljust(size, b"\0")[: min(captured, size)]


def handshakes() -> Iterator[Frame]:
    """Yield TCP sessions: every flag, pure acknowledgements of 64 bytes, steps of zero."""
    for number, (source, destination, size, flags) in enumerate((
        (A, B, 74, SYN), (B, A, 74, SYN | ACK), (A, B, 64, ACK), (A, B, 590, PSH | ACK), (B, A, 64, ACK),
        (B, A, 1514, ACK), (B, A, 1514, PSH | ACK), (A, B, 64, ACK), (A, B, 64, ACK | FIN), (B, A, 64, ACK | RST),
        (A, B, 60, URG | ACK), (A, B, 64, 0xFF), (A, B, 60, 0),
    )):  # fmt: skip
        yield frame(0.001 * (number // 2), ip(source, destination, TCP, tcp(flags)), size)


def headers() -> Iterator[Frame]:
    """Yield headers of all lengths and versions, and frames that were cut."""
    for words in range(11):
        yield frame(1 + words / 7, ip(A, C, TCP, tcp(SYN | PSH), options=words), 150)
    for first in (0x40, 0x42, 0x44, 0x4F, 0x65, 0x05, 0xF5):
        yield frame(3 + first / 1000, ip(A, C, TCP, tcp(ACK), first=first))
    for captured in (14, 33, 34, 47, 48, 54):
        yield frame(4 + captured / 100, ip(C, A, TCP, tcp(SYN | ACK)), 60, captured=captured)


def protocols() -> Iterator[Frame]:
    """Yield other protocols of IPv4, and what is no IPv4."""
    for number, protocol in enumerate((ICMP, IGMP, UDP, GRE, SCTP, 0, 255)):
        yield frame(5 + number / 10, ip(B, D, protocol, b"\x08\0" + b"\x33" * 30), 98)
    for number, kind in enumerate((VLAN, IPV6, ARP, LLDP, 0x88A8, 0x0026)):
        yield frame(6 + number / 10, b"\0\x05\x08\0" + ip(B, D, UDP, udp()), 98, kind)


def fragments() -> Iterator[Frame]:
    """Yield the fragments of datagrams, the last of one before its first."""
    for number, (offset, size) in enumerate(((MORE_FRAGMENTS, 1514), (MORE_FRAGMENTS | 185, 1514), (370, 300))):
        yield frame(7 + number / 1000, ip(C, D, UDP, udp(), fragment=offset), size)
    yield frame(7.1, ip(D, C, TCP, tcp(SYN), fragment=185), 300)
    yield frame(7.1, ip(D, C, TCP, tcp(SYN), fragment=MORE_FRAGMENTS), 1514)


def addresses() -> Iterator[Frame]:
    """Yield a host that speaks to itself, and the least and the greatest addresses."""
    for number, (source, destination) in enumerate(((A, A), (A, A), (0, 2**32 - 1), (2**32 - 1, 0), (0, 0))):
        yield frame(8 + number / 3, ip(source, destination, UDP, udp()), 342)


def times_and_sizes() -> Iterator[Frame]:
    """Yield steps back in time, also out of a window, sizes whose squares wrap, and a packet two hours ahead."""
    for time, size in ((10, 60), (9.5, 61), (9.5, 65), (12, 46_340), (11.999999, 46_341), (16, 60), (14.999999, 60)):
        yield frame(time, ip(A, D, UDP, udp()), size)
    for time in (15, 29.999999, 30, 44.999999, 7200.25, 45, 44, 30.5):
        yield frame(time, ip(D, A, UDP, udp()), 2_000_000 if time == 45 else 590)


def long_records() -> Iterator[Frame]:
    """Yield records of so many packets that their quartiles are not the least value."""
    generator = random.Random(1)
    times = sorted(generator.uniform(60, 80) for _ in range(900))
    for time in times:
        source, destination = generator.choice(((B, C), (B, C), (C, B)))
        flags = generator.choice((ACK, ACK, PSH | ACK, SYN, FIN | ACK))
        wrong = generator.choice((0, 0, 0, -0.01))
        size = generator.choice((60, 64, 590, 1514))
        yield frame(time + wrong, ip(source, destination, TCP, tcp(flags)), size, captured=54)


def odd_frames() -> list[Frame]:
    """Return all frames, in the order of the file."""
    kinds = (handshakes, headers, protocols, fragments, addresses, times_and_sizes, long_records)
    return [one for kind in kinds for one in kind()]


def as_pcap(frames: list[Frame]) -> bytes:
    """Return a big-endian pcap whose times have nanoseconds, which are left out by who reads microseconds."""
    content = struct.pack(">IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1)
    for number, (time, size, captured) in enumerate(frames):
        seconds, microseconds = divmod(time, SECOND)
        nanoseconds = 1000 * microseconds + number % 1000
        content += struct.pack(">IIII", seconds, nanoseconds, len(captured), size) + captured
    return content


def as_pcapng(frames: list[Frame]) -> bytes:
    """Return a little-endian pcapng of two interfaces in turns, of which the second counts nanoseconds."""

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
    frames = odd_frames()
    for name, content in (("odd.pcap.gz", as_pcap(frames)), ("odd.pcapng.gz", as_pcapng(frames))):
        (folder / name).write_bytes(gzip.compress(content, mtime=0))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
