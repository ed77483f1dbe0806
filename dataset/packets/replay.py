"""Replay the frames of a capture at their original pace."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from dataset.packets.capture_formats import HEADER, detect_format
from dataset.packets.captures import open_capture
from dataset.packets.frames import Frames
from dataset.packets.link_types import name_link_type
from utils.errors import CaptureError

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
    with open_capture(path) as (_, stream):
        content = stream.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise CaptureError("is too large to replay; split it, for example with editcap")
        capture_format, header_size = detect_format(content[:HEADER])
        groups, _ = capture_format.parse(content[header_size:], header_size)
        if not sum(map(len, groups)):
            raise CaptureError("holds no frame; name another capture")
        first = None
        for frames in groups:
            _check_frames(frames)
            columns = (frames.start, frames.captured, frames.size, frames.timestamp)
            for start, captured, size, timestamp in zip(*(column.tolist() for column in columns), strict=True):
                first = timestamp if first is None else first
                frame = frames.content[start : start + min(captured, size)].tobytes()
                yield (timestamp - first) / _MICROSECONDS, frame.ljust(size, b"\0")


def _check_frames(frames: Frames) -> None:
    if frames.link_type != _ETHERNET:
        raise CaptureError(f"was captured with {name_link_type(frames.link_type)}; name a capture of Ethernet frames")
    if not (frames.size >= _HEADER).all() or frames.size.max(initial=0) > _LARGEST_FRAME:
        raise CaptureError(f"holds frames that are not {_HEADER} to {_LARGEST_FRAME} bytes long; name another capture")


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
