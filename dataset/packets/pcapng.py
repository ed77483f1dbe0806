"""pcapng files as frames, in either byte order, piece by piece.

Source: the Internet draft draft-ietf-opsawg-pcapng.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dataset.packets.frames import LARGEST_FRAME, SAVE_THE_REST, Bytes, Frames, Integers, damaged, layout, structures
from utils.errors import CaptureError

MAGIC: Final = b"\x0a\x0d\x0d\x0a"
"""The first bytes of a file, which are the same in both byte orders."""

_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_PACKETS: Final = (_PACKET, _OLD_PACKET)
_BYTE_ORDER: Final = 0x1A2B3C4D
_VERSIONS: Final = ((1, 0), (1, 2))  # 1.2 is written by some programs, and means 1.0
_PACKET_HEADER: Final = 28
_SMALLEST_BLOCK: Final = 12
_SECTION_HEADER: Final = 16  # as much of it as is looked at
_LARGEST_BLOCK: Final = 16 * 2**20
_MOST_INTERFACES: Final = 65_536
_RESOLUTION, _OFFSET = 9, 14  # options of an interface
_BINARY: Final = 0x80  # in a resolution: a power of 2, not of 10

Places = Mapping[str, tuple[str, int]]
"""Of fields in a block, their types without the byte order, and their places."""

_LENGTH: Final[Places] = {"length": ("u4", 4)}
_PACKET_FIELDS: Final[Places] = {
    "kind": ("u4", 0), "interface": ("u4", 8), "old_interface": ("u2", 8), "high": ("u4", 12), "low": ("u4", 16),
    "captured": ("u4", 20), "size": ("u4", 24),
}  # fmt: skip


@dataclass
class _Section:
    """A part of a file with a byte order and interfaces of its own.

    Attributes:
        order: of the bytes of a number, ``<`` or ``>``.
        link_types: a LINKTYPE_ number for each interface.
        resolutions: a power of 10, or with the highest bit of a byte a power of 2, of a second, for each interface.
        offsets: seconds, to be added to the timestamps, for each interface.
    """

    order: str = "<"
    link_types: list[int] = field(default_factory=list)
    resolutions: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)


_Found = list[tuple[_Section, list[int]]]
"""Where the packet blocks of each section begin in a piece."""


class PcapNg:
    """pcapng: blocks of many kinds, those of packets among them, in sections with interfaces of their own."""

    only_link_type: int | None = None

    def __init__(self) -> None:
        self.untimed = 0
        self._section = _Section()

    def take(self, piece: bytes, place: int, /) -> tuple[list[Frames], int]:
        """See ``CaptureFormat``."""
        packets: list[int] = []
        found: _Found = [(self._section, packets)]
        at, end = 0, len(piece)
        heading = struct.Struct(f"{self._section.order}II")
        while at + _SMALLEST_BLOCK <= end:
            kind, length = heading.unpack_from(piece, at)
            if kind == _SECTION:
                if at + _SECTION_HEADER > end:
                    break
                self._section, packets = _new_section(piece, at, place), []
                found.append((self._section, packets))
                heading = struct.Struct(f"{self._section.order}II")
                kind, length = heading.unpack_from(piece, at)
            if length % 4 or not _SMALLEST_BLOCK <= length <= _LARGEST_BLOCK:
                raise damaged(place + at, f"a block of {length} bytes")
            if at + length > end:
                break
            if kind in _PACKETS:
                packets.append(at)
            elif kind == _INTERFACE:
                _add_interface(self._section, piece[at : at + length], place + at)
            elif kind == _SIMPLE_PACKET:
                self.untimed += 1
            at += length
        return _frames(piece, [(section, blocks) for section, blocks in found if blocks], place), at


def _new_section(piece: bytes, at: int, place: int) -> _Section:
    for order in "<>":
        byte_order, *version = struct.unpack_from(f"{order}IHH", piece, at + 8)
        if byte_order == _BYTE_ORDER:
            if tuple(version) not in _VERSIONS:
                major, minor = version
                rest = f"; {SAVE_THE_REST}" if place + at else ""
                raise CaptureError(
                    f"holds a section of pcapng version {major}.{minor} at byte {place + at}; only version 1.0 can be "
                    f"read{rest}"
                )
            return _Section(order)
    raise damaged(place + at, "a section of no byte order")


def _add_interface(section: _Section, block: bytes, place: int) -> None:
    if len(block) < 20 or len(section.link_types) >= _MOST_INTERFACES:
        raise damaged(place, "an interface")
    (link_type,) = struct.unpack_from(f"{section.order}H", block, 8)
    options = dict(_options(section.order, block[16:-4]))
    resolution = (options.get(_RESOLUTION, b"\x06")[:1] or b"\x06")[0]
    offset = options.get(_OFFSET, b"")
    seconds = struct.unpack(f"{section.order}q", offset)[0] if len(offset) == 8 else 0
    if resolution & ~_BINARY > (63 if resolution & _BINARY else 19) or abs(seconds) > 2**40:
        raise damaged(place, "an interface with an unsupported timestamp resolution or offset")
    section.link_types.append(link_type)
    section.resolutions.append(resolution)
    section.offsets.append(seconds)


def _options(order: str, content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(content):
        code, length = struct.unpack_from(f"{order}HH", content, at)
        if code == 0:
            return
        yield code, content[at + 4 : at + 4 + length]
        at += 4 + length + -length % 4


def _frames(piece: bytes, found: _Found, place: int) -> list[Frames]:
    """Return the frames of packet blocks, those of one link type together."""
    if not found:
        return []
    content, sections = np.frombuffer(piece, np.uint8), [section for section, _ in found]
    blocks = np.array(list(chain.from_iterable(blocks for _, blocks in found)), np.int64)
    section = np.repeat(np.arange(len(found)), [len(blocks) for _, blocks in found])
    is_big = np.array([one.order == ">" for one in sections])[section]
    room = _fields(content, blocks, is_big, _LENGTH)["length"].astype(np.int64) - _PACKET_HEADER - 4
    if (short := room < 0).any():
        raise damaged(place + int(blocks[short.argmax()]), "a packet block without a packet")
    header = _fields(content, blocks, is_big, _PACKET_FIELDS)
    captured, size = header["captured"].astype(np.int64), header["size"].astype(np.int64)
    number = np.where(header["kind"] == _OLD_PACKET, header["old_interface"], header["interface"]).astype(np.int64)
    known = np.array([len(one.link_types) for one in sections])
    wrong = (captured > room) | (captured > LARGEST_FRAME) | (number >= known[section])
    if wrong.any():
        raise damaged(place + int(blocks[wrong.argmax()]), "a packet that does not fit its block or interface")
    interface = (np.cumsum(known) - known)[section] + number  # counted on from section to section
    ticks = header["high"].astype(np.uint64) << np.uint64(32) | header["low"]
    start, microseconds = blocks + _PACKET_HEADER, _microseconds(ticks, sections, interface)
    link_types = _joined((one.link_types for one in sections), np.uint16)
    return [
        Frames(content, start[chosen], captured[chosen], size[chosen], microseconds[chosen], link_type)
        for link_type, chosen in _each(link_types, interface)
    ]


def _fields(content: Bytes, blocks: Integers, is_big: NDArray[np.bool_], places: Places) -> dict[str, NDArray[Any]]:
    """Return fields (N,) of blocks, some of which may be big-endian, by the type and place of each."""

    def of(chosen: Integers, order: str) -> NDArray[Any]:
        return structures(
            content, chosen, layout(**{name: (f"{order}{kind}", at) for name, (kind, at) in places.items()})
        )

    if is_big.all() or not is_big.any():
        found = of(blocks, ">" if is_big[0] else "<")
        return {name: found[name] for name in places}
    little, big = of(blocks[~is_big], "<"), of(blocks[is_big], ">")
    fields = {name: np.empty(len(blocks), np.uint32) for name in places}
    for name, column in fields.items():
        column[~is_big], column[is_big] = little[name], big[name]
    return fields


def _joined(lists: Iterator[list[int]], dtype: type[Any]) -> NDArray[Any]:
    return np.array(list(chain.from_iterable(lists)), dtype)


def _each(values: NDArray[Any], interface: Integers) -> Iterator[tuple[int, Any]]:
    """Yield each value that interfaces (I,) have, and which packets, of interfaces (N,), have it, in their order."""
    if (values == values[0]).all():
        yield int(values[0]), slice(None)
        return
    of_packets = values[interface]
    order = np.argsort(of_packets, kind="stable")
    for chosen in np.split(order, np.flatnonzero(np.diff(of_packets[order])) + 1):
        yield int(of_packets[chosen[0]]), chosen


def _microseconds(ticks: NDArray[np.uint64], sections: Sequence[_Section], interface: Integers) -> Integers:
    """Return timestamps (N,) of packets of some interfaces (N,) in microseconds since the epoch."""
    microseconds = np.empty(len(ticks), np.int64)
    for resolution, chosen in _each(_joined((one.resolutions for one in sections), np.uint8), interface):
        microseconds[chosen] = _without_offset(ticks[chosen], resolution)
    offsets = _joined((one.offsets for one in sections), np.int64)
    if offsets.any():
        microseconds += offsets[interface] * 10**6
    return microseconds


def _without_offset(ticks: NDArray[np.uint64], resolution: int) -> Integers:
    """Return ticks (N,) of a resolution in microseconds."""
    power = resolution & ~_BINARY
    if not resolution & _BINARY:
        finer, coarser = 10 ** max(power - 6, 0), 10 ** max(6 - power, 0)
        microseconds: Integers = (ticks // np.uint64(finer)).astype(np.int64) * coarser
        return microseconds
    seconds, rest = ticks >> np.uint64(power), ticks & np.uint64((1 << power) - 1)
    # Only as many bits of the rest as leave room for a million.
    excess = np.uint64(max(0, power - 40))
    fraction = (rest >> excess) * np.uint64(10**6) >> np.uint64(power) - excess
    whole: Integers = (seconds * np.uint64(10**6) + fraction).astype(np.int64)
    return whole
