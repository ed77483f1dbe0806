"""Read the IPv4 packets of captures, plain or gzip-compressed, in chunks of bounded size."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Final

import numpy as np

from dataset.packets.capture_formats import CUT_OFF, GZIP, HEADER, detect_format
from dataset.packets.frames import CaptureFormat, Frames
from dataset.packets.link_types import LINK_TYPES, extract_ipv4_packets, name_link_type
from dataset.packets.packets import Packets
from dataset.packets.traffic_counts import UNTIMED, TrafficCounts
from utils.compressions import LONGEST_MAGIC
from utils.errors import CaptureError
from utils.files import check_readable

CHUNK_BYTES: Final = 4 * 2**20
"""Bytes of a capture that are decoded together."""


def read_capture(
    path: Path,
    counts: TrafficCounts,
    progress: Callable[[int], object] = lambda _bytes: None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[Packets]:
    """Yield the IPv4 packets of a capture chunk by chunk, in the order of the file.

    Args:
        path: pcap or pcapng, in either byte order, plain or gzip-compressed; the first bytes decide.
        counts: updated with what is read.
        progress: called with the bytes of the file that were read so far.
        chunk_bytes: bytes that are decoded together.

    Raises:
        CaptureError: the file is missing, damaged or not a capture, or a pcap of an unsupported link type.
    """
    with open_capture(path) as (file, stream):
        yield from _read_packets(stream, lambda: progress(file.tell()), counts, chunk_bytes)


@contextmanager
def open_capture(path: Path) -> Iterator[tuple[BufferedIOBase, BufferedIOBase]]:
    """Open a capture; yield the file, and a stream of its content, unpacked if it is gzip-compressed.

    Raises:
        CaptureError: the file is missing, or the block finds it damaged; each CaptureError of the block names the file.
    """
    with check_readable(path, CaptureError).open("rb") as file:
        is_gzip = file.read(2) == GZIP
        file.seek(0)
        try:
            yield file, gzip.GzipFile(fileobj=file) if is_gzip else file
        except CaptureError as problem:
            raise CaptureError(f"{path}: {problem}") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
            raise CaptureError(f"{path}: is damaged: {problem}; fetch or make it again") from problem
        except OSError as problem:
            raise CaptureError(f"{path}: cannot be read: {problem.strerror or problem}; check the disk") from problem


def _read_packets(
    stream: BufferedIOBase, progress: Callable[[], object], counts: TrafficCounts, chunk_bytes: int
) -> Iterator[Packets]:
    decoder, has_ended, is_cut, read = Decoder(counts), False, False, 0
    while not has_ended:
        chunk, has_ended, is_cut = _read_chunk(stream, chunk_bytes)
        read += len(chunk)
        yield from decoder.decode(chunk)
        progress()
    if is_cut and not read:
        raise CaptureError(CUT_OFF)
    decoder.finish()


class Decoder:
    """Decodes the bytes of a capture into packets as they arrive.

    Args:
        counts: updated with what is decoded.
    """

    def __init__(self, counts: TrafficCounts) -> None:
        self._counts = counts
        self._format: CaptureFormat | None = None
        self._rest, self._offset = b"", 0  # bytes that are not parsed yet, and their offset in the capture
        self._untimed = 0

    def decode(self, chunk: bytes) -> Iterator[Packets]:
        """Yield the IPv4 packets that the next bytes complete.

        Raises:
            CaptureError: damaged, not a capture, or a pcap of an unsupported link type.
        """
        self._rest += chunk
        if self._format is None:
            if len(self._rest) < HEADER:
                return
            self._format = self._detect_format()
        frames, parsed = self._format.parse(self._rest, self._offset)
        self._discard(parsed)
        self._counts.count_malformed(UNTIMED, self._format.untimed - self._untimed)
        self._untimed = self._format.untimed
        if frames:
            yield self._extract_packets(frames)

    def _extract_packets(self, frames: list[Frames]) -> Packets:
        """Return the IPv4 packets among the frames of a chunk, in the order of the file."""
        found = [extract_ipv4_packets(group, self._counts) for group in frames]
        if len(found) == 1:
            return found[0][0]
        order = np.argsort(np.concatenate([start for _, start in found]), kind="stable")
        return Packets.concatenate([packets for packets, _ in found]).take(order)

    def finish(self) -> None:
        """Count a last frame that is incomplete.

        Raises:
            CaptureError: the file ends within its header.
        """
        if self._format is None:
            self._detect_format()
        if not self._offset:
            raise CaptureError(CUT_OFF)
        self._counts.truncated += bool(self._rest)

    def _detect_format(self) -> CaptureFormat:
        """Return the format, and skip the header of the file."""
        found, header_size = detect_format(self._rest[:LONGEST_MAGIC])
        link_type = found.only_link_type
        if link_type is not None and link_type not in LINK_TYPES:
            supported = ", ".join(dict.fromkeys(link.name for link in LINK_TYPES.values()))
            raise CaptureError(f"was captured with {name_link_type(link_type)}; supported are {supported}")
        self._discard(header_size)
        return found

    def _discard(self, count: int) -> None:
        self._rest, self._offset = self._rest[count:], self._offset + count


def _read_chunk(stream: BufferedIOBase, count: int) -> tuple[bytes, bool, bool]:
    """Return the next bytes, whether the stream has ended, and whether it is truncated."""
    parts = []
    try:
        while count and (part := stream.read1(count)):
            parts.append(part)
            count -= len(part)
    except EOFError:  # a truncated gzip file; everything before is in parts
        return b"".join(parts), True, True
    return b"".join(parts), count > 0, False
