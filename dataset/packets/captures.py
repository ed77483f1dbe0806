"""Captures as packets, in pieces of bounded size, plain or gzipped."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Final

import numpy as np

from dataset.packets.capture_formats import CUT_OFF, HEADER, capture_format
from dataset.packets.frames import CaptureFormat, Frames
from dataset.packets.link_types import LINK_TYPES, ipv4_packets, name_link_type
from dataset.packets.packets import Packets
from dataset.packets.traffic_counts import UNTIMED, TrafficCounts
from utils.compressions import LONGEST_MAGIC
from utils.errors import CaptureError
from utils.files import check_readable

PIECE: Final = 4 * 2**20
"""Bytes of a capture that are looked at together."""

_GZIP: Final = b"\x1f\x8b"


def read_capture(
    path: Path, counts: TrafficCounts, progress: Callable[[int], object] = lambda _bytes: None, piece: int = PIECE
) -> Iterator[Packets]:
    """Yield the IPv4 packets of a capture, some at a time, in its order.

    Args:
        path: pcap or pcapng, in either byte order, plain or gzipped; its first bytes say which.
        counts: what is read is added to them.
        progress: called with the bytes of the file that were read.
        piece: bytes that are looked at together.

    Raises:
        CaptureError: the file is missing, is no capture, is damaged, or is a pcap of a link of an unknown type.
    """
    with check_readable(path, CaptureError).open("rb") as file:
        zipped = file.read(2) == _GZIP
        file.seek(0)
        try:
            stream: BufferedIOBase = gzip.GzipFile(fileobj=file) if zipped else file
            yield from _pieces(stream, lambda: progress(file.tell()), counts, piece)
        except CaptureError as problem:
            raise CaptureError(f"{path}: {problem}") from None
        except (zlib.error, gzip.BadGzipFile) as problem:
            raise CaptureError(f"{path}: is damaged: {problem}; fetch or make it again") from problem
        except OSError as problem:
            raise CaptureError(f"{path}: cannot be read: {problem.strerror or problem}; check the disk") from problem


def _pieces(
    stream: BufferedIOBase, progress: Callable[[], object], counts: TrafficCounts, piece: int
) -> Iterator[Packets]:
    decoder, ends, is_cut, read = Decoder(counts), False, False, 0
    while not ends:
        more, ends, is_cut = _read(stream, piece)
        read += len(more)
        yield from decoder.decode(more)
        progress()
    if is_cut and not read:
        raise CaptureError(CUT_OFF)
    decoder.finish()


class Decoder:
    """Turns a capture's bytes into packets, as they come.

    Args:
        counts: what is read is added to them.
    """

    def __init__(self, counts: TrafficCounts) -> None:
        self._counts = counts
        self._format: CaptureFormat | None = None
        self._rest, self._place = b"", 0  # what is not decoded yet, and where in the capture it stands
        self._untimed = 0

    def decode(self, more: bytes) -> Iterator[Packets]:
        """Yield the IPv4 packets that the next bytes bring.

        Raises:
            CaptureError: they are of no capture, damaged, or of a pcap of a link of an unknown type.
        """
        self._rest += more
        if self._format is None:
            if len(self._rest) < HEADER:
                return
            self._begin()
        assert self._format is not None
        frames, done = self._format.take(self._rest, self._place)
        self._done_with(done)
        self._counts.count_malformed(UNTIMED, self._format.untimed - self._untimed)
        self._untimed = self._format.untimed
        if frames:
            yield self._packets(frames)

    def _packets(self, frames: list[Frames]) -> Packets:
        """Return the IPv4 packets among frames of a piece, in the file's order."""
        found = [ipv4_packets(some, self._counts) for some in frames]
        if len(found) == 1:
            return found[0][0]
        order = np.argsort(np.concatenate([start for _, start in found]), kind="stable")
        return Packets.joined([packets for packets, _ in found]).take(order)

    def finish(self) -> None:
        """Count what the end of the capture leaves.

        Raises:
            CaptureError: it is too short to be one.
        """
        if self._format is None:
            self._begin()
        if not self._place:
            raise CaptureError(CUT_OFF)
        self._counts.truncated += bool(self._rest)

    def _begin(self) -> None:
        self._format, done = capture_format(self._rest[:LONGEST_MAGIC])
        only = self._format.only_link_type
        if only is not None and only not in LINK_TYPES:
            known = ", ".join(dict.fromkeys(link.name for link in LINK_TYPES.values()))
            raise CaptureError(f"was captured with {name_link_type(only)}; known are {known}")
        self._done_with(done)

    def _done_with(self, count: int) -> None:
        self._rest, self._place = self._rest[count:], self._place + count


def _read(stream: BufferedIOBase, count: int) -> tuple[bytes, bool, bool]:
    """Return the next bytes, whether the stream ends there, and whether it does so before its time."""
    parts = []
    try:
        while count and (part := stream.read1(count)):
            parts.append(part)
            count -= len(part)
    except EOFError:  # a gzip file that is cut off; what came before is here
        return b"".join(parts), True, True
    return b"".join(parts), count > 0, False
