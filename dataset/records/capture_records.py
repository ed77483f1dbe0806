"""Read the records of captures."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from dataset.packets.captures import read_capture
from dataset.records.windows import Windows
from utils.records import Records


def read_capture_records(
    paths: Sequence[Path],
    windows: Windows,
    progress: Callable[[int, int], object] = lambda _file, _bytes: None,
) -> Iterator[Records]:
    """Yield the records of captures, in order; the files are read as consecutive parts of one capture.

    A file that begins before a window that is already closed starts a new capture.

    Args:
        paths: the captures.
        windows: new windows; their counts are updated with what is read.
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
            yield from windows.add(packets)
    yield from windows.close()
