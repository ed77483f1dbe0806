"""Captures as packets, in pieces of bounded size, plain or gzipped, with a tally of what was in them."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Final

from dataset.capture_formats import capture_format
from dataset.flow_features import Packets
from dataset.link_types import ipv4_packets
from utils.errors import CaptureError
from utils.files import check_readable

PIECE: Final = 4 * 2**20
"""Bytes of a capture that are looked at together."""

_GZIP: Final = b"\x1f\x8b"
_HEADER: Final = 24


@dataclass
class Tally:
    """What a capture held so far.

    Attributes:
        packets: all frames.
        ipv4: of them, IPv4 packets.
        other: of another kind.
        malformed: too short for what they claim to be, or without a time.
        truncated: files that end within a frame.
    """

    packets: int = 0
    ipv4: int = 0
    other: int = 0
    malformed: int = 0
    truncated: int = 0


def read_capture(
    path: Path, tally: Tally, progress: Callable[[int], object] = lambda _bytes: None, piece: int = PIECE
) -> Iterator[Packets]:
    """Yield the IPv4 packets of a capture, some at a time, in its order.

    Args:
        path: pcap or pcapng, in either byte order, plain or gzipped; its first bytes say which.
        tally: counts what is read.
        progress: called with the bytes of the file that were read.
        piece: bytes that are looked at together.

    Raises:
        CaptureError: the file is missing, is no capture, is damaged, or was captured on a link of an unknown type.
    """
    with check_readable(path, CaptureError).open("rb") as file:
        zipped = file.read(2) == _GZIP
        file.seek(0)
        try:
            stream: BufferedIOBase = gzip.GzipFile(fileobj=file) if zipped else file
            yield from _pieces(stream, lambda: progress(file.tell()), tally, piece)
        except CaptureError as problem:
            raise CaptureError(f"{path}: {problem}") from None
        except (zlib.error, gzip.BadGzipFile) as problem:
            raise CaptureError(f"{path}: is damaged: {problem}; fetch or make it again") from problem
        except OSError as problem:
            raise CaptureError(f"{path}: cannot be read: {problem.strerror or problem}; check the disk") from problem


def _pieces(stream: BufferedIOBase, progress: Callable[[], object], tally: Tally, piece: int) -> Iterator[Packets]:
    beginning, _ = _read(stream, _HEADER)
    form, done = capture_format(beginning)
    content, place = beginning[done:], done
    while True:
        more, ends = _read(stream, piece)
        content += more
        frames, done = form.take(content, place)
        content, place = content[done:], place + done
        for some in frames:
            found = ipv4_packets(some)
            tally.packets += len(some)
            tally.ipv4 += len(found.packets)
            tally.other += found.other
            tally.malformed += found.malformed
            yield found.packets
        progress()
        if ends:
            break
    tally.packets += form.untimed
    tally.malformed += form.untimed
    tally.truncated += bool(content)


def _read(stream: BufferedIOBase, count: int) -> tuple[bytes, bool]:
    """Return the next bytes, and whether the stream ends there, be it before its time."""
    parts = []
    try:
        while count and (part := stream.read1(count)):
            parts.append(part)
            count -= len(part)
    except EOFError:  # a gzip file that is cut off; what came before is here
        return b"".join(parts), True
    return b"".join(parts), count > 0
