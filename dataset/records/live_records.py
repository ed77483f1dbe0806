"""Packets that come as time passes, to flow records: windows are closed by the clock, so a silent link has its records.

A window is closed once no packet of it can still be on its way. The clock that stamps the packets may be another
machine's: how far it is ahead of ours is what the promptest packets show. Whoever is behind with reading goes by the
packets' own times instead, so that a burst is late, but whole; and so does whoever reads a capture of former times.
Either way, only a time that several packets in a row have reached counts: a lone packet far ahead closes no window.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from dataset.defaults import MOST_RECORDS
from dataset.packets.packets import Packets
from dataset.packets.traffic_counts import TrafficCounts
from dataset.records.capture_records import clamp_sizes
from dataset.records.confirmed_maximum import NEVER, ConfirmedMaximum
from dataset.records.windows import Windows
from utils.errors import CaptureError
from utils.records import Records

TICK: Final = 0.05
"""Seconds between two looks at the clock, at most."""

MOST_PACKETS: Final = 4_000_000
"""That an open window holds at most: 150 MB, and as much again when it is closed."""

_OLD: Final = 60.0  # seconds; a capture whose packets are always older than this is one of former times
_BACKLOG: Final = 1.0  # seconds in which what the source still holds is read at the end, at most
_SET_BACK: Final = 1.0
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


def live_windows(counts: TrafficCounts | None = None, most_records: int = MOST_RECORDS) -> Windows:
    """Return windows as ``live_records`` needs them, of bounded memory."""
    return Windows(most_packets=MOST_PACKETS, in_order=False, most_records=most_records, counts=counts)


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
        clamp: as ``capture_records``.
        clock: seconds since the epoch, by which the packets are stamped.

    Raises:
        CaptureError: what ``source`` raises, after the records of the windows that were open.
    """
    before, ahead = clock(), ConfirmedMaximum()
    try:
        while not (is_over() or source.has_ended):
            packets = source.read_packets(TICK)
            now = clock()
            found: list[Records] = []
            if now < before - _SET_BACK:
                # Time begins anew, lest all packets until then be too late.
                found, ahead = windows.restart(), ConfirmedMaximum()
            before = now
            if len(packets):
                ahead.add(packets.timestamp / _MICROSECONDS - now)
                found += windows.add(clamp_sizes(packets) if clamp else packets)
            is_current = source.is_drained and _seconds_ahead(ahead) > -_OLD
            yield found + windows.close((now + _seconds_ahead(ahead) if is_current else windows.reached) - source.grace)
        yield from _backlog(source, windows, clock(), clamp=clamp)
    except CaptureError:
        yield windows.close()
        raise
    yield windows.close()


def _seconds_ahead(ahead: ConfirmedMaximum) -> float:
    """Return how far the packets' clock is ahead of ours, or behind it where negative."""
    # A few first packets are believed unless they are ahead: that they would have to show in greater number.
    return min(ahead.unconfirmed, 0.0) if ahead.value == NEVER else ahead.value


def _backlog(source: Source, windows: Windows, end: float, *, clamp: bool) -> Iterator[list[Records]]:
    """Yield the records that what was captured before the end completes."""
    deadline = time.monotonic() + _BACKLOG
    while time.monotonic() < deadline:
        packets = source.read_packets(TICK)
        yield windows.add(clamp_sizes(packets) if clamp else packets)
        is_later = len(packets) and int(packets.timestamp.max()) >= end * _MICROSECONDS
        if is_later or source.has_ended or (source.is_drained and not len(packets)):
            return
