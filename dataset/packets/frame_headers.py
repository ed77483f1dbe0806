"""Where the headers of a classic pcap's frames lie: each says how long its frame is, and so where the next one lies.

Followed one after the other, they take longer than all else that is read of the frames. So segments of a piece are
followed side by side, each from what looks like its first header. Whether it is one shows at the end, when the segment
before leads to it. Where that one leads elsewhere, the segment is followed again, from there, one header after the
other. So looks may cost time, but never decide what a header is.
"""

import re
import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

FRAME_HEADER: Final = 16
"""Bytes of a header: seconds, their fraction, captured and original length, four bytes each."""

_SEGMENT: Final = 8192  # bytes


def frame_headers(piece: bytes, order: str) -> Integers:
    """Return where the headers begin (N,) that are whole in a piece, ascending; of the last, the frame may not be.

    Args:
        piece: of a file; begins with a header.
        order: of a number's bytes, ``<`` or ``>``.
    """
    end = len(piece) - FRAME_HEADER + 1  # in front of it begin headers that are whole
    if end <= 0:
        return np.empty(0, np.int64)
    first = _likely_headers(piece, order, end)
    stop = np.append(first[1:], end)
    places = _side_by_side(piece, order, first, stop)
    inside = places < stop
    behind = places[np.count_nonzero(inside, axis=0), np.arange(len(first))]
    followed: list[int] = []
    at = 0  # the first header of the next segment, for certain
    for segment, likely in enumerate(first.tolist()):
        if at == likely:
            at = int(behind[segment])
        else:
            inside[:, segment] = False
            followed += _one_by_one(piece, order, at, int(stop[segment]))
            at = followed.pop()
    headers: Integers = places.T[inside.T]
    return np.sort(np.append(headers, followed)) if followed else headers


def _likely_headers(piece: bytes, order: str, end: int) -> Integers:
    """Return what looks like the first header of each segment (S,), ascending; for certain it is that of the first."""
    upper = 2 if order == "<" else 0  # half of the seconds, which frames of 18 hours have in common
    length = rb"..[\0-\4]\0" if order == "<" else rb"\0[\0-\4].."
    header = re.escape(piece[upper : upper + 2]) + b".{%d}" % (6 - upper) + 2 * length
    search = re.compile(header, re.DOTALL).search
    places = [0]
    for start in range(_SEGMENT, end, _SEGMENT):
        found = search(piece, start + upper, start + _SEGMENT)
        places.append(found.start() - upper if found else start)
    return np.array(places)


def _side_by_side(piece: bytes, order: str, first: Integers, stop: Integers) -> Integers:
    """Return where headers begin (K, S) that follow from the first ones, a column each, until all are behind a stop."""
    end = int(stop[-1])
    length = np.ndarray((end + 1,), f"{order}u4", piece, offset=8, strides=(1,))  # at every byte
    rows = [at := first]
    while np.count_nonzero(at < stop):
        at = np.minimum(at + length[at] + FRAME_HEADER, end)
        rows.append(at)
    return np.array(rows)


def _one_by_one(piece: bytes, order: str, at: int, stop: int) -> list[int]:
    """Return where headers begin that follow from one, up to the first that is not in front of the stop."""
    length_at = struct.Struct(f"{order}8xI").unpack_from
    headers = [at]
    while at < stop:
        at += FRAME_HEADER + length_at(piece, at)[0]
        headers.append(at)
    return headers
