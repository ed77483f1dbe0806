"""Captures as packets, in pieces of bounded size, plain or gzipped, with a tally of what was in them."""

import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from typing import Final

import numpy as np

from dataset.capture_formats import CUT_OFF, HEADER, capture_format
from dataset.flow_features import Packets
from dataset.frames import CaptureFormat, Frames
from dataset.link_types import CUT_SHORT, LINK_TYPES, VLAN, Sorted, ipv4_packets, name_link_type
from utils.compressions import LONGEST_MAGIC
from utils.errors import CaptureError
from utils.files import check_readable

PIECE: Final = 4 * 2**20
"""Bytes of a capture that are looked at together."""

UNTIMED: Final = "without a timestamp (simple packet blocks)"
"""A kind of packets."""

_GZIP: Final = b"\x1f\x8b"
_MOST_NAMED: Final = 3
_MOST_KINDS: Final = 8
_REMEDIES: Final = {
    VLAN: "strip the tags, for example with tcprewrite --enet-vlan=del",
    UNTIMED: "capture again with dumpcap or tcpdump, which write timestamps",
    CUT_SHORT: "capture again with at least 80 bytes of each frame",
}
_ANY_REMEDY: Final = "records are made of IPv4 packets, so name a capture that holds some"


@dataclass
class Tally:
    """What a capture held so far.

    Attributes:
        packets: all frames.
        ipv4: of them, IPv4 packets.
        other: of another kind, or of a link whose type is not known.
        malformed: too short for what they claim to be, of another version, or without a time.
        truncated: files that end within a frame.
        kinds: how many of the others and of the malformed there are of each kind, in words.
        unreadable: of the others, those of a link whose type is not known, by its name.
    """

    packets: int = 0
    ipv4: int = 0
    other: int = 0
    malformed: int = 0
    truncated: int = 0
    kinds: Counter[str] = field(default_factory=Counter, compare=False)
    unreadable: Counter[str] = field(default_factory=Counter, compare=False)

    def count(self, found: Sorted) -> None:
        """Count what some frames are."""
        self.packets += len(found.packets) + found.other + found.malformed
        self.ipv4 += len(found.packets)
        self.other += found.other
        self.malformed += found.malformed
        self.kinds.update(found.kinds)
        self.unreadable.update(found.unreadable)

    def count_untimed(self, count: int) -> None:
        """Count packets that came without a timestamp."""
        if count:
            self.packets += count
            self.malformed += count
            self.kinds[UNTIMED] += count

    def explain_no_ipv4(self, names: Sequence[str]) -> str:
        """Return that some captures hold no IPv4 packets, and what they hold, as a message.

        Args:
            names: of the captures.
        """
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        start = f"{', '.join(names[:_MOST_NAMED])}{more}: "
        cut = "is cut in its first frame" if len(names) == 1 else "some are cut in their first frame"
        if not self.packets:
            return start + (f"{cut}; fetch or copy it again" if self.truncated else "no packets; capture again, longer")
        (most, _), *others = self.kinds.most_common()
        found = f"{self.packets} packet{'s' if self.packets > 1 else ''}"
        if others:
            found += f": {name_most_common(self.kinds, '{count} {kind}')}"
        else:
            found += f"{' ' if most.startswith('without') else ', all '}{most}"
        return f"{start}no IPv4 packets among {found}; {_REMEDIES.get(most, _ANY_REMEDY)}"


def name_most_common(kinds: Counter[str], form: str) -> str:
    """Return the most common of some kinds as a list for people.

    Args:
        kinds: how many there are of each.
        form: of one, with the fields ``count`` and ``kind``.
    """
    named = [form.format(count=count, kind=kind) for kind, count in kinds.most_common(_MOST_KINDS)]
    rest = [f"{kinds.total()} in all"] if len(kinds) > _MOST_KINDS else []
    return ", ".join(named + rest)


def read_capture(
    path: Path, tally: Tally, progress: Callable[[int], object] = lambda _bytes: None, piece: int = PIECE
) -> Iterator[Packets]:
    """Yield the IPv4 packets of a capture, some at a time, in its order.

    Args:
        path: pcap or pcapng, in either byte order, plain or gzipped; its first bytes say which.
        tally: counts what is read.
        progress: called with the bytes of the file that were read.
        piece: bytes that are looked at together.

    Raises:
        CaptureError: the file is missing, is no capture, is damaged, or is a pcap of a link of an unknown type.
    """
    with check_readable(path, CaptureError).open("rb") as file:
        zipped = file.read(2) == _GZIP
        file.seek(0)
        try:
            stream: BufferedIOBase = gzip.GzipFile(fileobj=file) if zipped else file
            yield from _pieces(stream, lambda: progress(file.tell()), tally, piece)
        except CaptureError as problem:
            raise CaptureError(f"{path}: {problem}") from None
        except (zlib.error, gzip.BadGzipFile) as problem:
            raise CaptureError(f"{path}: is damaged: {problem}; fetch or make it again") from problem
        except OSError as problem:
            raise CaptureError(f"{path}: cannot be read: {problem.strerror or problem}; check the disk") from problem


def _pieces(stream: BufferedIOBase, progress: Callable[[], object], tally: Tally, piece: int) -> Iterator[Packets]:
    decoder, ends, is_cut, read = Decoder(tally), False, False, 0
    while not ends:
        more, ends, is_cut = _read(stream, piece)
        read += len(more)
        yield from decoder.decode(more)
        progress()
    if is_cut and not read:
        raise CaptureError(CUT_OFF)
    decoder.finish()


class Decoder:
    """Turns a capture's bytes into packets, as they come.

    Args:
        tally: counts what was read.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._format: CaptureFormat | None = None
        self._rest, self._place = b"", 0  # what is not decoded yet, and where in the capture it stands
        self._untimed = 0

    def decode(self, more: bytes) -> Iterator[Packets]:
        """Yield the IPv4 packets that the next bytes bring.

        Raises:
            CaptureError: they are of no capture, damaged, or of a pcap of a link of an unknown type.
        """
        self._rest += more
        if self._format is None:
            if len(self._rest) < HEADER:
                return
            self._begin()
        assert self._format is not None
        frames, done = self._format.take(self._rest, self._place)
        self._done_with(done)
        self._tally.count_untimed(self._format.untimed - self._untimed)
        self._untimed = self._format.untimed
        if frames:
            yield self._packets(frames)

    def _packets(self, frames: list[Frames]) -> Packets:
        """Return the IPv4 packets among frames of a piece, in the file's order."""
        found = [ipv4_packets(some) for some in frames]
        for some in found:
            self._tally.count(some)
        if len(found) == 1:
            return found[0].packets
        order = np.argsort(np.concatenate([some.start for some in found]), kind="stable")
        return Packets.joined([some.packets for some in found]).take(order)

    def finish(self) -> None:
        """Count what the end of the capture leaves.

        Raises:
            CaptureError: it is too short to be one.
        """
        if self._format is None:
            self._begin()
        if not self._place:
            raise CaptureError(CUT_OFF)
        self._tally.truncated += bool(self._rest)

    def _begin(self) -> None:
        self._format, done = capture_format(self._rest[:LONGEST_MAGIC])
        only = self._format.only_link_type
        if only is not None and only not in LINK_TYPES:
            known = ", ".join(dict.fromkeys(link.name for link in LINK_TYPES.values()))
            raise CaptureError(f"was captured with {name_link_type(only)}; known are {known}")
        self._done_with(done)

    def _done_with(self, count: int) -> None:
        self._rest, self._place = self._rest[count:], self._place + count


def _read(stream: BufferedIOBase, count: int) -> tuple[bytes, bool, bool]:
    """Return the next bytes, whether the stream ends there, and whether it does so before its time."""
    parts = []
    try:
        while count and (part := stream.read1(count)):
            parts.append(part)
            count -= len(part)
    except EOFError:  # a gzip file that is cut off; what came before is here
        return b"".join(parts), True, True
    return b"".join(parts), count > 0, False
