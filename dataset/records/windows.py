"""Packets as they come to flow records: a window is held until nothing more can belong to it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dataset.packets.packets import Packets
from dataset.packets.traffic_counts import TrafficCounts
from dataset.records.confirmed_maximum import NEVER, ConfirmedMaximum
from dataset.records.flow_features import flow_features
from utils.records import WINDOW_SECONDS, Records

_MICROSECONDS: Final = 1_000_000
_WINDOW: Final = WINDOW_SECONDS * _MICROSECONDS

MOST_PACKETS: Final = 1_000_000
"""Packets that are held; beyond, the oldest windows are closed, so that memory stays bounded."""

MOST_OPEN: Final = 4096
"""Windows that are open, of however few packets each; beyond, the oldest are closed."""

MOST_WAITING: Final = 200_000
"""Records that wait for others in front of them; beyond, they are handed out as they are."""

_PATIENCE: Final = 4
"""Times as many packets and windows as else are held before a window is closed that packets are coming into."""

_BATCH: Final = 50_000  # packets: of more at once each takes longer, for they fit in no cache


@dataclass
class _Window:
    """A window that is open: its packets so far, each with its place in the capture, and the records they belong to."""

    packets: list[Packets] = field(default_factory=list)
    places: list[NDArray[np.int64]] = field(default_factory=list)
    pairs: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return sum(map(len, self.packets))

    def admits(self, packets: Packets, most_records: int) -> NDArray[np.bool_]:
        """Return which packets (P,) belong to the first so many records, and note these records."""
        pairs, first, place = np.unique(packets.pairs, return_index=True, return_inverse=True)
        known = np.fromiter(map(self.pairs.__contains__, pairs.tolist()), np.bool_, len(pairs))
        new = np.flatnonzero(~known)
        new = new[np.argsort(first[new])][: most_records - len(self.pairs)]
        self.pairs.update(pairs[new].tolist())
        known[new] = True
        return known[place]


class Windows:
    """Collects packets, and hands out the records of the windows that are closed.

    The records of a capture are those that ``flow_features`` finds in all its packets at once, in the same order, as
    long as no packet comes after its window was closed and no more than ``most_packets`` must be held.

    Args:
        most_packets: held at once; the newest window is not closed for their sake, and the one that packets are coming
            into only where there are several times as many.
        in_order: records are handed out in the order of their first packets even where packets of several windows
            alternate, for which some wait until the next window is closed; else as soon as their window is.
        most_records: of one window, for traffic that does not wait: packets that would begin more, or of which more
            than ``most_packets`` would be held, are left out. By default there are none.

        counts: packets that are late or left out are added to them.

    Attributes:
        held: packets of windows that are open.
        counts: see above.
    """

    def __init__(
        self,
        most_packets: int = MOST_PACKETS,
        *,
        in_order: bool = True,
        most_records: int | None = None,
        counts: TrafficCounts | None = None,
    ) -> None:
        self.held = 0
        self.counts = TrafficCounts() if counts is None else counts
        self._most_records = most_records
        self._most, self._in_order = most_packets, in_order
        self._open: dict[int, _Window] = {}
        self._first_open: int | None = None  # windows before this one are closed
        self._reached = ConfirmedMaximum()
        self._seen = 0
        self._waiting: list[Records] = []

    @property
    def reached(self) -> float:
        """The time that packets have reached, in seconds since the epoch: several in a row, as one may be wrong."""
        return self._reached.value / _MICROSECONDS

    def add(self, packets: Packets) -> list[Records]:
        """Take the next packets of a capture; return the records that are complete by now."""
        if not len(packets):
            return []
        oldest, newest = int(packets.timestamp.min()), int(packets.timestamp.max())
        places = self._seen + np.arange(len(packets))
        if oldest // _WINDOW == newest // _WINDOW:
            self._take(oldest // _WINDOW, packets, places)
        else:
            window = packets.timestamp // _WINDOW
            order = np.argsort(window, kind="stable")
            for chosen in np.split(order, np.flatnonzero(np.diff(window[order])) + 1):
                self._take(int(window[chosen[0]]), packets.take(chosen), places[chosen])
        self._seen += len(packets)
        self._reached.add(packets.timestamp)
        is_too_much = self.held > self._most or len(self._open) > MOST_OPEN
        return self.close(self._surplus() if is_too_much else NEVER)

    def close(self, seconds: float = float("inf")) -> list[Records]:
        """Close the windows that end at a time, seconds since the epoch, or before; return the complete records."""
        over = sorted(number for number in self._open if (number + 1) * WINDOW_SECONDS <= seconds)
        if over:
            self._first_open = over[-1] + 1
            self._waiting += map(self._records, _batches([self._open.pop(number) for number in over]))
        if not self._in_order:
            return self._complete(None)
        return self._complete(min((int(window.places[0][0]) for window in self._open.values()), default=None))

    def is_closed_at(self, timestamp: int) -> bool:
        """Return whether the window of a timestamp, in microseconds, is closed already."""
        return self._first_open is not None and timestamp // _WINDOW < self._first_open

    def restart(self) -> list[Records]:
        """Close all windows, and take packets of any time again; return the complete records."""
        records = self.close()
        self._first_open, self._reached = None, ConfirmedMaximum()
        return records

    def _take(self, number: int, packets: Packets, places: NDArray[np.int64]) -> None:
        """Put packets at some places of the capture into their window."""
        if self._first_open is not None and number < self._first_open:
            self.counts.late += len(packets)
            return
        window = self._open.setdefault(number, _Window())
        if self._most_records is not None:
            chosen = np.flatnonzero(window.admits(packets, self._most_records))[: max(self._most - self.held, 0)]
            self.counts.left_out += len(packets) - len(chosen)
            packets, places = packets.take(chosen), places[chosen]
        if len(packets):
            window.packets.append(packets)
            window.places.append(places)
            self.held += len(packets)
        elif not window.packets:
            del self._open[number]

    def _surplus(self) -> float:
        """Return when the last of the oldest windows ends, in seconds, that are too many to be held."""
        held, end, patience = self.held, NEVER, 1
        for place, number in enumerate(sorted(self._open)[:-1]):
            if (number + 1) * WINDOW_SECONDS > self.reached:
                patience = _PATIENCE
            if held <= patience * self._most and len(self._open) - place <= patience * MOST_OPEN:
                break
            held -= len(self._open[number])
            end = (number + 1) * WINDOW_SECONDS
        return end

    def _records(self, windows: Sequence[_Window]) -> Records:
        """Return the records of windows that are over."""
        packets = Packets.concatenate([part for window in windows for part in window.packets])
        places = np.concatenate([part for window in windows for part in window.places])
        self.held -= len(packets)
        if (np.diff(places) < 0).any():  # packets of the windows alternate
            order = np.argsort(places)
            packets, places = packets.take(order), places[order]
        records = flow_features(packets)
        return replace(records, first_packet=places[records.first_packet])

    def _complete(self, before: int | None) -> list[Records]:
        """Hand out the records whose first packets came before a place: no record to come belongs in front of them."""
        if not self._waiting:
            return []
        records = Records.joined(self._waiting)
        order = np.argsort(records.first_packet)
        count = len(order)
        if before is not None and count <= MOST_WAITING:
            count = int(np.searchsorted(records.first_packet, before, sorter=order))
        self._waiting = [records.take(order[count:])] if count < len(order) else []
        return [records.take(order[:count])] if count else []


def _batches(windows: Sequence[_Window]) -> Iterator[list[_Window]]:
    """Yield windows in turn, as many of small ones together as hold ``_BATCH`` packets or little more."""
    before = accumulate(map(len, windows), initial=0)
    for _, batch in groupby(zip(windows, before, strict=False), key=lambda pair: pair[1] // _BATCH):
        yield [window for window, _ in batch]
