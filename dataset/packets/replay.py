"""Captured frames sent again, at their own pace."""

import gzip
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from dataset.packets.capture_formats import HEADER, capture_format
from dataset.packets.link_types import name_link_type
from utils.errors import CaptureError
from utils.files import check_readable

_ETHERNET: Final = 1
_LARGEST_FILE: Final = 64 * 2**20
_HEADER: Final = 14
_LARGEST_FRAME: Final = 1514
_MICROSECONDS: Final = 1_000_000
_GZIP: Final = b"\x1f\x8b"


def read_frames(path: Path) -> Iterator[tuple[float, bytes]]:
    """Yield the frames of a small Ethernet capture: seconds since the first, and the frame.

    A frame that was cut when it was captured has its length again; zeros stand for what is missing.

    Raises:
        CaptureError: the file is missing, large, no capture or damaged, or is not of Ethernet frames of the usual size.
    """
    check_readable(path, CaptureError)
    try:
        with path.open("rb") as file:
            stream = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP else file
            content = stream.read(_LARGEST_FILE + 1)
    except (OSError, EOFError, zlib.error) as problem:
        raise CaptureError(f"{path}: is damaged: {problem}; fetch or make it again") from problem
    if len(content) > _LARGEST_FILE:
        raise CaptureError(f"{path}: is too large to be replayed; cut it, for example with editcap")
    try:
        form, done = capture_format(content[:HEADER])
        frames, _ = form.take(content[done:], done)
    except CaptureError as problem:
        raise CaptureError(f"{path}: {problem}") from None
    if not sum(map(len, frames)):
        raise CaptureError(f"{path}: holds no frame; replay another")
    first = None
    for some in frames:
        if some.link_type != _ETHERNET:
            raise CaptureError(
                f"{path}: was captured with {name_link_type(some.link_type)}; only Ethernet can be replayed"
            )
        if not (some.size >= _HEADER).all() or some.size.max(initial=0) > _LARGEST_FRAME:
            raise CaptureError(
                f"{path}: holds other than Ethernet frames of {_HEADER} to {_LARGEST_FRAME} bytes; replay another"
            )
        for start, captured, size, timestamp in zip(
            some.start.tolist(), some.captured.tolist(), some.size.tolist(), some.timestamp.tolist(), strict=True
        ):
            first = timestamp if first is None else first
            frame = some.content[start : start + min(captured, size)].tobytes()
            yield (timestamp - first) / _MICROSECONDS, frame.ljust(size, b"\0")


def replay(frames: Iterator[tuple[float, bytes]], send: Callable[[bytes], object]) -> int:
    """Send frames when they are due; return how many were.

    Args:
        frames: seconds since the first, and what to send.
        send: sends one.
    """
    begun, count = time.monotonic(), 0
    for due, frame in frames:
        wait = due - (time.monotonic() - begun)
        if wait > 0:
            time.sleep(wait)
        send(frame)
        count += 1
    return count
