"""How many alerts are written: a flood of packets must not become a flood of lines."""

import math
from collections import Counter
from typing import Final

ATTACK_SIGNATURE: Final = "attack"
REJECTED_SIGNATURE: Final = "rejected"
SIGNATURES: Final = (ATTACK_SIGNATURE, REJECTED_SIGNATURE)
"""What alerts are about, by the names that metrics and reports use."""

MOST_REJECTED: Final = 10
"""Alerts on rejected records of all sources in each window, by default."""
MOST_PER_SOURCE: Final = 100
"""Alerts of one signature on records of one source address in each window, by default."""
SOURCES: Final = 20
"""So many times ``MOST_PER_SOURCE`` alerts of one signature are written in each window, whatever the sources: a sender
that forges its address is limited too, and the table of sources stays small."""

_WINDOWS: Final = 16  # that are remembered; captures may alternate between a few
_ALL_SOURCES: Final = -1


class AlertLimit:
    """Admits only so many alerts in each window of 15 seconds, by the records' own time.

    Args:
        most_rejected: alerts on rejected records in a window.
        most_per_source: alerts of each signature on records of one source address in a window, and ``SOURCES`` times
            as many on those of all sources; 0: no such limit.

    Attributes:
        suppressed: how many were not admitted, by signature.
    """

    def __init__(self, most_rejected: int = MOST_REJECTED, most_per_source: int = MOST_PER_SOURCE) -> None:
        self.suppressed: Counter[str] = Counter(dict.fromkeys(SIGNATURES, 0))
        self._most_per_source = most_per_source or math.inf
        most = SOURCES * self._most_per_source
        self._most = {ATTACK_SIGNATURE: most, REJECTED_SIGNATURE: min(most, most_rejected)}
        self._admitted: dict[int, Counter[tuple[str, int]]] = {}  # by the windows' starts

    def admits(self, signature: str, window_start: int, source: int) -> bool:
        """Return whether one more alert is admitted, and count it.

        Args:
            signature: one of ``SIGNATURES``.
            window_start: of the record's window, seconds since the epoch.
            source: IPv4 address that sent the record's first packet.
        """
        admitted = self._admitted.setdefault(window_start, Counter())
        of_source, of_all = (signature, source), (signature, _ALL_SOURCES)
        if admitted[of_source] >= self._most_per_source or admitted[of_all] >= self._most[signature]:
            self.suppressed[signature] += 1
            return False
        admitted[of_source] += 1
        admitted[of_all] += 1
        if len(self._admitted) > _WINDOWS:
            del self._admitted[next(iter(self._admitted))]
        return True
