"""Capture files as frames: classic pcap and pcapng, in either byte order, piece by piece.

What can be read for all frames of a piece at once is; only where they begin each tells of the next.

Sources: the Internet drafts draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from dataset.frame_headers import FRAME_HEADER, frame_headers
from utils.errors import CaptureError

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

LARGEST_FRAME: Final = 262_144
"""Captured bytes of a frame at most, as libpcap has it; more is damage."""

HEADER: Final = 24
"""Bytes by which a capture's format is told, if there are as many."""

_TICKS: Final = {0xA1B2C3D4: 10**6, 0xA1B23C4D: 10**9}  # per second, by the file's first four bytes
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_PACKETS: Final = (_PACKET, _OLD_PACKET)
_BYTE_ORDER: Final = 0x1A2B3C4D
_PACKET_HEADER: Final = 28
_SMALLEST_BLOCK: Final = 12
_LARGEST_BLOCK: Final = 16 * 2**20
_MOST_INTERFACES: Final = 65_536
_RESOLUTION, _OFFSET = 9, 14  # options of an interface


@dataclass(frozen=True)
class Frames:
    """Frames of one link type, in the file's order; arrays of one length N.

    Attributes:
        content: (B,) uint8, a piece of the file.
        start: (N,) int64, where in it each frame begins.
        captured: (N,) int64, how many of its bytes are there.
        size: (N,) int64, how many it had on the wire.
        timestamp: (N,) int64, microseconds since the epoch, rounded down.
        link_type: of all, a LINKTYPE_ number.
    """

    content: Bytes
    start: Integers
    captured: Integers
    size: Integers
    timestamp: Integers
    link_type: int

    def __len__(self) -> int:
        return len(self.start)


class CaptureFormat(Protocol):
    """How a file's frames lie in it.

    Attributes:
        untimed: packets so far that came without a timestamp, and are left out.
    """

    untimed: int

    def take(self, piece: bytes, place: int, /) -> tuple[list[Frames], int]:
        """Return the frames that are whole in a piece, and how many of its bytes are done with.

        Args:
            piece: what follows the part that was done with.
            place: of the piece in the file, for messages.

        Raises:
            CaptureError: the file is damaged.
        """


def layout(**fields: tuple[str, int]) -> np.dtype[np.void]:
    """Return the type of structures that have fields of some types at some places, which may overlap."""
    formats, offsets = zip(*fields.values(), strict=True)
    return np.dtype({"names": list(fields), "formats": formats, "offsets": offsets})


def structures(content: Bytes, at: Integers, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return what stands at places (N,) of a piece, aligned or not, as a type.

    Raises:
        IndexError: it is not whole in the piece.
    """
    # As bytes of no type a structure is copied at once, not field by field.
    untyped = np.dtype((np.void, dtype.itemsize))
    everywhere = np.ndarray((max(len(content) - dtype.itemsize + 1, 0),), untyped, content.data, strides=(1,))
    return everywhere[at].view(dtype)


def words(content: Bytes, at: Integers, dtype: str) -> Integers:
    """Return the numbers of a type, such as ``>u2``, that stand at places (N,) of a piece, as int64."""
    return structures(content, at, np.dtype(dtype)).astype(np.int64)


def capture_format(beginning: bytes) -> tuple[CaptureFormat, int]:
    """Return the format of a file that begins so, and how many bytes its header takes.

    Args:
        beginning: the first ``HEADER`` bytes, or the whole of a shorter file.

    Raises:
        CaptureError: it is no capture.
    """
    if beginning[:4] == _SECTION.to_bytes(4):
        return PcapNg(), 0
    for order in "<>":
        if len(beginning) >= HEADER:
            magic, link = struct.unpack_from(f"{order}I16xI", beginning)
            if magic in _TICKS:
                # The bits above say whether frames end with a check sequence, and how long it is.
                return Pcap(order, _TICKS[magic], link & 0xFFFF), HEADER
    raise CaptureError("is no pcap or pcapng capture, by its first bytes; convert it, for example with editcap")


class Pcap:
    """Classic pcap: each frame behind a header of seconds, fraction, captured and original length."""

    def __init__(self, order: str, ticks: int, link_type: int) -> None:
        self.untimed = 0
        self._order, self._ticks, self._link_type = order, ticks, link_type
        self._header = np.dtype([(name, f"{order}u4") for name in ("seconds", "fraction", "captured", "size")])

    def take(self, piece: bytes, place: int, /) -> tuple[list[Frames], int]:
        """See ``CaptureFormat``."""
        content, at = np.frombuffer(piece, np.uint8), frame_headers(piece, self._order)
        header = structures(content, at, self._header)
        start, captured = at + FRAME_HEADER, header["captured"].astype(np.int64)
        wrong = captured > LARGEST_FRAME
        if wrong.any():
            first = int(wrong.argmax())
            raise _damaged(place + int(at[first]), f"a frame of {captured[first]} bytes")
        end = start + captured
        whole = slice(np.count_nonzero(end <= len(piece)))  # all but perhaps the last
        microseconds = header["seconds"] * np.int64(10**6) + header["fraction"] // (self._ticks // 10**6)
        frames = Frames(
            content, start[whole], captured[whole], header["size"][whole].astype(np.int64), microseconds[whole],
            self._link_type,
        )  # fmt: skip
        return [frames], int(end[whole].max(initial=0))


@dataclass(frozen=True)
class _Interface:
    """Where frames were captured: their link type, and how their timestamps count."""

    link_type: int
    resolution: int = 6  # a power of 10, or with the highest bit of a byte a power of 2, of a second
    offset: int = 0  # seconds

    def microseconds(self, ticks: NDArray[np.uint64]) -> Integers:
        """Return timestamps (N,) in microseconds since the epoch."""
        power = self.resolution & 0x7F
        if self.resolution & 0x80:
            return self._binary(ticks, power) + self.offset * 10**6
        finer, coarser = 10 ** max(power - 6, 0), 10 ** max(6 - power, 0)
        microseconds: Integers = (ticks // np.uint64(finer)).astype(np.int64) * coarser + self.offset * 10**6
        return microseconds

    def _binary(self, ticks: NDArray[np.uint64], power: int) -> Integers:
        seconds, rest = ticks >> np.uint64(power), ticks & np.uint64((1 << power) - 1)
        # Only as many bits of the rest as leave room for a million.
        excess = np.uint64(max(0, power - 40))
        fraction = (rest >> excess) * np.uint64(10**6) >> np.uint64(power) - excess
        microseconds: Integers = (seconds * np.uint64(10**6) + fraction).astype(np.int64)
        return microseconds


class PcapNg:
    """pcapng: blocks of many kinds, those of packets among them, in sections with interfaces of their own."""

    def __init__(self) -> None:
        self.untimed = 0
        self._order = "<"
        self._interfaces: list[_Interface] = []

    def take(self, piece: bytes, place: int, /) -> tuple[list[Frames], int]:
        """See ``CaptureFormat``."""
        packets: list[int] = []
        frames: list[Frames] = []
        at, end = 0, len(piece)
        heading = struct.Struct(f"{self._order}II")
        while at + _SMALLEST_BLOCK <= end:
            kind, length = heading.unpack_from(piece, at)
            if kind == _SECTION:
                frames += self._frames(piece, packets, place)
                packets = []
                self._begin_section(piece, at, place)
                heading = struct.Struct(f"{self._order}II")
                kind, length = heading.unpack_from(piece, at)
            if length % 4 or not _SMALLEST_BLOCK <= length <= _LARGEST_BLOCK:
                raise _damaged(place + at, f"a block of {length} bytes")
            if at + length > end:
                break
            if kind in _PACKETS:
                packets.append(at)
            elif kind == _INTERFACE:
                self._add_interface(piece[at : at + length], place + at)
            elif kind == _SIMPLE_PACKET:
                self.untimed += 1
            at += length
        return [*frames, *self._frames(piece, packets, place)], at

    def _begin_section(self, piece: bytes, at: int, place: int) -> None:
        self._interfaces = []
        for order in "<>":
            if struct.unpack_from(f"{order}I", piece, at + 8) == (_BYTE_ORDER,):
                self._order = order
                return
        raise _damaged(place + at, "a section of no byte order")

    def _add_interface(self, block: bytes, place: int) -> None:
        if len(block) < 20 or len(self._interfaces) >= _MOST_INTERFACES:
            raise _damaged(place, "an interface")
        (link_type,) = struct.unpack_from(f"{self._order}H", block, 8)
        options = dict(self._options(block[16:-4]))
        resolution = options.get(_RESOLUTION, b"\x06")[:1] or b"\x06"
        offset = struct.unpack(f"{self._order}q", options[_OFFSET]) if len(options.get(_OFFSET, b"")) == 8 else (0,)
        if resolution[0] & 0x7F > (63 if resolution[0] & 0x80 else 19) or abs(offset[0]) > 2**40:
            raise _damaged(place, "an interface whose clock no one has")
        self._interfaces.append(_Interface(link_type, resolution[0], offset[0]))

    def _options(self, content: bytes) -> Iterator[tuple[int, bytes]]:
        at = 0
        while at + 4 <= len(content):
            code, length = struct.unpack_from(f"{self._order}HH", content, at)
            if code == 0:
                return
            yield code, content[at + 4 : at + 4 + length]
            at += 4 + length + -length % 4

    def _frames(self, piece: bytes, packets: list[int], place: int) -> Iterator[Frames]:
        """Yield the frames of packet blocks, a run for each change of the interface."""
        if not packets:
            return
        content, block, number = np.frombuffer(piece, np.uint8), np.array(packets, np.int64), f"{self._order}u4"
        room = words(content, block + 4, number) - _PACKET_HEADER - 4
        short = room < 0
        if short.any():
            raise _damaged(place + packets[int(short.argmax())], "a packet block without a packet")
        header = structures(content, block, layout(
            kind=(number, 0), interface=(number, 8), old_interface=(f"{self._order}u2", 8), high=(number, 12),
            low=(number, 16), captured=(number, 20), size=(number, 24),
        ))  # fmt: skip
        captured, size = header["captured"].astype(np.int64), header["size"].astype(np.int64)
        interface = np.where(header["kind"] == _OLD_PACKET, header["old_interface"], header["interface"])
        wrong = (captured > room) | (captured > LARGEST_FRAME) | (interface >= len(self._interfaces))
        if wrong.any():
            raise _damaged(place + packets[int(wrong.argmax())], "a packet that does not fit its block or interface")
        ticks = header["high"].astype(np.uint64) << np.uint64(32) | header["low"]
        # Interfaces that are alike count as one: frames of two of them often alternate.
        alike: dict[_Interface, int] = {}
        numbers = [alike.setdefault(one, number) for number, one in enumerate(self._interfaces)]
        interface = np.array(numbers)[interface]
        changes = np.flatnonzero(np.diff(interface)) + 1
        for run in np.split(np.arange(len(block)), changes):
            source = self._interfaces[int(interface[run[0]])]
            yield Frames(
                content, block[run] + _PACKET_HEADER, captured[run], size[run], source.microseconds(ticks[run]),
                source.link_type,
            )  # fmt: skip


def _damaged(place: int, found: str) -> CaptureError:
    return CaptureError(f"is damaged at byte {place}: {found}; what comes before can be saved with editcap or tcpdump")
