"""Captures that another program is still writing: a file that grows, or standard input."""

import os
import select
import stat
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from dataset.captures import PIECE, Decoder, Tally
from dataset.flow_features import NO_PACKETS, Packets
from utils.errors import CaptureError

STANDARD_INPUT: Final = Path("-")

_GZIP: Final = b"\x1f\x8b"


class GrowingCapture:
    """Use it in a ``with`` block; see ``dataset.live.Source``.

    Args:
        path: pcap or pcapng, not compressed; ``-`` is standard input, as in ``tcpdump -U -w - | ...``.
        tally: counts what is read.

    Raises:
        CaptureError: on entering, the file cannot be opened; later, it is no capture, is damaged, was captured on a
            link of an unknown type, or became shorter.
    """

    grace = 2.0
    """Seconds: tcpdump hands packets on after one at most, and then they are written."""

    def __init__(self, path: Path, tally: Tally) -> None:
        self.dropped = None
        self.ended = self.is_drained = False
        self._path, self._decoder = path, Decoder(tally)
        self._stream: BinaryIO
        self._read = 0

    def __enter__(self) -> Self:
        try:
            self._stream = sys.stdin.buffer if self._path == STANDARD_INPUT else self._path.open("rb")
        except OSError as problem:
            raise CaptureError(f"{self._path}: cannot be read: {problem.strerror}; check the path") from problem
        self._grows = self._path != STANDARD_INPUT and stat.S_ISREG(os.fstat(self._stream.fileno()).st_mode)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._path != STANDARD_INPUT:
            self._stream.close()

    def packets(self, seconds: float, /) -> Packets:
        """See ``Source``."""
        if self.ended:
            return NO_PACKETS
        more = self._more(seconds)
        try:
            found = list(self._decoder.decode(more))
            if self.ended:
                self._decoder.finish()
        except CaptureError as problem:
            raise CaptureError(f"{self._name}: {problem}") from None
        return Packets.joined(found) if found else NO_PACKETS

    def _more(self, seconds: float) -> bytes:
        """Return what has been written since, at most a piece; waits a while if that is nothing."""
        file = self._stream.fileno()
        if self._grows:
            more = os.read(file, PIECE)
            self._check_size()
            if not more:
                time.sleep(seconds)
        else:
            ready, _, _ = select.select([file], [], [], seconds)
            more = os.read(file, PIECE) if ready else b""
            self.ended = bool(ready) and not more
        self.is_drained = len(more) < PIECE if self._grows else not more
        if self._read == 0 and more.startswith(_GZIP):
            raise CaptureError(
                f"{self._name}: is compressed, so it does not grow; leave out --follow, or pipe it from zcat"
            )
        self._read += len(more)
        return more

    def _check_size(self) -> None:
        if os.fstat(self._stream.fileno()).st_size < self._read:
            raise CaptureError(f"{self._name}: became shorter while it was read; start again with the new one")

    @property
    def _name(self) -> str:
        return "standard input" if self._path == STANDARD_INPUT else str(self._path)
