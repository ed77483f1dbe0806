"""Replay the frames of a capture at their original pace."""

import gzip
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from dataset.packets.capture_formats import GZIP, HEADER, detect_format
from dataset.packets.link_types import name_link_type
from utils.errors import CaptureError
from utils.files import check_readable

_ETHERNET: Final = 1
_LARGEST_FILE: Final = 64 * 2**20
_HEADER: Final = 14
_LARGEST_FRAME: Final = 1514
_MICROSECONDS: Final = 1_000_000


def read_frames(path: Path) -> Iterator[tuple[float, bytes]]:
    """Yield the frames of a small Ethernet capture, each with its time in seconds since the first.

    Frames that were truncated when they were captured are padded with zeros to their original size.

    Raises:
        CaptureError: the file is missing, too large, damaged or not a capture, or has frames that are not Ethernet or
            of an unusual size.
    """
    check_readable(path, CaptureError)
    try:
        with path.open("rb") as file:
            stream = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == GZIP else file
            content = stream.read(_LARGEST_FILE + 1)
    except (OSError, EOFError, zlib.error) as problem:
        raise CaptureError(f"{path}: is damaged: {problem}; fetch or make it again") from problem
    if len(content) > _LARGEST_FILE:
        raise CaptureError(f"{path}: is too large to replay; split it, for example with editcap")
    try:
        capture_format, header_size = detect_format(content[:HEADER])
        frames, _ = capture_format.parse(content[header_size:], header_size)
    except CaptureError as problem:
        raise CaptureError(f"{path}: {problem}") from None
    if not sum(map(len, frames)):
        raise CaptureError(f"{path}: holds no frame; name another capture")
    first = None
    for group in frames:
        if group.link_type != _ETHERNET:
            raise CaptureError(
                f"{path}: was captured with {name_link_type(group.link_type)}; name a capture of Ethernet frames"
            )
        if not (group.size >= _HEADER).all() or group.size.max(initial=0) > _LARGEST_FRAME:
            raise CaptureError(
                f"{path}: holds frames that are not {_HEADER} to {_LARGEST_FRAME} bytes long; name another capture"
            )
        for start, captured, size, timestamp in zip(
            group.start.tolist(), group.captured.tolist(), group.size.tolist(), group.timestamp.tolist(), strict=True
        ):
            first = timestamp if first is None else first
            frame = group.content[start : start + min(captured, size)].tobytes()
            yield (timestamp - first) / _MICROSECONDS, frame.ljust(size, b"\0")


def replay(frames: Iterator[tuple[float, bytes]], send: Callable[[bytes], object]) -> int:
    """Send frames, given as by ``read_frames``, when they are due; return their number."""
    begun, count = time.monotonic(), 0
    for due, frame in frames:
        wait = due - (time.monotonic() - begun)
        if wait > 0:
            time.sleep(wait)
        send(frame)
        count += 1
    return count
