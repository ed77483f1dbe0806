"""Traffic observed: captures or an interface, as the records that they bring, with what was counted on the way."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from tqdm import tqdm

from dataset.captures import Tally, name_most_common
from dataset.extraction import capture_records
from dataset.growing import STANDARD_INPUT, GrowingCapture
from dataset.interface import Interface
from dataset.live import TICK, Source, live_records, live_windows
from dataset.options import MOST_RECORDS
from dataset.windows import Windows
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
        records: of the windows that are over, in lists; an empty one whenever there are none for a moment.
        tally: counts what was read.
        windows: what is still open.
        names: of the captures or the interface.
        source: where live traffic comes from.
    """

    records: Iterator[list[Records]]
    tally: Tally
    windows: Windows
    names: Sequence[str]
    source: Source | None = None

    @property
    def dropped(self) -> int | None:
        """Packets that the kernel had no room for; None where it was not us who captured."""
        return None if self.source is None else self.source.dropped

    def summary(self) -> str:
        """Return one line of counts."""
        tally, windows = self.tally, self.windows
        parts = [
            f"{tally.packets} packets: {tally.ipv4} IPv4, {tally.other} other, {tally.malformed} malformed",
            f"{windows.late} too late for their window",
        ]
        if self.dropped is not None:
            parts.append(f"{self.dropped} dropped by the kernel")
        if self.source is not None:
            parts.append(f"{windows.left_out} left out by --max-records")
        if tally.truncated:
            parts.append(f"{tally.truncated} files end within a frame")
        if tally.unreadable:
            parts.append(f"{name_most_common(tally.unreadable, '{count} of {kind}')} cannot be read")
        return ", ".join(parts)

    def explain_no_ipv4(self) -> str:
        """Return that no IPv4 packets came, and what came, as a message."""
        return self.tally.explain_no_ipv4(self.names)


@contextmanager
def observed(traffic: Traffic, is_over: Callable[[], bool]) -> Iterator[Observation]:
    """Yield traffic under observation, with a progress bar on a terminal.

    Args:
        traffic: what to observe.
        is_over: whether to stop; of live traffic, the records of windows that are open then are yielded too.

    Raises:
        CaptureError: what ``read_capture``, ``GrowingCapture`` or ``Interface`` raises; and at the end of captures that
            were not stopped, that there were no IPv4 packets.
    """
    traffic.check()
    tally = Tally()
    if not traffic.is_live:
        windows = Windows()
        with _byte_bar(traffic.captures, tally) as progress:
            found = capture_records(traffic.captures, tally, windows, clamp=traffic.clamp, progress=progress)
            records = _with_ipv4(_until(is_over, found), traffic, tally, lambda: not is_over())
            yield Observation(records, tally, windows, traffic.names)
        return
    windows = live_windows(traffic.most_records)
    over = _or_after(traffic.duration, is_over)
    with _opened(traffic, tally) as source, _packet_bar(traffic, tally) as show:
        coming = live_records(source, windows, over, clamp=traffic.clamp)
        # In a thread, for the kernel's room is small, and what is done with the records may take long.
        with closing(iterate_in_background(coming, _MOST_WAITING, TICK)) as lists:
            records = _with_ipv4(map(show, lists), traffic, tally, lambda: source.ended)
            yield Observation(records, tally, windows, traffic.names, source)


def _until(is_over: Callable[[], bool], found: Iterator[Records]) -> Iterator[list[Records]]:
    for records in found:
        yield [records]
        if is_over():
            return


def _with_ipv4(
    records: Iterator[list[Records]], traffic: Traffic, tally: Tally, has_ended: Callable[[], bool]
) -> Iterator[list[Records]]:
    """Yield records, and raise an error where the traffic has ended by itself and there were no IPv4 packets."""
    yield from records
    if has_ended() and not tally.ipv4:
        raise CaptureError(tally.explain_no_ipv4(traffic.names))


def _or_after(seconds: float | None, is_over: Callable[[], bool]) -> Callable[[], bool]:
    end = float("inf") if seconds is None else time.monotonic() + seconds
    return lambda: is_over() or time.monotonic() >= end


def _opened(traffic: Traffic, tally: Tally) -> Interface | GrowingCapture:
    if traffic.interface is not None:
        return Interface(traffic.interface, tally)
    return GrowingCapture(traffic.captures[0], tally)


@contextmanager
def _byte_bar(paths: Sequence[Path], tally: Tally) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar of the bytes of some files; yield what to call with the number of a file and its bytes read."""
    sizes = [path.stat().st_size for path in paths]
    with tqdm(desc="captures", total=sum(sizes), unit="B", unit_scale=True, disable=None) as bar:
        yield partial(_show_bytes, bar, sizes, tally)


def _show_bytes(bar: "tqdm[NoReturn]", sizes: Sequence[int], tally: Tally, number: int, read: int) -> None:
    bar.set_postfix(packets=tally.packets, refresh=False)
    bar.update(sum(sizes[:number]) + read - bar.n)


@contextmanager
def _packet_bar(traffic: Traffic, tally: Tally) -> Iterator[Callable[[list[Records] | None], list[Records]]]:
    """Draw how many packets came; yield what passes records on and brings it up to date."""
    name = traffic.interface or str(traffic.captures[0])
    with tqdm(desc=name, unit=" packets", unit_scale=True, disable=None) as bar:

        def show(records: list[Records] | None) -> list[Records]:
            bar.update(tally.packets - bar.n)
            return records or []

        yield show
