"""Counts of frames and packets: one object that every step from the capture to the alerts updates."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

VLAN: Final = "VLAN-tagged"
CUT_SHORT: Final = "cut short within their headers"
NO_TIME: Final = "without a timestamp from 1970 to 9999"
NOT_VERSION_4: Final = "of another IP version than their link's header says"
OTHER: Final = "of other protocols"
UNTIMED: Final = "without a timestamp (simple packet blocks)"
"""Kinds of frames that are not counted as IPv4 packets."""

_MOST_NAMED: Final = 3
_MOST_KINDS: Final = 8
_REMEDIES: Final = {
    VLAN: "strip the tags, for example with tcprewrite --enet-vlan=del",
    UNTIMED: "capture again with dumpcap or tcpdump, which write timestamps",
    CUT_SHORT: "capture again with at least 80 bytes of each frame",
}
_ANY_REMEDY: Final = "name a capture with IPv4 packets"


@dataclass
class TrafficCounts:
    """Frames and packets since the start; each frame is IPv4, other or malformed.

    Attributes:
        ipv4: IPv4 packets.
        other: frames of another protocol or of an unsupported link type.
        malformed: frames shorter than their headers, of another IP version, or without a timestamp.
        late: IPv4 packets that were discarded because their window was closed.
        left_out: IPv4 packets that were discarded because their window held the maximum number of records.
        dropped: frames that the kernel had no room for; None if the traffic does not come from an interface.
        truncated: captures that end within a frame.
        kinds: other and malformed frames, by kind.
        unreadable: those of ``other`` that are of an unsupported link type, by its name.
    """

    ipv4: int = 0
    other: int = 0
    malformed: int = 0
    late: int = 0
    left_out: int = 0
    dropped: int | None = None
    truncated: int = 0
    kinds: Counter[str] = field(default_factory=Counter, compare=False)
    unreadable: Counter[str] = field(default_factory=Counter, compare=False)

    @property
    def packets(self) -> int:
        """Number of all frames that were read."""
        return self.ipv4 + self.other + self.malformed

    def count_other(self, kind: str, count: int) -> None:
        """Count frames of another protocol or of an unsupported link type."""
        if count:
            self.other += count
            self.kinds[kind] += count

    def count_malformed(self, kind: str, count: int) -> None:
        """Count frames that are not what their headers say."""
        if count:
            self.malformed += count
            self.kinds[kind] += count

    def summarize(self, *, is_live: bool) -> str:
        """Return the counts as one line for people; those of ``--max-records`` only for live traffic."""
        parts = [
            f"{self.packets} packets: {self.ipv4} IPv4, {self.other} other, {self.malformed} malformed",
            f"{self.late} too late for their window",
        ]
        if self.dropped is not None:
            parts.append(f"{self.dropped} dropped by the kernel")
        if is_live:
            parts.append(f"{self.left_out} left out by --max-records")
        if self.truncated:
            parts.append(f"{self.truncated} files end within a frame")
        if self.unreadable:
            parts.append(f"{_name_most_common(self.unreadable, '{count} of {kind}')} cannot be read")
        return ", ".join(parts)

    def explain_no_ipv4(self, names: Sequence[str]) -> str:
        """Return the error message for captures, given their names, that hold no IPv4 packets."""
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        start = f"{', '.join(names[:_MOST_NAMED])}{more}: "
        cut = "is cut off in its first frame" if len(names) == 1 else "some are cut off in their first frame"
        if not self.packets:
            return start + (f"{cut}; fetch or copy it again" if self.truncated else "no packets; capture again, longer")
        (most, _), *others = self.kinds.most_common()
        found = f"{self.packets} packet{'s' if self.packets > 1 else ''}"
        if others:
            found += f": {_name_most_common(self.kinds, '{count} {kind}')}"
        else:
            found += f"{' ' if most.startswith('without') else ', all '}{most}"
        return f"{start}no IPv4 packets among {found}; {_REMEDIES.get(most, _ANY_REMEDY)}"


def _name_most_common(kinds: Counter[str], form: str) -> str:
    """Return the most common kinds as a list for people; ``form`` formats the ``count`` and ``kind`` of an entry."""
    named = [form.format(count=count, kind=kind) for kind, count in kinds.most_common(_MOST_KINDS)]
    rest = [f"{kinds.total()} in all"] if len(kinds) > _MOST_KINDS else []
    return ", ".join(named + rest)
