"""Detect the format of a capture file from its first bytes."""

import struct
from typing import Final

from dataset.packets.frames import CaptureFormat
from dataset.packets.pcap import Pcap
from dataset.packets.pcapng import MAGIC, PcapNg
from utils.compressions import describe_compression
from utils.errors import CaptureError

HEADER: Final = 24
"""Number of bytes at the beginning of a file that are needed to detect its format: the file header of pcap."""

GZIP: Final = b"\x1f\x8b"
"""First bytes of a gzip-compressed file."""

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
"""First bytes of formats that editcap reads, and their names."""


def detect_format(beginning: bytes) -> tuple[CaptureFormat, int]:
    """Return the format of a capture and the size of its file header in bytes.

    Args:
        beginning: the first ``HEADER`` bytes or more, or the whole of a shorter file.

    Raises:
        CaptureError: not a capture, or an unsupported version.
    """
    if beginning[:4] == MAGIC:
        return PcapNg(), 0
    for order in "<>":
        if len(beginning) >= HEADER:
            magic, *version, link = struct.unpack_from(f"{order}IHH12xI", beginning)
            if magic in _TICKS:
                _check_version(*version)
                # The upper 16 bits describe the frame check sequences.
                return Pcap(order, _TICKS[magic], link & 0xFFFF), HEADER
    raise CaptureError(_describe(beginning))


def _check_version(major: int, minor: int) -> None:
    if not (major == 2 and minor <= 4) and (major, minor) != (543, 0):  # DG/UX's number for 2.4
        raise CaptureError(f"is of pcap version {major}.{minor}; only version 2.4 can be read; fetch or make it again")


def _describe(beginning: bytes) -> str:
    """Return what a file is that is not a capture, and what to do."""
    if not beginning:
        return "is empty; capture or fetch it again"
    if any(beginning[:4] == magic[: len(beginning)] for magic in _MAGICS):
        return CUT_OFF
    if compressed := describe_compression(beginning):
        return compressed
    for magic, name in _OTHER_CAPTURES:
        if beginning.startswith(magic):
            return f"is a capture in {name} format; convert it with editcap"
    return "is not a pcap or pcapng capture; name another file, or convert it with editcap if Wireshark opens it"
