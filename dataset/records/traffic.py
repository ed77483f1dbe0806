"""Observe traffic: turn captures, or what passes an interface, into records, and count what is read."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from tqdm import tqdm

from dataset.defaults import MOST_RECORDS
from dataset.packets.growing_capture import STANDARD_INPUT, GrowingCapture
from dataset.packets.interface import Interface
from dataset.packets.traffic_counts import TrafficCounts
from dataset.records.capture_records import capture_records
from dataset.records.live_records import TICK, live_records, live_windows
from dataset.records.windows import Windows
from utils.background_iterator import iterate_in_background
from utils.errors import CaptureError, InputFileError
from utils.files import check_readable, is_pipe
from utils.records import Records

_MOST_WAITING: Final = 2


@dataclass(frozen=True)
class Traffic:
    """What to observe: captures or an interface.

    Attributes:
        captures: read one after the other; ``-`` is standard input, and with a named pipe it is the only one.
        interface: its name.
        follow: go on reading the capture as it grows.
        duration: seconds after which to stop.
        most_records: of a window, where it is observed as it comes.
        clamp: bring sizes to those of frames that the published traffic is made of.
    """

    captures: Sequence[Path] = ()
    interface: str | None = None
    follow: bool = False
    duration: float | None = None
    most_records: int = MOST_RECORDS
    clamp: bool = False

    @property
    def names(self) -> list[str]:
        """What messages call its sources."""
        if self.interface is not None:
            return [self.interface]
        return ["standard input" if path == STANDARD_INPUT else str(path) for path in self.captures]

    @property
    def is_live(self) -> bool:
        """Whether it is observed as it comes."""
        flowing = any(path == STANDARD_INPUT or is_pipe(path) for path in self.captures)
        return self.interface is not None or self.follow or flowing

    def check(self) -> None:
        """Check that its parts go together, and that captures are there.

        Raises:
            InputFileError: they do not, or are not.
        """
        if self.is_live and len(self.captures) > 1:
            raise InputFileError("only one capture can be followed, or standard input be read; name one")
        if self.duration is not None and not self.is_live:
            raise InputFileError("--duration is for traffic that is still coming; leave it out, or add --follow")
        if not self.is_live:
            for path in self.captures:
                check_readable(path, CaptureError)


@dataclass(frozen=True)
class Observation:
    """Traffic under observation.

    Attributes:
        records: of the windows that are closed, in lists; an empty list whenever there are none for a moment.
        counts: of what was read so far.
        traffic: what is observed.
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
    """Yield traffic under observation, with a progress bar on a terminal.

    Args:
        traffic: what to observe.
        is_over: whether to stop; of live traffic, the records of windows that are open then are yielded too.

    Raises:
        CaptureError: what ``read_capture``, ``GrowingCapture`` or ``Interface`` raises; and at the end of captures that
            were not stopped, that there were no IPv4 packets.
    """
    traffic.check()
    counts = TrafficCounts()
    if not traffic.is_live:
        with _byte_bar(traffic.captures, counts) as progress:
            found = capture_records(traffic.captures, Windows(counts=counts), clamp=traffic.clamp, progress=progress)
            records = _with_ipv4(_until(is_over, found), traffic, counts, lambda: not is_over())
            yield Observation(records, counts, traffic)
        return
    windows = live_windows(counts, traffic.most_records)
    over = _or_after(traffic.duration, is_over)
    with _open(traffic, counts) as source, _packet_bar(traffic, counts) as show:
        coming = live_records(source, windows, over, clamp=traffic.clamp)
        # In a thread, for the kernel's room is small, and what is done with the records may take long.
        with closing(iterate_in_background(coming, _MOST_WAITING, TICK)) as lists:
            records = _with_ipv4(map(show, lists), traffic, counts, lambda: source.has_ended)
            yield Observation(records, counts, traffic)


def _until(is_over: Callable[[], bool], found: Iterator[Records]) -> Iterator[list[Records]]:
    for records in found:
        yield [records]
        if is_over():
            return


def _with_ipv4(
    records: Iterator[list[Records]], traffic: Traffic, counts: TrafficCounts, has_ended: Callable[[], bool]
) -> Iterator[list[Records]]:
    """Yield records, and raise an error where the traffic has ended by itself and there were no IPv4 packets."""
    yield from records
    if has_ended() and not counts.ipv4:
        raise CaptureError(counts.explain_no_ipv4(traffic.names))


def _or_after(seconds: float | None, is_over: Callable[[], bool]) -> Callable[[], bool]:
    end = float("inf") if seconds is None else time.monotonic() + seconds
    return lambda: is_over() or time.monotonic() >= end


def _open(traffic: Traffic, counts: TrafficCounts) -> Interface | GrowingCapture:
    if traffic.interface is not None:
        return Interface(traffic.interface, counts)
    return GrowingCapture(traffic.captures[0], counts)


@contextmanager
def _byte_bar(paths: Sequence[Path], counts: TrafficCounts) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar of the bytes of some files; yield what to call with the number of a file and its bytes read."""
    sizes = [path.stat().st_size for path in paths]
    with tqdm(desc="captures", total=sum(sizes), unit="B", unit_scale=True, disable=None) as bar:
        yield partial(_show_bytes, bar, sizes, counts)


def _show_bytes(bar: "tqdm[NoReturn]", sizes: Sequence[int], counts: TrafficCounts, number: int, read: int) -> None:
    bar.set_postfix(packets=counts.packets, refresh=False)
    bar.update(sum(sizes[:number]) + read - bar.n)


@contextmanager
def _packet_bar(traffic: Traffic, counts: TrafficCounts) -> Iterator[Callable[[list[Records] | None], list[Records]]]:
    """Draw how many packets came; yield what passes records on and brings it up to date."""
    name = traffic.interface or str(traffic.captures[0])
    with tqdm(desc=name, unit=" packets", unit_scale=True, disable=None) as bar:

        def show(records: list[Records] | None) -> list[Records]:
            bar.update(counts.packets - bar.n)
            return records or []

        yield show
