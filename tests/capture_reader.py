"""A plain reader of captures, packet by packet: the reference for the tests of the project's reader.

It imports the standard library only. dpkt does not serve: its readers return timestamps as floats and no sizes on the
wire.
"""

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

Frame = tuple[int, int, bytes]
"""Timestamp in µs, size on the wire, captured bytes."""

ETHERNET = 1
UNITS_PER_SECOND = {0xA1B2C3D4: 10**6, 0xA1B23C4D: 10**9}


def parse_ipv4_packet(time: int, size: int, frame: bytes) -> tuple[int, int, int, int, int, int, int] | None:
    """Return a row of ``Packets``; None if the Ethernet frame is not IPv4."""
    if frame[12:14] != b"\x08\x00" or len(frame) < 34:
        return None
    source, destination = struct.unpack_from(">II", frame, 26)
    protocol = frame[23]
    flags = frame[47] if protocol == 6 and len(frame) > 47 else 0
    return time, source, destination, size, protocol, flags, parse_ports(protocol, frame)


def parse_ports(protocol: int, frame: bytes) -> int:
    """Return the source and destination port of an IPv4 packet, 16 bits each; of ICMP, type and code."""
    length = 4 * (frame[14] & 15)
    behind = 14 + length
    if protocol not in {1, 6, 17, 132} or int.from_bytes(frame[20:22]) & 0x1FFF:
        return 0
    if length < 20 or len(frame) < behind + 4:
        return 0
    if protocol == 1:
        return frame[behind] << 16 | frame[behind + 1]
    return int.from_bytes(frame[behind : behind + 4])


def read_frames(path: Path) -> Iterator[Frame]:
    """Yield the frames of a capture in the order of the file."""
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    return read_pcapng_frames(content) if content.startswith(b"\x0a\x0d\x0d\x0a") else read_pcap_frames(content)


def read_pcap_frames(content: bytes) -> Iterator[Frame]:
    """Yield the frames of a classic pcap."""
    order = "<" if struct.unpack_from("<I", content)[0] in UNITS_PER_SECOND else ">"
    magic, link = struct.unpack_from(order + "I16xI", content)
    assert link == ETHERNET
    at = 24
    while at < len(content):
        seconds, fraction, captured, size = struct.unpack_from(order + "IIII", content, at)
        at += 16
        yield (
            seconds * 10**6 + fraction * 10**6 // UNITS_PER_SECOND[magic],
            size,
            content[at : at + captured],
        )
        at += captured


def read_pcapng_frames(content: bytes) -> Iterator[Frame]:
    """Yield the frames in the enhanced packet blocks of a pcapng with one section."""
    order = "<" if content[8:12] == b"\x4d\x3c\x2b\x1a" else ">"
    units: list[int] = []  # of each interface, per second
    at = 0
    while at < len(content):
        kind, length = struct.unpack_from(order + "II", content, at)
        body = content[at + 8 : at + length - 4]
        if kind == 1:
            assert struct.unpack_from(order + "H", body)[0] == ETHERNET
            units.append(read_timestamp_units(body[8:], order))
        elif kind == 6:
            interface, high, low, captured, size = struct.unpack_from(order + "IIIII", body)
            yield (high << 32 | low) * 10**6 // units[interface], size, body[20 : 20 + captured]
        at += length


def read_timestamp_units(options: bytes, order: str) -> int:
    """Return the units per second that an interface's options declare, a million by default."""
    at = 0
    while at + 4 <= len(options):
        code, length = struct.unpack_from(order + "HH", options, at)
        if code == 9:
            base, exponent = (2, options[at + 4] & 0x7F) if options[at + 4] & 0x80 else (10, options[at + 4])
            return int(base**exponent)
        at += 4 + (length + 3) // 4 * 4
    return 10**6
