"""Supported link types, and how the IPv4 packets of their frames are extracted.

Sizes are those of Ethernet frames, whatever the header of the link: the features are defined on Ethernet frames.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dataset.packets.frames import Bytes, Frames, Integers, define_structure, read_numbers, read_structures
from dataset.packets.packets import NO_PACKETS, Packets
from dataset.packets.traffic_counts import CUT_SHORT, NO_TIME, NOT_VERSION_4, OTHER, VLAN, TrafficCounts

_ETHERNET_HEADER: Final = 14
_IPV4: Final = 0x0800
_IP_HEADER: Final = 20
_FLAGS: Final = 33  # offset of the TCP flags after an IPv4 header without options
_TCP: Final = 6
_ICMP: Final = 1
_WITH_PORTS: Final = np.isin(np.arange(256), (_ICMP, _TCP, 17, 132))
_LATEST: Final = 253_402_300_800 * 10**6  # microseconds: the year 10000
_LARGEST_SIZE: Final = 2**32 - 1
_HEADERS: Final = define_structure(
    version_length=("u1", 0), fragment=(">u2", 6), protocol=("u1", 9), source=(">u4", 12), destination=(">u4", 16),
    ports=(">u4", _IP_HEADER), flags=("u1", _FLAGS),
)  # fmt: skip
"""An IPv4 header without options and the fields of TCP after it."""

_ETHERTYPES: Final = {
    **dict.fromkeys((0x8100, 0x88A8, 0x9100), VLAN),
    0x86DD: "IPv6",
    0x0806: "ARP",
    **dict.fromkeys((0x8847, 0x8848), "MPLS"),
    **dict.fromkeys((0x8863, 0x8864), "PPPoE"),
}
_FAMILIES: Final = {family << shift: "IPv6" for family in (24, 28, 30) for shift in (0, 24)}
_VERSIONS: Final = dict.fromkeys(range(0x60, 0x70), "IPv6")


@dataclass(frozen=True)
class LinkType:
    """The header of a link's frames.

    Attributes:
        name: for people.
        header: bytes before the IP packet.
        protocol: offset and dtype of the field that names the protocol, and its values for IPv4.
        others: names of other protocols, by the value of that field.
    """

    name: str
    header: int
    protocol: tuple[int, str, tuple[int, ...]]
    others: Mapping[int, str]


_FIRST_NIBBLE: Final = tuple(range(0x40, 0x50))
_RAW: Final = LinkType("raw IP", 0, (0, "u1", _FIRST_NIBBLE), _VERSIONS)
# A loopback frame begins with the address family of the capturing machine, in that machine's byte order.
_NULL: Final = LinkType("BSD loopback", 4, (0, "<u4", (2, 2 << 24)), _FAMILIES)
_ETHERNET: Final = LinkType("Ethernet", _ETHERNET_HEADER, (12, ">u2", (_IPV4,)), _ETHERTYPES)
LINK_TYPES: Final = {
    0: _NULL,
    1: _ETHERNET,
    12: _RAW,
    14: _RAW,
    101: _RAW,
    108: _NULL,
    113: LinkType("Linux cooked", 16, (14, ">u2", (_IPV4,)), _ETHERTYPES),
    228: LinkType("raw IPv4", 0, (0, "u1", _FIRST_NIBBLE), _VERSIONS),
    229: LinkType("raw IPv6", 0, (0, "u1", ()), _VERSIONS),
    276: LinkType("Linux cooked, version 2", 20, (0, ">u2", (_IPV4,)), _ETHERTYPES),
}
"""By LINKTYPE_ number: https://www.tcpdump.org/linktypes.html."""

_UNREADABLE: Final = {
    9: "PPP",
    50: "PPP",
    51: "PPPoE",
    104: "Cisco HDLC",
    105: "IEEE 802.11",
    107: "Frame Relay",
    119: "IEEE 802.11",
    127: "IEEE 802.11",
    163: "IEEE 802.11",
    187: "Bluetooth",
    189: "USB",
    192: "PPI",
    195: "IEEE 802.15.4",
    201: "Bluetooth",
    220: "USB",
    227: "CAN",
    230: "IEEE 802.15.4",
    239: "netfilter log",
    249: "USB",
    253: "netlink",
    283: "IEEE 802.15.4",
}
"""Names of unsupported link types, by LINKTYPE_ number."""


def name_link_type(number: int) -> str:
    """Return a LINKTYPE_ number with its name, if known here."""
    known = LINK_TYPES[number].name if number in LINK_TYPES else _UNREADABLE.get(number)
    return f"link type {number}" + (f" ({known})" if known else "")


def extract_ipv4_packets(frames: Frames, counts: TrafficCounts) -> tuple[Packets, Integers]:
    """Return the IPv4 packets among frames of one link type, in order, and the offsets (P,) of their frames.

    All frames are added to ``counts``.
    """
    if frames.link_type not in LINK_TYPES:
        name = name_link_type(frames.link_type)
        counts.count_other(f"of {name}", len(frames))
        counts.unreadable[name] += len(frames)
        return NO_PACKETS, frames.start[:0]
    link = LINK_TYPES[frames.link_type]
    offset, dtype, values = link.protocol
    whole = np.flatnonzero(frames.captured >= max(link.header, offset + np.dtype(dtype).itemsize))
    protocols = read_numbers(frames.content, frames.start[whole] + offset, dtype)
    is_ipv4 = _is_one_of(protocols, values)
    ipv4 = whole[is_ipv4]
    long = ipv4[frames.captured[ipv4] >= link.header + _IP_HEADER]
    timed = long
    if len(long) and not 0 <= frames.timestamp.min() <= frames.timestamp.max() < _LATEST:
        timed = long[(frames.timestamp[long] >= 0) & (frames.timestamp[long] < _LATEST)]
    # The features are defined by the EtherType alone; so on Ethernet the version is not checked.
    chosen = timed if link is _ETHERNET else timed[_is_version_4(frames, timed, link)]
    counts.ipv4 += len(chosen)
    for kind, count in _count_kinds(protocols[~is_ipv4], link).items():
        counts.count_other(kind, count)
    counts.count_malformed(CUT_SHORT, len(frames) - len(whole) + len(ipv4) - len(long))
    counts.count_malformed(NO_TIME, len(long) - len(timed))
    counts.count_malformed(NOT_VERSION_4, len(timed) - len(chosen))
    return _parse_packets(frames, chosen, link), frames.start[chosen]


def _is_version_4(frames: Frames, chosen: NDArray[np.intp], link: LinkType) -> NDArray[np.bool_]:
    is_4: NDArray[np.bool_] = frames.content[frames.start[chosen] + link.header] >> 4 == 4
    return is_4


def _count_kinds(protocols: Integers, link: LinkType) -> Counter[str]:
    """Return the names of protocols other than IPv4 with their numbers of frames, given each frame's (N,)."""
    kinds = Counter[str]()
    for protocol, count in zip(*np.unique(protocols, return_counts=True), strict=True):
        kinds[link.others.get(int(protocol), OTHER)] += int(count)
    return kinds


def _is_one_of(numbers: Integers, values: tuple[int, ...]) -> NDArray[np.bool_]:
    # np.isin does not see that most links have one value, and takes much longer.
    found = np.zeros(len(numbers), np.bool_)
    for value in values:
        found |= numbers == value
    return found


def _parse_packets(frames: Frames, chosen: NDArray[np.intp], link: LinkType) -> Packets:
    start, captured = frames.start[chosen] + link.header, frames.captured[chosen] - link.header
    content = frames.content
    if (lacking := int(start.max(initial=0)) + _HEADERS.itemsize - len(content)) > 0:
        content = np.append(content, np.zeros(lacking, np.uint8))
    header = read_structures(content, start, _HEADERS)
    protocol = header["protocol"].copy()
    return Packets(
        frames.timestamp[chosen],
        header["source"].astype(np.uint32),
        header["destination"].astype(np.uint32),
        np.clip(frames.size[chosen] - link.header + _ETHERNET_HEADER, 0, _LARGEST_SIZE),
        protocol,
        np.where((protocol == _TCP) & (captured > _FLAGS), header["flags"], 0),
        _parse_ports(content, start, captured, header),
    )


def _parse_ports(content: Bytes, start: Integers, captured: Integers, header: NDArray[np.void]) -> NDArray[np.uint32]:
    """Return the ports (P,) of packets, as in ``Packets``.

    Only the first fragment of a datagram has ports. A header with an invalid length has none.
    """
    length = (header["version_length"] & 0xF).astype(np.int64) * 4
    has_ports = (length >= _IP_HEADER) & (length + 4 <= captured)
    has_ports &= _WITH_PORTS[header["protocol"]] & (header["fragment"] & 0x1FFF == 0)
    ports = np.where(has_ports, header["ports"], 0)
    with_options = np.flatnonzero(has_ports & (length != _IP_HEADER))
    ports[with_options] = read_numbers(content, start[with_options] + length[with_options], ">u4")
    icmp = np.flatnonzero(header["protocol"] == _ICMP)
    first = ports[icmp]
    ports[icmp] = first >> 24 << 16 | first >> 16 & 0xFF
    return ports
