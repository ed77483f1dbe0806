"""Turn whole captures into records."""

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
"""Bytes of the frames that the published traffic is made of."""


def capture_records(
    paths: Sequence[Path],
    windows: Windows,
    *,
    clamp: bool = False,
    progress: Callable[[int, int], object] = lambda _file, _bytes: None,
) -> Iterator[Records]:
    """Yield the flow records of captures, read one after the other as the parts of one, in order.

    A file that begins before what is closed already is a capture of its own.

    Args:
        paths: the captures.
        windows: hold what is not over; new ones. What is read is added to their counts.
        clamp: bring sizes to those of frames that the published traffic is made of; see ``clamp_sizes``.
        progress: called with the number of the file, and its bytes that were read.

    Raises:
        CaptureError: as ``read_capture``.
    """
    for number, path in enumerate(paths):
        begun = False
        for packets in read_capture(path, windows.counts, partial(progress, number)):
            if len(packets) and not begun:
                begun = True
                if windows.is_closed_at(int(packets.timestamp[0])):
                    yield from windows.restart()
            yield from windows.add(clamp_sizes(packets) if clamp else packets)
    yield from windows.close()


def clamp_sizes(packets: Packets) -> Packets:
    """Return packets with sizes within [``LEAST_SIZE``, ``GREATEST_SIZE``].

    Frames captured on the host that sent them are not padded yet, and may be many in one.
    """
    return replace(packets, size=np.clip(packets.size, LEAST_SIZE, GREATEST_SIZE))
