"""Parse the frames of a pcapng file, in either byte order.

Source: the Internet draft draft-ietf-opsawg-pcapng.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dataset.packets.frames import (
    LARGEST_FRAME,
    SAVE_THE_BEGINNING,
    Bytes,
    Frames,
    Integers,
    define_structure,
    make_damage_error,
    read_structures,
)
from utils.errors import CaptureError

MAGIC: Final = b"\x0a\x0d\x0d\x0a"
"""First bytes of a file, the same in both byte orders."""

_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_PACKETS: Final = (_PACKET, _OLD_PACKET)
_BYTE_ORDER: Final = 0x1A2B3C4D
_VERSIONS: Final = ((1, 0), (1, 2))  # some programs write 1.2 and mean 1.0
_PACKET_HEADER: Final = 28
_SMALLEST_BLOCK: Final = 12
_SECTION_HEADER: Final = 16  # up to and with the version
_LARGEST_BLOCK: Final = 16 * 2**20
_MOST_INTERFACES: Final = 65_536
_RESOLUTION, _OFFSET = 9, 14  # options of an interface
_BINARY: Final = 0x80  # bit of a resolution: a power of 2, not of 10

FieldLayout = Mapping[str, tuple[str, int]]
"""Type without byte order, and offset in the block, of each field."""

_LENGTH: Final[FieldLayout] = {"length": ("u4", 4)}
_PACKET_FIELDS: Final[FieldLayout] = {
    "kind": ("u4", 0), "interface": ("u4", 8), "old_interface": ("u2", 8), "high": ("u4", 12), "low": ("u4", 16),
    "captured": ("u4", 20), "size": ("u4", 24),
}  # fmt: skip


@dataclass
class _Section:
    """A section: a part of a file with its own byte order and interfaces.

    Attributes:
        order: byte order of numbers, ``<`` or ``>``.
        link_types: LINKTYPE_ number of each interface.
        resolutions: timestamp resolution of each interface: a negative power of 10, or of 2 with bit ``_BINARY``.
        offsets: seconds to add to the timestamps of each interface.
    """

    order: str = "<"
    link_types: list[int] = field(default_factory=list)
    resolutions: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)


_PacketBlocks = list[tuple[_Section, list[int]]]
"""Offsets of the packet blocks of each section in a chunk."""


class PcapNg:
    """The format of pcapng, a ``CaptureFormat``: sections with interfaces, and blocks of packets among other blocks."""

    only_link_type: int | None = None

    def __init__(self) -> None:
        self.untimed = 0
        self._section = _Section()

    def parse(self, chunk: bytes, offset: int, /) -> tuple[list[Frames], int]:
        """See ``CaptureFormat``."""
        packets: list[int] = []
        found: _PacketBlocks = [(self._section, packets)]
        at, end = 0, len(chunk)
        heading = struct.Struct(f"{self._section.order}II")
        while at + _SMALLEST_BLOCK <= end:
            kind, length = heading.unpack_from(chunk, at)
            if kind == _SECTION:
                if at + _SECTION_HEADER > end:
                    break
                self._section, packets = _read_section(chunk, at, offset), []
                found.append((self._section, packets))
                heading = struct.Struct(f"{self._section.order}II")
                kind, length = heading.unpack_from(chunk, at)
            if length % 4 or not _SMALLEST_BLOCK <= length <= _LARGEST_BLOCK:
                raise make_damage_error(offset + at, f"a block of {length} bytes")
            if at + length > end:
                break
            if kind in _PACKETS:
                packets.append(at)
            elif kind == _INTERFACE:
                _add_interface(self._section, chunk[at : at + length], offset + at)
            elif kind == _SIMPLE_PACKET:
                self.untimed += 1
            at += length
        return _extract_frames(chunk, [(section, blocks) for section, blocks in found if blocks], offset), at


def _read_section(chunk: bytes, at: int, offset: int) -> _Section:
    for order in "<>":
        byte_order, *version = struct.unpack_from(f"{order}IHH", chunk, at + 8)
        if byte_order == _BYTE_ORDER:
            if tuple(version) not in _VERSIONS:
                major, minor = version
                remedy = f"; {SAVE_THE_BEGINNING}" if offset + at else ""
                raise CaptureError(
                    f"holds a section of pcapng version {major}.{minor} at byte {offset + at}; only version 1.0 can be "
                    f"read{remedy}"
                )
            return _Section(order)
    raise make_damage_error(offset + at, "a section without a valid byte order")


def _add_interface(section: _Section, block: bytes, offset: int) -> None:
    if len(block) < 20 or len(section.link_types) >= _MOST_INTERFACES:
        raise make_damage_error(offset, "an interface")
    (link_type,) = struct.unpack_from(f"{section.order}H", block, 8)
    options = dict(_parse_options(section.order, block[16:-4]))
    resolution = (options.get(_RESOLUTION, b"\x06")[:1] or b"\x06")[0]
    to_add = options.get(_OFFSET, b"")
    seconds = struct.unpack(f"{section.order}q", to_add)[0] if len(to_add) == 8 else 0
    if resolution & ~_BINARY > (63 if resolution & _BINARY else 19) or abs(seconds) > 2**40:
        raise make_damage_error(offset, "an interface with an unsupported timestamp resolution or offset")
    section.link_types.append(link_type)
    section.resolutions.append(resolution)
    section.offsets.append(seconds)


def _parse_options(order: str, content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(content):
        code, length = struct.unpack_from(f"{order}HH", content, at)
        if code == 0:
            return
        yield code, content[at + 4 : at + 4 + length]
        at += 4 + length + -length % 4


def _extract_frames(chunk: bytes, found: _PacketBlocks, offset: int) -> list[Frames]:
    """Return the frames of packet blocks, grouped by link type."""
    if not found:
        return []
    content, sections = np.frombuffer(chunk, np.uint8), [section for section, _ in found]
    blocks = np.array(list(chain.from_iterable(blocks for _, blocks in found)), np.int64)
    section = np.repeat(np.arange(len(found)), [len(blocks) for _, blocks in found])
    is_big = np.array([one.order == ">" for one in sections])[section]
    room = _read_fields(content, blocks, is_big, _LENGTH)["length"].astype(np.int64) - _PACKET_HEADER - 4
    if (short := room < 0).any():
        raise make_damage_error(offset + int(blocks[short.argmax()]), "a packet block without a packet")
    header = _read_fields(content, blocks, is_big, _PACKET_FIELDS)
    captured, size = header["captured"].astype(np.int64), header["size"].astype(np.int64)
    number = np.where(header["kind"] == _OLD_PACKET, header["old_interface"], header["interface"]).astype(np.int64)
    known = np.array([len(one.link_types) for one in sections])
    wrong = (captured > room) | (captured > LARGEST_FRAME) | (number >= known[section])
    if wrong.any():
        raise make_damage_error(
            offset + int(blocks[wrong.argmax()]), "a packet that does not fit its block or interface"
        )
    interface = (np.cumsum(known) - known)[section] + number  # index among the interfaces of all sections
    ticks = header["high"].astype(np.uint64) << np.uint64(32) | header["low"]
    start, microseconds = blocks + _PACKET_HEADER, _convert_timestamps(ticks, sections, interface)
    link_types = _flatten((one.link_types for one in sections), np.uint16)
    return [
        Frames(content, start[chosen], captured[chosen], size[chosen], microseconds[chosen], link_type)
        for link_type, chosen in _group_by_value(link_types, interface)
    ]


def _read_fields(
    content: Bytes, blocks: Integers, is_big: NDArray[np.bool_], layout: FieldLayout
) -> dict[str, NDArray[Any]]:
    """Return the fields (N,) of blocks of either byte order, by name."""

    def read(chosen: Integers, order: str) -> NDArray[Any]:
        return read_structures(
            content, chosen, define_structure(**{name: (f"{order}{kind}", at) for name, (kind, at) in layout.items()})
        )

    if is_big.all() or not is_big.any():
        found = read(blocks, ">" if is_big[0] else "<")
        return {name: found[name] for name in layout}
    little, big = read(blocks[~is_big], "<"), read(blocks[is_big], ">")
    fields = {name: np.empty(len(blocks), np.uint32) for name in layout}
    for name, column in fields.items():
        column[~is_big], column[is_big] = little[name], big[name]
    return fields


def _flatten(lists: Iterator[list[int]], dtype: type[Any]) -> NDArray[Any]:
    return np.array(list(chain.from_iterable(lists)), dtype)


def _group_by_value(values: NDArray[Any], interface: Integers) -> Iterator[tuple[int, Any]]:
    """Yield each distinct value of the interfaces (I,) and its packets, given the interface (N,) of each packet."""
    if (values == values[0]).all():
        yield int(values[0]), slice(None)
        return
    packet_values = values[interface]
    order = np.argsort(packet_values, kind="stable")
    for chosen in np.split(order, np.flatnonzero(np.diff(packet_values[order])) + 1):
        yield int(packet_values[chosen[0]]), chosen


def _convert_timestamps(ticks: NDArray[np.uint64], sections: Sequence[_Section], interface: Integers) -> Integers:
    """Return the timestamps (N,) of packets in microseconds since the epoch, given the interface (N,) of each."""
    microseconds = np.empty(len(ticks), np.int64)
    for resolution, chosen in _group_by_value(_flatten((one.resolutions for one in sections), np.uint8), interface):
        microseconds[chosen] = _convert_ticks(ticks[chosen], resolution)
    offsets = _flatten((one.offsets for one in sections), np.int64)
    if offsets.any():
        microseconds += offsets[interface] * 10**6
    return microseconds


def _convert_ticks(ticks: NDArray[np.uint64], resolution: int) -> Integers:
    """Return ticks (N,) of a clock resolution in microseconds, without the interface's offset."""
    power = resolution & ~_BINARY
    if not resolution & _BINARY:
        finer, coarser = 10 ** max(power - 6, 0), 10 ** max(6 - power, 0)
        microseconds: Integers = (ticks // np.uint64(finer)).astype(np.int64) * coarser
        return microseconds
    seconds, rest = ticks >> np.uint64(power), ticks & np.uint64((1 << power) - 1)
    # Drop the lowest bits of the rest, so that its product with a million fits in 64 bits.
    excess = np.uint64(max(0, power - 40))
    fraction = (rest >> excess) * np.uint64(10**6) >> np.uint64(power) - excess
    whole: Integers = (seconds * np.uint64(10**6) + fraction).astype(np.int64)
    return whole
