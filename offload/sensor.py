"""What was found in observed traffic, told as it is found: events in a file, counts for Prometheus."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Final

from offload.alert_limit import ATTACK_SIGNATURE, REJECTED_SIGNATURE, SIGNATURES, AlertLimit
from offload.alerts import AlertsFile, UnwrittenError
from offload.eve import Counts, Event, alerts, stats
from offload.losses import Losses
from offload.metrics import ClientMetrics
from offload.verdicts import Tally, Verdicts
from utils.records import Records
from utils.schema import REJECTED

STATS_INTERVAL: Final = 10.0
"""Seconds between two events that tell the counts; Suricata's own come as often."""


@dataclass(frozen=True)
class Seen:
    """Packets so far, each counted once but for those that are ``late`` or ``left_out``, which are IPv4 packets.

    Attributes:
        ipv4: IPv4 packets.
        other: frames of another kind.
        malformed: frames too short for what they claim to be, or without a time.
        late: left out, since their window was over.
        left_out: left out, since there was no room for more records.
        dropped: lost in the kernel; None where the traffic does not come from an interface.
    """

    ipv4: int
    other: int
    malformed: int
    late: int
    left_out: int
    dropped: int | None


class Sensor:
    """Tells of verdicts on records.

    Args:
        file: for the events; None: they are but counted.
        limit: of alerts.
        losses: of events that cannot be written.
        metrics: count packets and alerts.
        seen: returns what was seen so far.
        in_iface: the interface, if the traffic comes from one.

    Attributes:
        alerts: written so far, or where there is no file, found.
        total: of the verdicts so far.
    """

    def __init__(
        self,
        file: AlertsFile | None,
        limit: AlertLimit,
        losses: Losses,
        metrics: ClientMetrics,
        seen: Callable[[], Seen],
        in_iface: str | None = None,
    ) -> None:
        self.alerts = 0
        self.total = Tally.of_nothing(labelled=False)
        self._file, self._limit, self._losses = file, limit, losses
        self._metrics, self._seen, self._in_iface = metrics, seen, in_iface
        self._begun = self._told = time.monotonic()
        self._counted: dict[str, int] = {}

    @property
    def suppressed(self) -> Counter[str]:
        """Alerts that a limit held back, by signature."""
        return self._limit.suppressed

    def tell(self, records: Records, verdicts: Verdicts) -> None:
        """Tell of verdicts on records.

        Raises:
            InputFileError: the file cannot be written, and that is not outlived.
        """
        before = self._limit.suppressed.copy()
        events = alerts(records, verdicts, self._limit, self._in_iface)
        for signature in SIGNATURES:
            held_back = self._limit.suppressed[signature] - before[signature]
            self._metrics.suppressed_alerts.labels(signature=signature).inc(held_back)
        self.total += Tally.of(verdicts, None)
        told = events[: self._append(events)]
        self.alerts += len(told)
        rejected = sum(event["early_exit"]["decider"] == REJECTED for event in told)
        self._metrics.alerts.labels(signature=ATTACK_SIGNATURE).inc(len(told) - rejected)
        self._metrics.alerts.labels(signature=REJECTED_SIGNATURE).inc(rejected)

    def _append(self, events: Sequence[Event]) -> int:
        """Add events to the file, if there is one; return how many of them, from the first on, are written."""
        if self._file is not None:
            try:
                self._file.append(events)
            except UnwrittenError as problem:
                self._losses.count("alerts", len(events) - problem.written, problem)
                return problem.written
        return len(events)

    def look(self) -> None:
        """Tell the counts where it is time to; call it often.

        Raises:
            InputFileError: as ``tell``.
        """
        if time.monotonic() - self._told >= STATS_INTERVAL:
            self.tell_counts()

    def tell_counts(self) -> None:
        """Tell the counts.

        Raises:
            InputFileError: as ``tell``.
        """
        self._told = time.monotonic()
        seen = self._seen()
        self._count(seen)
        self._append([stats(self._counts(seen), time.time_ns() // 1000, int(self._told - self._begun))])

    def _count(self, seen: Seen) -> None:
        for field in fields(Seen):
            now = getattr(seen, field.name) or 0
            self._metrics.packets.labels(fate=field.name).inc(now - self._counted.get(field.name, 0))
            self._counted[field.name] = now

    def _counts(self, seen: Seen) -> Counts:
        packets = seen.ipv4 + seen.other + seen.malformed
        return Counts(
            packets=packets,
            ipv4=seen.ipv4,
            invalid=seen.malformed,
            records=self.total.events,
            alerts=self.alerts,
            offloaded=self.total.offloaded,
            rejected=self.total.rejected,
            attack_suppressed=self.suppressed[ATTACK_SIGNATURE],
            rejected_suppressed=self.suppressed[REJECTED_SIGNATURE],
            unwritten=self._losses.lines.get("alerts", 0),
            late=seen.late,
            left_out=seen.left_out,
            kernel_packets=None if seen.dropped is None else packets + seen.dropped,
            kernel_drops=seen.dropped,
        )
