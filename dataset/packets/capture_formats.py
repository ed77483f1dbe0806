"""The format of a capture file, by its first bytes, and classic pcap, in either byte order, piece by piece.

What can be read for all frames of a piece at once is; only where they begin each tells of the next.

Source: the Internet draft draft-ietf-opsawg-pcap.
"""

import struct
from typing import Final

import numpy as np

from dataset.packets.frame_headers import FRAME_HEADER, frame_headers
from dataset.packets.frames import LARGEST_FRAME, CaptureFormat, Frames, damaged, structures
from dataset.packets.pcapng import MAGIC, PcapNg
from utils.compressions import describe_compression
from utils.errors import CaptureError

HEADER: Final = 24
"""Bytes by which a capture's format is told, if there are as many."""

CUT_OFF: Final = "is cut off in its header; fetch or copy it again"

_TICKS: Final = {0xA1B2C3D4: 10**6, 0xA1B23C4D: 10**9}  # per second, by the file's first four bytes
_MAGICS: Final = (MAGIC, *(magic.to_bytes(4, order) for magic in _TICKS for order in ("little", "big")))
_OTHER_CAPTURES: Final = (
    (b"snoop\0\0\0", "snoop"),
    (b"GMBU", "Microsoft Network Monitor"),
    (b"RTSS", "Microsoft Network Monitor"),
    (b"XCP\0", "NetXRay"),
    (b"TRSNIFF", "Sniffer"),
    (b"\x34\xcd\xb2\xa1", "pcap with Kuznetzov's extension"),
    (b"\xa1\xb2\xcd\x34", "pcap with Kuznetzov's extension"),
)
"""First bytes of captures that editcap reads, and their names."""


def capture_format(beginning: bytes) -> tuple[CaptureFormat, int]:
    """Return the format of a file that begins so, and how many bytes its header takes.

    Args:
        beginning: the first ``HEADER`` bytes or more, or the whole of a shorter file.

    Raises:
        CaptureError: it is no capture, or of a version that is not known.
    """
    if beginning[:4] == MAGIC:
        return PcapNg(), 0
    for order in "<>":
        if len(beginning) >= HEADER:
            magic, *version, link = struct.unpack_from(f"{order}IHH12xI", beginning)
            if magic in _TICKS:
                _check_version(*version)
                # The bits above say whether frames end with a check sequence, and how long it is.
                return Pcap(order, _TICKS[magic], link & 0xFFFF), HEADER
    raise CaptureError(_describe(beginning))


def _check_version(major: int, minor: int) -> None:
    if not (major == 2 and minor <= 4) and (major, minor) != (543, 0):  # which is DG/UX's name for 2.4
        raise CaptureError(f"is of pcap version {major}.{minor}; only version 2.4 can be read; fetch or make it again")


def _describe(beginning: bytes) -> str:
    """Return what a file is that is no capture, and what to do."""
    if not beginning:
        return "is empty; capture or fetch it again"
    if any(beginning[:4] == magic[: len(beginning)] for magic in _MAGICS):
        return CUT_OFF
    if compressed := describe_compression(beginning):
        return compressed
    for magic, name in _OTHER_CAPTURES:
        if beginning.startswith(magic):
            return f"is a capture of the format {name}; convert it with editcap"
    return (
        "is no pcap or pcapng capture, by its first bytes; name another file, or convert it with editcap if Wireshark "
        "opens it"
    )


class Pcap:
    """Classic pcap: each frame behind a header of seconds, fraction, captured and original length."""

    def __init__(self, order: str, ticks: int, link_type: int) -> None:
        self.untimed = 0
        self.only_link_type: int | None = link_type
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
            raise damaged(place + int(at[first]), f"a frame of {captured[first]} bytes")
        end = start + captured
        whole = slice(np.count_nonzero(end <= len(piece)))  # all but perhaps the last
        microseconds = header["seconds"] * np.int64(10**6) + header["fraction"] // (self._ticks // 10**6)
        frames = Frames(
            content, start[whole], captured[whole], header["size"][whole].astype(np.int64), microseconds[whole],
            self._link_type,
        )  # fmt: skip
        return [frames], int(end[whole].max(initial=0))
