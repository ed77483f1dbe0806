"""Parse the frames of a classic pcap file, in either byte order.

Each frame header holds the length of its frame, so headers can only be found one after another. That loop would take
longer than everything else, which numpy does for all frames of a chunk at once. So a chunk is cut into segments, and
the headers of all segments are followed in parallel, each segment from bytes that look like a header. The guess is
checked when the preceding segment reaches it; if that segment leads elsewhere, the headers of this one are followed
again, sequentially, from there. A wrong guess costs time, but never decides what a header is.

Source: the Internet draft draft-ietf-opsawg-pcap.
"""

import re
import struct
from typing import Final

import numpy as np

from dataset.packets.frames import LARGEST_FRAME, Frames, Integers, make_damage_error, read_structures

FRAME_HEADER: Final = 16
"""Bytes of a frame header: seconds, their fraction, captured and original length, four bytes each."""

_SEGMENT: Final = 8192  # bytes


class Pcap:
    """The format of classic pcap, a ``CaptureFormat``.

    Args:
        order: byte order of numbers, ``<`` or ``>``.
        ticks: units of the timestamps' fraction per second.
        link_type: of all frames, a LINKTYPE_ number.
    """

    def __init__(self, order: str, ticks: int, link_type: int) -> None:
        self.untimed = 0
        self.only_link_type: int | None = link_type
        self._order, self._ticks, self._link_type = order, ticks, link_type
        self._header = np.dtype([(name, f"{order}u4") for name in ("seconds", "fraction", "captured", "size")])

    def parse(self, chunk: bytes, offset: int, /) -> tuple[list[Frames], int]:
        """See ``CaptureFormat``."""
        content, at = np.frombuffer(chunk, np.uint8), find_frame_headers(chunk, self._order)
        header = read_structures(content, at, self._header)
        start, captured = at + FRAME_HEADER, header["captured"].astype(np.int64)
        wrong = captured > LARGEST_FRAME
        if wrong.any():
            first = int(wrong.argmax())
            raise make_damage_error(offset + int(at[first]), f"a frame of {captured[first]} bytes")
        end = start + captured
        complete = slice(np.count_nonzero(end <= len(chunk)))  # all frames, or all but the last
        microseconds = header["seconds"] * np.int64(10**6) + header["fraction"] // (self._ticks // 10**6)
        frames = Frames(
            content, start[complete], captured[complete], header["size"][complete].astype(np.int64),
            microseconds[complete], self._link_type,
        )  # fmt: skip
        return [frames], int(end[complete].max(initial=0))


def find_frame_headers(chunk: bytes, order: str) -> Integers:
    """Return the offsets (N,) of all complete frame headers, ascending; the last frame itself may be incomplete.

    Args:
        chunk: bytes of a file that begin with a header.
        order: byte order of numbers, ``<`` or ``>``.
    """
    end = len(chunk) - FRAME_HEADER + 1  # complete headers begin before it
    if end <= 0:
        return np.empty(0, np.int64)
    first = _guess_first_headers(chunk, order, end)
    stop = np.append(first[1:], end)
    offsets = _follow_in_parallel(chunk, order, first, stop)
    inside = offsets < stop
    next_header = offsets[np.count_nonzero(inside, axis=0), np.arange(len(first))]
    followed: list[int] = []
    at = 0  # the true first header of the next segment
    for segment, guess in enumerate(first.tolist()):
        if at == guess:
            at = int(next_header[segment])
        else:
            inside[:, segment] = False
            followed += _follow_sequentially(chunk, order, at, int(stop[segment]))
            at = followed.pop()
    headers: Integers = offsets.T[inside.T]
    return np.sort(np.append(headers, followed)) if followed else headers


def _guess_first_headers(chunk: bytes, order: str, end: int) -> Integers:
    """Return the offset of what looks like the first header of each segment (S,), ascending; the first is certain."""
    upper = 2 if order == "<" else 0  # offset of the upper half of the seconds, which stays the same for 18 hours
    length = rb"..[\0-\4]\0" if order == "<" else rb"\0[\0-\4].."
    header = re.escape(chunk[upper : upper + 2]) + b".{%d}" % (6 - upper) + 2 * length
    search = re.compile(header, re.DOTALL).search
    offsets = [0]
    for start in range(_SEGMENT, end, _SEGMENT):
        found = search(chunk, start + upper, start + _SEGMENT)
        offsets.append(found.start() - upper if found else start)
    return np.array(offsets)


def _follow_in_parallel(chunk: bytes, order: str, first: Integers, stop: Integers) -> Integers:
    """Return the offsets (K, S) of headers, one column for each first header, until every column is past its stop."""
    end = int(stop[-1])
    length = np.ndarray((end + 1,), f"{order}u4", chunk, offset=8, strides=(1,))  # at every byte
    rows = [at := first]
    while np.count_nonzero(at < stop):
        at = np.minimum(at + length[at] + FRAME_HEADER, end)
        rows.append(at)
    return np.array(rows)


def _follow_sequentially(chunk: bytes, order: str, at: int, stop: int) -> list[int]:
    """Return the offsets of headers from ``at`` to the first one that is not before ``stop``, both included."""
    length_at = struct.Struct(f"{order}8xI").unpack_from
    headers = [at]
    while at < stop:
        at += FRAME_HEADER + length_at(chunk, at)[0]
        headers.append(at)
    return headers
