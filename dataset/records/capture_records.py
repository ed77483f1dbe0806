"""Read the records of captures."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from dataset.packets.captures import read_capture
from dataset.packets.packets import Packets
from dataset.records.windows import Windows
from utils.records import Records

LEAST_SIZE: Final = 60
GREATEST_SIZE: Final = 1514
"""Smallest and largest frames of the published traffic, in bytes."""


def read_capture_records(
    paths: Sequence[Path],
    windows: Windows,
    *,
    clamp: bool = False,
    progress: Callable[[int, int], object] = lambda _file, _bytes: None,
) -> Iterator[Records]:
    """Yield the records of captures, in order; the files are read as consecutive parts of one capture.

    A file that begins before a window that is already closed starts a new capture.

    Args:
        paths: the captures.
        windows: new windows; their counts are updated with what is read.
        clamp: clamp frame sizes to those of the published traffic; see ``clamp_sizes``.
        progress: called with the index of the file and its bytes that were read so far.

    Raises:
        CaptureError: as ``read_capture``.
    """
    for number, path in enumerate(paths):
        has_begun = False
        for packets in read_capture(path, windows.counts, partial(progress, number)):
            if len(packets) and not has_begun:
                has_begun = True
                if windows.is_closed_at(int(packets.timestamp[0])):
                    yield from windows.restart()
            yield from windows.add(clamp_sizes(packets) if clamp else packets)
    yield from windows.close()


def clamp_sizes(packets: Packets) -> Packets:
    """Return packets with sizes clamped to [``LEAST_SIZE``, ``GREATEST_SIZE``].

    Frames captured on the sending host are not padded yet, and with segmentation offload may be many frames in one.
    """
    return replace(packets, size=np.clip(packets.size, LEAST_SIZE, GREATEST_SIZE))
