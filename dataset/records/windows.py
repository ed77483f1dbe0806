"""Collect packets in windows and compute the records of each window when it is closed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dataset.packets.packets import Packets
from dataset.packets.traffic_counts import TrafficCounts
from dataset.records.confirmed_maximum import NEVER, ConfirmedMaximum
from dataset.records.flow_features import compute_records
from utils.records import WINDOW_SECONDS, Records

_MICROSECONDS: Final = 1_000_000
_WINDOW: Final = WINDOW_SECONDS * _MICROSECONDS

LEAST_SIZE: Final = 60
GREATEST_SIZE: Final = 1514
"""Smallest and largest frames of the published traffic, in bytes."""

MOST_PACKETS: Final = 1_000_000
"""Most packets in open windows; beyond, the oldest windows are closed, so that memory stays bounded."""

MOST_OPEN: Final = 4096
"""Most open windows, however few packets they hold; beyond, the oldest are closed."""

MOST_WAITING: Final = 200_000
"""Most records that wait for earlier ones; beyond, they are returned out of order."""

_PATIENCE: Final = 4
"""Factor on both limits before the window that packets are arriving in is closed."""

_BATCH: Final = 50_000  # packets that are computed together; more would not fit in the processor's cache


@dataclass
class _Window:
    """An open window: its packets so far, their indices in the capture, and the pairs that have a record."""

    packets: list[Packets] = field(default_factory=list)
    indices: list[NDArray[np.int64]] = field(default_factory=list)
    pairs: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return sum(map(len, self.packets))

    def admit(self, packets: Packets, most_records: int) -> NDArray[np.bool_]:
        """Return which packets (P,) belong to the first ``most_records`` pairs, and remember these pairs."""
        pairs, first, pair = np.unique(packets.pairs, return_index=True, return_inverse=True)
        known = np.fromiter(map(self.pairs.__contains__, pairs.tolist()), np.bool_, len(pairs))
        new = np.flatnonzero(~known)
        new = new[np.argsort(first[new])][: most_records - len(self.pairs)]
        self.pairs.update(pairs[new].tolist())
        known[new] = True
        return known[pair]


class Windows:
    """Windows that collect packets and return their records when they are closed.

    The records of a capture equal those that ``compute_records`` returns for all its packets at once, unless a packet
    arrives after its window was closed or more than ``most_packets`` would have to be held.

    Args:
        most_packets: packets to hold at most. The newest window is never closed because of them, and the window that
            packets are arriving in only at ``_PATIENCE`` times as many.
        in_order: return records in the order of their first packets even if packets of several windows alternate;
            records then wait for those of the next window. Otherwise return them as soon as their window is closed.
        most_records: records of one window at most, for live traffic: packets that would start more records, or exceed
            ``most_packets``, are left out. None means no limit.
        counts: late and left-out packets are added to them.
        clamp: clamp the sizes of packets as ``clamp_sizes`` does.

    Attributes:
        held: packets in open windows.
        counts: as above.
    """

    def __init__(
        self,
        most_packets: int = MOST_PACKETS,
        *,
        in_order: bool = True,
        most_records: int | None = None,
        counts: TrafficCounts | None = None,
        clamp: bool = False,
    ) -> None:
        self.held = 0
        self.counts = TrafficCounts() if counts is None else counts
        self._most_records, self._clamp = most_records, clamp
        self._most, self._in_order = most_packets, in_order
        self._open: dict[int, _Window] = {}
        self._first_open: int | None = None  # all windows before this one are closed
        self._reached = ConfirmedMaximum()
        self._seen = 0
        self._waiting: list[Records] = []

    @property
    def reached(self) -> float:
        """The time that several consecutive packets have reached, in seconds since the epoch."""
        return self._reached.value / _MICROSECONDS

    def add(self, packets: Packets) -> list[Records]:
        """Add the next packets of a capture; return the records that are complete now."""
        if not len(packets):
            return []
        if self._clamp:
            packets = clamp_sizes(packets)
        oldest, newest = int(packets.timestamp.min()), int(packets.timestamp.max())
        indices = self._seen + np.arange(len(packets))
        if oldest // _WINDOW == newest // _WINDOW:
            self._add_to_window(oldest // _WINDOW, packets, indices)
        else:
            window = packets.timestamp // _WINDOW
            order = np.argsort(window, kind="stable")
            for chosen in np.split(order, np.flatnonzero(np.diff(window[order])) + 1):
                self._add_to_window(int(window[chosen[0]]), packets.take(chosen), indices[chosen])
        self._seen += len(packets)
        self._reached.add(packets.timestamp)
        exceeds_limits = self.held > self._most or len(self._open) > MOST_OPEN
        return self.close(self._find_surplus_end() if exceeds_limits else NEVER)

    def close(self, seconds: float = float("inf")) -> list[Records]:
        """Close all windows that end by a time in seconds since the epoch; return the complete records."""
        over = sorted(number for number in self._open if (number + 1) * WINDOW_SECONDS <= seconds)
        if over:
            self._first_open = over[-1] + 1
            self._waiting += map(self._compute_records, _batch([self._open.pop(number) for number in over]))
        if not self._in_order:
            return self._pop_complete(None)
        return self._pop_complete(min((int(window.indices[0][0]) for window in self._open.values()), default=None))

    def is_closed_at(self, timestamp: int) -> bool:
        """Return whether the window of a timestamp in microseconds is already closed."""
        return self._first_open is not None and timestamp // _WINDOW < self._first_open

    def restart(self) -> list[Records]:
        """Close all windows and accept packets of any time again; return the complete records."""
        records = self.close()
        self._first_open, self._reached = None, ConfirmedMaximum()
        return records

    def _add_to_window(self, number: int, packets: Packets, indices: NDArray[np.int64]) -> None:
        """Add packets of one window, given their indices in the capture."""
        if self._first_open is not None and number < self._first_open:
            self.counts.late += len(packets)
            return
        window = self._open.setdefault(number, _Window())
        if self._most_records is not None:
            chosen = np.flatnonzero(window.admit(packets, self._most_records))[: max(self._most - self.held, 0)]
            self.counts.left_out += len(packets) - len(chosen)
            packets, indices = packets.take(chosen), indices[chosen]
        if len(packets):
            window.packets.append(packets)
            window.indices.append(indices)
            self.held += len(packets)
        elif not window.packets:
            del self._open[number]

    def _find_surplus_end(self) -> float:
        """Return the end in seconds of the last window that must be closed to respect the limits."""
        held, end, patience = self.held, NEVER, 1
        for closed, number in enumerate(sorted(self._open)[:-1]):
            if (number + 1) * WINDOW_SECONDS > self.reached:
                patience = _PATIENCE
            if held <= patience * self._most and len(self._open) - closed <= patience * MOST_OPEN:
                break
            held -= len(self._open[number])
            end = (number + 1) * WINDOW_SECONDS
        return end

    def _compute_records(self, windows: Sequence[_Window]) -> Records:
        """Return the records of closed windows."""
        packets = Packets.concatenate([part for window in windows for part in window.packets])
        indices = np.concatenate([part for window in windows for part in window.indices])
        self.held -= len(packets)
        if (np.diff(indices) < 0).any():  # packets of the windows alternate
            order = np.argsort(indices)
            packets, indices = packets.take(order), indices[order]
        records = compute_records(packets)
        return replace(records, first_packet=indices[records.first_packet])

    def _pop_complete(self, before: int | None) -> list[Records]:
        """Return the waiting records with a first packet before an index: no later record can precede them."""
        if not self._waiting:
            return []
        records = Records.concatenate(self._waiting)
        order = np.argsort(records.first_packet)
        count = len(order)
        if before is not None and count <= MOST_WAITING:
            count = int(np.searchsorted(records.first_packet, before, sorter=order))
        self._waiting = [records.take(order[count:])] if count < len(order) else []
        return [records.take(order[:count])] if count else []


def _batch(windows: Sequence[_Window]) -> Iterator[list[_Window]]:
    """Yield consecutive windows together that hold about ``_BATCH`` packets."""
    before = accumulate(map(len, windows), initial=0)
    for _, batch in groupby(zip(windows, before, strict=False), key=lambda pair: pair[1] // _BATCH):
        yield [window for window, _ in batch]


def clamp_sizes(packets: Packets) -> Packets:
    """Return packets with sizes clamped to [``LEAST_SIZE``, ``GREATEST_SIZE``].

    Frames captured on the sending host are not padded yet, and with segmentation offload may be many frames in one.
    """
    return replace(packets, size=np.clip(packets.size, LEAST_SIZE, GREATEST_SIZE))
