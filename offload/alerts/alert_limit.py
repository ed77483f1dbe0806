"""Limit the number of alerts, so that a flood of packets does not become a flood of lines."""

import math
from collections import Counter
from typing import Final

from offload.defaults import (
    ALL_SOURCES_FACTOR,
    ATTACK_SIGNATURE,
    MAX_ALERTS_PER_SOURCE,
    MAX_REJECTED_ALERTS,
    REJECTED_SIGNATURE,
    SIGNATURES,
)

_WINDOWS: Final = 16  # windows whose counts are kept; captures may alternate between a few
_ALL_SOURCES: Final = -1


class AlertLimit:
    """Admits a limited number of alerts in each window of 15 seconds, by the time of the records.

    Args:
        max_rejected: most alerts on rejected records in a window.
        max_per_source: most alerts of each signature on records of one source address in a window, and
            ``ALL_SOURCES_FACTOR`` times as many on those of all sources; 0: unlimited.

    Attributes:
        suppressed: number of alerts that were not admitted, by signature.
    """

    def __init__(self, max_rejected: int = MAX_REJECTED_ALERTS, max_per_source: int = MAX_ALERTS_PER_SOURCE) -> None:
        self.suppressed: Counter[str] = Counter(dict.fromkeys(SIGNATURES, 0))
        self._max_per_source = max_per_source or math.inf
        max_in_all = ALL_SOURCES_FACTOR * self._max_per_source
        self._max_in_all = {ATTACK_SIGNATURE: max_in_all, REJECTED_SIGNATURE: min(max_in_all, max_rejected)}
        self._admitted: dict[int, Counter[tuple[str, int]]] = {}  # by the start of the window

    def admit(self, signature: str, window_start: int, source: int) -> bool:
        """Count one more alert and return whether it is admitted.

        Args:
            signature: one of ``SIGNATURES``.
            window_start: start of the record's window, in seconds since the epoch.
            source: IPv4 address that sent the record's first packet.
        """
        admitted = self._admitted.setdefault(window_start, Counter())
        of_source, of_all = (signature, source), (signature, _ALL_SOURCES)
        if admitted[of_source] >= self._max_per_source or admitted[of_all] >= self._max_in_all[signature]:
            self.suppressed[signature] += 1
            return False
        admitted[of_source] += 1
        admitted[of_all] += 1
        if len(self._admitted) > _WINDOWS:
            del self._admitted[next(iter(self._admitted))]
        return True
