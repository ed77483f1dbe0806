"""Frames to IPv4 packets, by the link that they were captured on.

A frame's size counts as if the packet had come over Ethernet, whatever the link's own header: the features speak of
Ethernet frames.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dataset.capture_formats import Frames, Integers, words
from dataset.flow_features import Packets
from utils.errors import CaptureError

_ETHERNET_HEADER: Final = 14
_IPV4: Final = 0x0800
_IP_HEADER: Final = 20
_FLAGS: Final = 33  # of TCP, behind an IPv4 header of 20 bytes
_TCP: Final = 6
_ICMP: Final = 1
_WITH_PORTS: Final = np.isin(np.arange(256), (_ICMP, _TCP, 17, 132))
_LARGEST_SIZE: Final = 2**32 - 1


@dataclass(frozen=True)
class LinkType:
    """How a link's frames begin.

    Attributes:
        name: for people.
        header: bytes in front of the IP packet.
        marks: (place, type of number, values), what stands there in front of an IPv4 packet.
    """

    name: str
    header: int
    marks: tuple[int, str, tuple[int, ...]]


_FIRST_NIBBLE: Final = tuple(range(0x40, 0x50))
_RAW: Final = LinkType("raw IP", 0, (0, "u1", _FIRST_NIBBLE))
# A loopback frame begins with the address family of the machine it was captured on, in that machine's byte order.
_NULL: Final = LinkType("BSD loopback", 4, (0, "<u4", (2, 2 << 24)))
LINK_TYPES: Final = {
    0: _NULL,
    1: LinkType("Ethernet", _ETHERNET_HEADER, (12, ">u2", (_IPV4,))),
    12: _RAW,
    14: _RAW,
    101: _RAW,
    108: _NULL,
    113: LinkType("Linux cooked", 16, (14, ">u2", (_IPV4,))),
    228: LinkType("raw IPv4", 0, (0, "u1", _FIRST_NIBBLE)),
    229: LinkType("raw IPv6", 0, (0, "u1", ())),
    276: LinkType("Linux cooked, version 2", 20, (0, ">u2", (_IPV4,))),
}
"""By LINKTYPE_ number: https://www.tcpdump.org/linktypes.html."""


@dataclass(frozen=True)
class Sorted:
    """What some frames are.

    Attributes:
        packets: the IPv4 packets.
        other: frames that are not IPv4.
        malformed: frames that claim to be, and are too short for its header.
    """

    packets: Packets
    other: int
    malformed: int


def ipv4_packets(frames: Frames) -> Sorted:
    """Return the IPv4 packets among frames, in their order.

    Raises:
        CaptureError: the link's type is not known here.
    """
    if frames.link_type not in LINK_TYPES:
        known = ", ".join(dict.fromkeys(link.name for link in LINK_TYPES.values()))
        raise CaptureError(f"was captured on a link of type {frames.link_type}; known are {known}")
    link = LINK_TYPES[frames.link_type]
    place, dtype, values = link.marks
    whole = frames.captured >= link.header
    whole &= frames.captured >= place + np.dtype(dtype).itemsize
    marked = whole.copy()
    marked[whole] = np.isin(words(frames.content, frames.start[whole] + place, dtype), values)
    long_enough = frames.captured >= link.header + _IP_HEADER
    chosen = np.flatnonzero(marked & long_enough)
    malformed = int((~whole | (marked & ~long_enough)).sum())
    packets = _packets(frames, chosen, frames.start[chosen] + link.header, link)
    return Sorted(packets, len(frames) - len(chosen) - malformed, malformed)


def _packets(frames: Frames, chosen: NDArray[np.intp], ip: Integers, link: LinkType) -> Packets:
    content = frames.content
    protocol = content[ip + 9]
    flags = np.zeros(len(chosen), np.uint8)
    known = (protocol == _TCP) & (frames.captured[chosen] > link.header + _FLAGS)
    flags[known] = content[ip[known] + _FLAGS]
    ports = _ports(frames, chosen, ip, protocol)
    size = np.clip(frames.size[chosen] - link.header + _ETHERNET_HEADER, 0, _LARGEST_SIZE)
    source, destination = (words(content, ip + at, ">u4").astype(np.uint32) for at in (12, 16))
    return Packets(frames.timestamp[chosen], source, destination, size, protocol, flags, ports)


def _ports(frames: Frames, chosen: NDArray[np.intp], ip: Integers, protocol: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the ports (P,) of packets, as in ``Packets``; those of a datagram's first fragment alone are there."""
    content = frames.content
    behind = ip + (content[ip] & 0xF).astype(np.int64) * 4
    there = (behind + 4 <= frames.start[chosen] + frames.captured[chosen]) & _WITH_PORTS[protocol]
    there &= (content[ip + 6] & 0x1F | content[ip + 7]) == 0  # the fragment's offset
    ports = np.zeros(len(chosen), np.uint32)
    ports[there] = words(content, behind[there], ">u4")
    icmp = there & (protocol == _ICMP)
    first = ports[icmp]
    ports[icmp] = first >> 24 << 16 | first >> 16 & 0xFF
    return ports
