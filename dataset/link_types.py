"""Frames to IPv4 packets, by the link that they were captured on.

A frame's size counts as if the packet had come over Ethernet, whatever the link's own header: the features speak of
Ethernet frames.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dataset.capture_formats import Bytes, Frames, Integers, layout, structures, words
from dataset.flow_features import Packets
from utils.errors import CaptureError

_ETHERNET_HEADER: Final = 14
_IPV4: Final = 0x0800
_IP_HEADER: Final = 20
_FLAGS: Final = 33  # of TCP, behind an IPv4 header without options
_TCP: Final = 6
_ICMP: Final = 1
_WITH_PORTS: Final = np.isin(np.arange(256), (_ICMP, _TCP, 17, 132))
_LATEST: Final = 253_402_300_800 * 10**6  # microseconds: the year 10000
_LARGEST_SIZE: Final = 2**32 - 1
_HEADERS: Final = layout(
    version_length=("u1", 0), fragment=(">u2", 6), protocol=("u1", 9), source=(">u4", 12), destination=(">u4", 16),
    ports=(">u4", _IP_HEADER), flags=("u1", _FLAGS),
)  # fmt: skip
"""The headers of IPv4, and of TCP behind it where that one has no options."""


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
        malformed: frames that claim to be, and are too short for its header, or of no time from 1970 to 9999.
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
    whole = np.flatnonzero(frames.captured >= max(link.header, place + np.dtype(dtype).itemsize))
    marked = whole[_is_one_of(words(frames.content, frames.start[whole] + place, dtype), values)]
    chosen = marked[frames.captured[marked] >= link.header + _IP_HEADER]
    if len(chosen) and not 0 <= frames.timestamp.min() <= frames.timestamp.max() < _LATEST:
        chosen = chosen[(frames.timestamp[chosen] >= 0) & (frames.timestamp[chosen] < _LATEST)]
    malformed = len(frames) - len(whole) + len(marked) - len(chosen)
    return Sorted(_packets(frames, chosen, link), len(frames) - len(chosen) - malformed, malformed)


def _is_one_of(numbers: Integers, values: tuple[int, ...]) -> NDArray[np.bool_]:
    found = np.zeros(len(numbers), np.bool_)
    for value in values:
        found |= numbers == value
    return found


def _packets(frames: Frames, chosen: NDArray[np.intp], link: LinkType) -> Packets:
    start, captured = frames.start[chosen] + link.header, frames.captured[chosen] - link.header
    content = frames.content
    if (lacking := int(start.max(initial=0)) + _HEADERS.itemsize - len(content)) > 0:
        content = np.append(content, np.zeros(lacking, np.uint8))
    header = structures(content, start, _HEADERS)
    protocol = header["protocol"].copy()
    return Packets(
        frames.timestamp[chosen],
        header["source"].astype(np.uint32),
        header["destination"].astype(np.uint32),
        np.clip(frames.size[chosen] - link.header + _ETHERNET_HEADER, 0, _LARGEST_SIZE),
        protocol,
        np.where((protocol == _TCP) & (captured > _FLAGS), header["flags"], 0),
        _ports(content, start, captured, header),
    )


def _ports(content: Bytes, start: Integers, captured: Integers, header: NDArray[np.void]) -> NDArray[np.uint32]:
    """Return the ports (P,) of packets, as in ``Packets``; those of a datagram's first fragment alone are there."""
    length = (header["version_length"] & 0xF).astype(np.int64) * 4
    there = (length + 4 <= captured) & _WITH_PORTS[header["protocol"]] & (header["fragment"] & 0x1FFF == 0)
    ports = np.where(there, header["ports"], 0)
    moved = np.flatnonzero(there & (length != _IP_HEADER))
    ports[moved] = words(content, start[moved] + length[moved], ">u4")
    icmp = np.flatnonzero(header["protocol"] == _ICMP)
    first = ports[icmp]
    ports[icmp] = first >> 24 << 16 | first >> 16 & 0xFF
    return ports
