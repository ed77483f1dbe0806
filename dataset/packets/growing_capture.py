"""Captures that another program is still writing: a file that grows, or standard input."""

import os
import select
import stat
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from dataset.packets.captures import PIECE, Decoder
from dataset.packets.packets import NO_PACKETS, Packets
from dataset.packets.traffic_counts import TrafficCounts
from utils.errors import CaptureError

STANDARD_INPUT: Final = Path("-")

_GZIP: Final = b"\x1f\x8b"


class GrowingCapture:
    """Use it in a ``with`` block; see ``dataset.records.live_records.Source``.

    Args:
        path: pcap or pcapng, not compressed; ``-`` is standard input, as in ``tcpdump -U -w - | ...``.
        counts: what is read is added to them.

    Raises:
        CaptureError: on entering, the file cannot be opened; later, it is no capture, is damaged, was captured on a
            link of an unknown type, or became shorter.
    """

    grace = 2.0
    """Seconds: tcpdump hands packets on after one at most, and then they are written."""

    def __init__(self, path: Path, counts: TrafficCounts) -> None:
        self.ended = self.is_drained = False
        self._path, self._decoder = path, Decoder(counts)
        self._file = -1
        self._read = 0

    def __enter__(self) -> Self:
        try:
            if self._path == STANDARD_INPUT:
                self._file = os.dup(0)
            else:
                # A pipe that no one writes yet is waited for later, where a stop is seen.
                self._file = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as problem:
            raise CaptureError(f"{self._name}: cannot be read: {problem.strerror}; check the path") from problem
        self._grows = self._path != STANDARD_INPUT and stat.S_ISREG(os.fstat(self._file).st_mode)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def packets(self, seconds: float, /) -> Packets:
        """See ``Source``."""
        if self.ended:
            return NO_PACKETS
        more = self._more(seconds)
        try:
            found = list(self._decoder.decode(more))
            if self.ended and not self._read:
                raise CaptureError("is empty; check the program that writes it")
            if self.ended:
                self._decoder.finish()
        except CaptureError as problem:
            raise CaptureError(f"{self._name}: {problem}") from None
        return Packets.joined(found) if found else NO_PACKETS

    def _more(self, seconds: float) -> bytes:
        """Return what has been written since, at most a piece; waits a while if that is nothing."""
        try:
            more = self._grown(seconds) if self._grows else self._piped(seconds)
        except OSError as problem:
            raise CaptureError(f"{self._name}: cannot be read: {problem.strerror}; check the disk") from problem
        self.is_drained = len(more) < PIECE if self._grows else not more
        if self._read == 0 and more.startswith(_GZIP):
            remedy = "so it does not grow; leave out --follow" if self._grows else "unpack it in the pipe with gzip -dc"
            raise CaptureError(f"{self._name}: is gzip-compressed{',' if self._grows else ';'} {remedy}")
        self._read += len(more)
        return more

    def _grown(self, seconds: float) -> bytes:
        more = os.read(self._file, PIECE)
        if os.fstat(self._file).st_size < self._read:
            raise CaptureError(f"{self._name}: became shorter while it was read; start again with the new one")
        if not more:
            if not self._path.exists() or not os.path.samestat(self._path.stat(), os.fstat(self._file)):
                raise CaptureError(f"{self._name}: was moved or removed; start again with the new one")
            time.sleep(seconds)
        return more

    def _piped(self, seconds: float) -> bytes:
        ready, _, _ = select.select([self._file], [], [], seconds)
        try:
            more = os.read(self._file, PIECE) if ready else b""
        except BlockingIOError:
            return b""
        self.ended = bool(ready) and not more
        return more

    @property
    def _name(self) -> str:
        return "standard input" if self._path == STANDARD_INPUT else str(self._path)
