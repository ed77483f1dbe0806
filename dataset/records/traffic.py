"""Observe traffic: records and packet counts of captures or of an interface."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tqdm import tqdm

from dataset.defaults import MOST_RECORDS
from dataset.packets.growing_capture import STANDARD_INPUT, GrowingCapture
from dataset.packets.interface import Interface
from dataset.packets.traffic_counts import TrafficCounts
from dataset.records.capture_records import read_capture_records
from dataset.records.live_records import TICK, make_live_windows, read_live_records
from dataset.records.windows import Windows
from utils.background_iterator import iterate_in_background
from utils.errors import CaptureError, InputFileError
from utils.files import check_readable, is_pipe
from utils.records import Records

_QUEUE_SIZE: Final = 2  # lists of records that wait for the caller


@dataclass(frozen=True)
class Traffic:
    """The traffic to observe: captures or an interface.

    Attributes:
        captures: read one after the other; ``-`` is standard input. A live capture must be the only one.
        interface: name of the interface.
        follow: keep reading the capture as it grows.
        duration: seconds after which to stop; live traffic only.
        most_records: records of one window at most; live traffic only.
        clamp: clamp frame sizes to those of the published traffic.
    """

    captures: Sequence[Path] = ()
    interface: str | None = None
    follow: bool = False
    duration: float | None = None
    most_records: int = MOST_RECORDS
    clamp: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the sources, for messages."""
        if self.interface is not None:
            return [self.interface]
        return ["standard input" if path == STANDARD_INPUT else str(path) for path in self.captures]

    @property
    def is_live(self) -> bool:
        """Whether packets are observed as they arrive: an interface, a pipe or a growing capture."""
        has_pipe = any(path == STANDARD_INPUT or is_pipe(path) for path in self.captures)
        return self.interface is not None or self.follow or has_pipe

    def check(self) -> None:
        """Check that the attributes are compatible and the captures exist.

        Raises:
            InputFileError: they are not compatible, or a capture cannot be read.
        """
        if self.is_live and len(self.captures) > 1:
            raise InputFileError("only one capture can be followed or read from a pipe; name one")
        if self.duration is not None and not self.is_live:
            raise InputFileError("--duration is for live traffic only; leave it out, or add --follow")
        if not self.is_live:
            for path in self.captures:
                check_readable(path, CaptureError)


@dataclass(frozen=True)
class Observation:
    """Traffic under observation.

    Attributes:
        records: lists of the records of closed windows; empty lists while there are none.
        counts: counts of the packets read so far.
        traffic: the traffic that is observed.
    """

    records: Iterator[list[Records]]
    counts: TrafficCounts
    traffic: Traffic

    def summarize(self) -> str:
        """Return the counts as one line for people."""
        return self.counts.summarize(is_live=self.traffic.is_live)

    def explain_no_ipv4(self) -> str:
        """Return the error message for traffic without IPv4 packets."""
        return self.counts.explain_no_ipv4(self.traffic.names)


@contextmanager
def observe(traffic: Traffic, is_over: Callable[[], bool]) -> Iterator[Observation]:
    """Observe traffic, with a progress bar on a terminal.

    Args:
        traffic: what to observe.
        is_over: whether to stop; open windows of live traffic are closed then, and their records yielded.

    Raises:
        CaptureError: the error of ``read_capture``, ``GrowingCapture`` or ``Interface``; or a capture has ended without
            an IPv4 packet.
    """
    traffic.check()
    counts = TrafficCounts()
    if not traffic.is_live:
        with _draw_bytes(traffic.captures, counts) as show:
            found = read_capture_records(traffic.captures, Windows(counts=counts, clamp=traffic.clamp), show)
            records = _require_ipv4(_stop_when(is_over, found), traffic, counts, lambda: not is_over())
            yield Observation(records, counts, traffic)
        return
    windows = make_live_windows(counts, traffic.most_records, clamp=traffic.clamp)
    over = _limit_duration(traffic.duration, is_over)
    with _open_source(traffic, counts) as source, _draw_packets(traffic, counts) as update:
        coming = read_live_records(source, windows, over)
        # In a thread: the kernel's ring is small, and the caller may take long for each list.
        with closing(iterate_in_background(coming, _QUEUE_SIZE, TICK)) as lists:
            records = _require_ipv4(map(update, lists), traffic, counts, lambda: source.has_ended)
            yield Observation(records, counts, traffic)


def _stop_when(is_over: Callable[[], bool], found: Iterator[Records]) -> Iterator[list[Records]]:
    for records in found:
        yield [records]
        if is_over():
            return


def _require_ipv4(
    records: Iterator[list[Records]], traffic: Traffic, counts: TrafficCounts, has_ended: Callable[[], bool]
) -> Iterator[list[Records]]:
    """Yield records; raise an error if the traffic has ended by itself without an IPv4 packet."""
    yield from records
    if has_ended() and not counts.ipv4:
        raise CaptureError(counts.explain_no_ipv4(traffic.names))


def _limit_duration(seconds: float | None, is_over: Callable[[], bool]) -> Callable[[], bool]:
    end = float("inf") if seconds is None else time.monotonic() + seconds
    return lambda: is_over() or time.monotonic() >= end


def _open_source(traffic: Traffic, counts: TrafficCounts) -> Interface | GrowingCapture:
    if traffic.interface is not None:
        return Interface(traffic.interface, counts)
    return GrowingCapture(traffic.captures[0], counts)


@contextmanager
def _draw_bytes(paths: Sequence[Path], counts: TrafficCounts) -> Iterator[Callable[[int, int], None]]:
    """Draw a progress bar in bytes; yield a function that takes the index of a file and its bytes read so far."""
    sizes = [path.stat().st_size for path in paths]
    with tqdm(desc="captures", total=sum(sizes), unit="B", unit_scale=True, disable=None) as bar:

        def update(number: int, read: int) -> None:
            bar.set_postfix(packets=counts.packets, refresh=False)
            bar.update(sum(sizes[:number]) + read - bar.n)

        yield update


@contextmanager
def _draw_packets(traffic: Traffic, counts: TrafficCounts) -> Iterator[Callable[[list[Records] | None], list[Records]]]:
    """Draw a counter of packets; yield a function that updates it and returns the given records."""
    name = traffic.interface or str(traffic.captures[0])
    with tqdm(desc=name, unit=" packets", unit_scale=True, disable=None) as bar:

        def update(records: list[Records] | None) -> list[Records]:
            bar.update(counts.packets - bar.n)
            return records or []

        yield update
