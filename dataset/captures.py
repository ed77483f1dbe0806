"""Captures as packets, in pieces of bounded size, plain or gzipped, with a tally of what was in them."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Final

from dataset.capture_formats import HEADER, CaptureFormat, capture_format
from dataset.flow_features import Packets
from dataset.link_types import Sorted, ipv4_packets
from utils.errors import CaptureError
from utils.files import check_readable

PIECE: Final = 4 * 2**20
"""Bytes of a capture that are looked at together."""

_GZIP: Final = b"\x1f\x8b"


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

    def count(self, found: Sorted) -> None:
        """Count what some frames are."""
        self.packets += len(found.packets) + found.other + found.malformed
        self.ipv4 += len(found.packets)
        self.other += found.other
        self.malformed += found.malformed


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
    decoder, ends = Decoder(tally), False
    while not ends:
        more, ends = _read(stream, piece)
        yield from decoder.decode(more)
        progress()
    decoder.finish()


class Decoder:
    """Turns a capture's bytes into packets, as they come.

    Args:
        tally: counts what was read.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._format: CaptureFormat | None = None
        self._rest, self._place = b"", 0  # what is not decoded yet, and where in the capture it stands

    def decode(self, more: bytes) -> Iterator[Packets]:
        """Yield the IPv4 packets that the next bytes bring.

        Raises:
            CaptureError: they are of no capture, damaged, or were captured on a link of an unknown type.
        """
        self._rest += more
        if self._format is None:
            if len(self._rest) < HEADER:
                return
            self._begin()
        assert self._format is not None
        frames, done = self._format.take(self._rest, self._place)
        self._done_with(done)
        for some in frames:
            found = ipv4_packets(some)
            self._tally.count(found)
            yield found.packets

    def finish(self) -> None:
        """Count what the end of the capture leaves.

        Raises:
            CaptureError: it is too short to be one.
        """
        if self._format is None:
            self._begin()
        assert self._format is not None
        self._tally.packets += self._format.untimed
        self._tally.malformed += self._format.untimed
        self._tally.truncated += bool(self._rest)

    def _begin(self) -> None:
        self._format, done = capture_format(self._rest[:HEADER])
        self._done_with(done)

    def _done_with(self, count: int) -> None:
        self._rest, self._place = self._rest[count:], self._place + count


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
