"""Packets that come as time passes, to flow records: windows are closed by the clock, so a silent link has its records.

A window is closed once no packet of it can still be on its way. Whoever is behind with reading goes by the packets' own
times instead, so that a burst is late, but whole.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from dataset.extraction import clamped
from dataset.flow_features import Packets
from dataset.options import MOST_RECORDS
from dataset.windows import Windows
from utils.records import Records

TICK: Final = 0.05
"""Seconds between two looks at the clock, at most."""

MOST_PACKETS: Final = 4_000_000
"""That an open window holds at most: 150 MB, and as much again when it is closed."""

_OLD: Final = 60.0  # seconds; with packets older than this the clock has nothing to do: they are of an old capture
_SET_BACK: Final = 1.0
_MICROSECONDS: Final = 1_000_000


class Source(Protocol):
    """Where packets come from.

    Attributes:
        grace: seconds after which a packet that was captured is here.
        is_drained: whether there was no more than was handed out.
        ended: whether nothing will come any more.
        dropped: packets that were lost before they came here; None where that is not known.
    """

    grace: float

    @property
    def is_drained(self) -> bool: ...  # noqa: D102 see above

    @property
    def ended(self) -> bool: ...  # noqa: D102

    @property
    def dropped(self) -> int | None: ...  # noqa: D102

    def packets(self, seconds: float, /) -> Packets:
        """Return the next packets, as soon as there are some; none if there are none for so long.

        Raises:
            CaptureError: no more can be had.
        """


def live_windows(most_records: int = MOST_RECORDS) -> Windows:
    """Return windows as ``live_records`` needs them, of bounded memory."""
    return Windows(most_packets=MOST_PACKETS, in_order=False, most_records=most_records)


def live_records(
    source: Source,
    windows: Windows,
    is_over: Callable[[], bool],
    *,
    clamp: bool = False,
    clock: Callable[[], float] = time.time,
) -> Iterator[list[Records]]:
    """Yield the records of each window once it is closed, and nothing, an empty list, while time passes.

    Args:
        source: of packets.
        windows: ``live_windows``, new ones.
        is_over: whether to stop; what is open then is closed, and yielded at last.
        clamp: as ``extraction.capture_records``.
        clock: seconds since the epoch, by which the packets are stamped.

    Raises:
        CaptureError: what ``source`` raises.
    """
    before, newest = clock(), float("-inf")
    while not (is_over() or source.ended):
        packets = source.packets(TICK)
        now = clock()
        # Time begins anew, lest all packets until then be too late.
        found = windows.restart() if now < before - _SET_BACK else []
        before = now
        if len(packets):
            newest = int(packets.timestamp.max()) / _MICROSECONDS
            found += windows.add(clamped(packets) if clamp else packets)
        is_current = source.is_drained and now < newest + _OLD
        yield found + windows.close((now if is_current else min(now, newest)) - source.grace)
    yield _last(source, windows, clock(), clamp=clamp)


def _last(source: Source, windows: Windows, end: float, *, clamp: bool) -> list[Records]:
    """Return the records of what was captured before the end, and of the windows that are open."""
    found: list[Records] = []
    while len(packets := source.packets(TICK)):
        found += windows.add(clamped(packets) if clamp else packets)
        if int(packets.timestamp.max()) >= end * _MICROSECONDS:
            break
    return found + windows.close()
