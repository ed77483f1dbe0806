"""Read records from live packets: windows are closed by the clock, so that a silent link has its records in time.

A window is closed once none of its packets can still arrive. The clock that stamps the packets may be that of another
machine; its offset to ours is estimated from the packets with the least delay. When reading lags, and for packets of
an old capture, windows are closed by packet time instead, so that a burst is delayed but complete. Either way a time
counts only once several consecutive packets have reached it: a single packet with a wrong time closes no window.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from dataset.defaults import MOST_RECORDS
from dataset.packets.packets import Packets
from dataset.packets.traffic_counts import TrafficCounts
from dataset.records.confirmed_maximum import NEVER, ConfirmedMaximum
from dataset.records.windows import Windows
from utils.errors import CaptureError
from utils.records import Records

TICK: Final = 0.05
"""Most seconds between two looks at the clock."""

MOST_LIVE_PACKETS: Final = 4_000_000
"""Packets that open windows hold at most: 150 MB, and as much again while they are closed."""

_OLD: Final = 60.0  # seconds; packets that are always older belong to an old capture
_BACKLOG: Final = 1.0  # most seconds for reading the backlog of the source at the end
_SET_BACK: Final = 1.0  # seconds; a clock that goes back further was set
_MICROSECONDS: Final = 1_000_000


class Source(Protocol):
    """A source of live packets.

    Attributes:
        grace: seconds from a packet's capture until it can be read, at most.
        is_drained: whether all packets that have arrived were read.
        has_ended: whether no packet will arrive any more.
    """

    grace: float

    @property
    def is_drained(self) -> bool: ...  # noqa: D102 see above

    @property
    def has_ended(self) -> bool: ...  # noqa: D102

    def read_packets(self, timeout: float, /) -> Packets:
        """Return the next packets as soon as there are some, and none after ``timeout`` seconds.

        Raises:
            CaptureError: the source has failed.
        """


def make_live_windows(
    counts: TrafficCounts | None = None, most_records: int = MOST_RECORDS, *, clamp: bool = False
) -> Windows:
    """Return new windows of bounded memory for ``read_live_records``; the arguments are those of ``Windows``."""
    return Windows(MOST_LIVE_PACKETS, in_order=False, most_records=most_records, counts=counts, clamp=clamp)


def read_live_records(
    source: Source,
    windows: Windows,
    is_over: Callable[[], bool],
    clock: Callable[[], float] = time.time,
) -> Iterator[list[Records]]:
    """Yield the records of each window once it is closed, and an empty list at every tick without records.

    Args:
        source: source of the packets.
        windows: new windows of ``make_live_windows``.
        is_over: whether to stop; the windows that are open then are closed and yielded last.
        clock: returns seconds since the epoch.

    Raises:
        CaptureError: the error of ``source``, raised after the records of the open windows.
    """
    before, offsets = clock(), ConfirmedMaximum()
    try:
        while not (is_over() or source.has_ended):
            packets = source.read_packets(TICK)
            now = clock()
            found: list[Records] = []
            if now < before - _SET_BACK:
                # Otherwise all packets would be late until the clock has caught up.
                found, offsets = windows.restart(), ConfirmedMaximum()
            before = now
            if len(packets):
                offsets.add(packets.timestamp / _MICROSECONDS - now)
                found += windows.add(packets)
            offset = _estimate_offset(offsets)
            is_current = source.is_drained and offset > -_OLD
            yield found + windows.close((now + offset if is_current else windows.reached) - source.grace)
        yield from _read_backlog(source, windows, clock())
    except CaptureError:
        yield windows.close()
        raise
    yield windows.close()


def _estimate_offset(offsets: ConfirmedMaximum) -> float:
    """Return the seconds by which the packets' clock is ahead of ours."""
    # Too few packets to confirm an offset: they may show that their clock is behind, but not that it is ahead.
    return min(offsets.unconfirmed, 0.0) if offsets.value == NEVER else offsets.value


def _read_backlog(source: Source, windows: Windows, end: float) -> Iterator[list[Records]]:
    """Yield the records completed by packets that were captured before the end but not read yet."""
    deadline = time.monotonic() + _BACKLOG
    while time.monotonic() < deadline:
        packets = source.read_packets(TICK)
        yield windows.add(packets)
        is_later = len(packets) and int(packets.timestamp.max()) >= end * _MICROSECONDS
        if is_later or source.has_ended or (source.is_drained and not len(packets)):
            return
