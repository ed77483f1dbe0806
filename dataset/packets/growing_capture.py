"""Read a capture while another program writes it: a growing file, a named pipe or standard input."""

import os
import select
import stat
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from dataset.packets.capture_formats import GZIP
from dataset.packets.captures import CHUNK_BYTES, Decoder
from dataset.packets.packets import NO_PACKETS, Packets
from dataset.packets.traffic_counts import TrafficCounts
from utils.errors import CaptureError

STANDARD_INPUT: Final = Path("-")


class GrowingCapture:
    """A ``dataset.records.live_records.Source`` and a context manager.

    Args:
        path: pcap or pcapng, not compressed; ``-`` is standard input, as in ``tcpdump -U -w - | ...``.
        counts: updated with what is read.

    Raises:
        CaptureError: on entering, the file cannot be opened; later, it is damaged, not a capture, a pcap of an
            unsupported link type, or was truncated, moved or removed.
    """

    grace = 2.0
    """Seconds: tcpdump gets packets from the kernel after one second at most, and then writes them."""

    def __init__(self, path: Path, counts: TrafficCounts) -> None:
        self.has_ended = self.is_drained = False
        self._path, self._decoder = path, Decoder(counts)
        self._file = -1
        self._read = 0

    def __enter__(self) -> Self:
        try:
            if self._path == STANDARD_INPUT:
                self._file = os.dup(0)
            else:
                # Opening a pipe without a writer would block, and a stop would not be noticed.
                self._file = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as problem:
            raise CaptureError(f"{self._name}: cannot be read: {problem.strerror}; check the path") from problem
        self._is_file = self._path != STANDARD_INPUT and stat.S_ISREG(os.fstat(self._file).st_mode)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def read_packets(self, timeout: float, /) -> Packets:
        """See ``Source``."""
        if self.has_ended:
            return NO_PACKETS
        chunk = self._read_chunk(timeout)
        try:
            found = list(self._decoder.decode(chunk))
            if self.has_ended and not self._read:
                raise CaptureError("is empty; check the program that writes it")
            if self.has_ended:
                self._decoder.finish()
        except CaptureError as problem:
            raise CaptureError(f"{self._name}: {problem}") from None
        return Packets.concatenate(found) if found else NO_PACKETS

    def _read_chunk(self, timeout: float) -> bytes:
        """Return at most ``CHUNK_BYTES`` new bytes; where there are none, wait up to ``timeout`` seconds."""
        try:
            chunk = self._read_file(timeout) if self._is_file else self._read_pipe(timeout)
        except OSError as problem:
            raise CaptureError(f"{self._name}: cannot be read: {problem.strerror}; check the disk") from problem
        self.is_drained = len(chunk) < CHUNK_BYTES if self._is_file else not chunk
        if self._read == 0 and chunk.startswith(GZIP):
            remedy = "so it cannot grow; leave out --follow" if self._is_file else "unpack it in the pipe with gzip -dc"
            raise CaptureError(f"{self._name}: is gzip-compressed{',' if self._is_file else ';'} {remedy}")
        self._read += len(chunk)
        return chunk

    def _read_file(self, timeout: float) -> bytes:
        chunk = os.read(self._file, CHUNK_BYTES)
        if os.fstat(self._file).st_size < self._read:
            raise CaptureError(f"{self._name}: was truncated while it was read; start again with the new file")
        if not chunk:
            if not self._path.exists() or not os.path.samestat(self._path.stat(), os.fstat(self._file)):
                raise CaptureError(f"{self._name}: was moved or removed; start again with the new file")
            time.sleep(timeout)
        return chunk

    def _read_pipe(self, timeout: float) -> bytes:
        ready, _, _ = select.select([self._file], [], [], timeout)
        try:
            chunk = os.read(self._file, CHUNK_BYTES) if ready else b""
        except BlockingIOError:
            return b""
        self.has_ended = bool(ready) and not chunk
        return chunk

    @property
    def _name(self) -> str:
        return "standard input" if self._path == STANDARD_INPUT else str(self._path)
