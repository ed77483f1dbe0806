"""What was found in observed traffic, told as it is found: events in a file, counts for Prometheus."""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

from offload.alerts import AlertsFile
from offload.eve import Counts, RejectedLimit, alerts, stats
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
        limit: of rejected records.
        metrics: count packets and alerts.
        seen: returns what was seen so far.
        in_iface: the interface, if the traffic comes from one.

    Attributes:
        alerts: told so far.
        total: of the verdicts so far.
    """

    def __init__(
        self,
        file: AlertsFile | None,
        limit: RejectedLimit,
        metrics: ClientMetrics,
        seen: Callable[[], Seen],
        in_iface: str | None = None,
    ) -> None:
        self.alerts = 0
        self.total = Tally.of_nothing(labelled=False)
        self._file, self._limit, self._metrics, self._seen, self._in_iface = file, limit, metrics, seen, in_iface
        self._begun = self._told = time.monotonic()
        self._counted: dict[str, int] = {}

    @property
    def suppressed(self) -> int:
        """Rejected records that were not told."""
        return self._limit.suppressed

    def tell(self, records: Records, verdicts: Verdicts) -> None:
        """Tell of verdicts on records.

        Raises:
            InputFileError: the file cannot be written.
        """
        suppressed = self._limit.suppressed
        events = alerts(records, verdicts, self._limit, self._in_iface)
        if self._file is not None:
            self._file.append(events)
        self.alerts += len(events)
        self.total += Tally.of(verdicts, None)
        rejected = sum(event["early_exit"]["decider"] == REJECTED for event in events)
        self._metrics.alerts.labels(signature="attack").inc(len(events) - rejected)
        self._metrics.alerts.labels(signature="rejected").inc(rejected)
        self._metrics.suppressed_alerts.inc(self._limit.suppressed - suppressed)

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
        if self._file is not None:
            self._file.append([stats(self._counts(seen), time.time_ns() // 1000, int(self._told - self._begun))])

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
            rejected_suppressed=self._limit.suppressed,
            late=seen.late,
            left_out=seen.left_out,
            kernel_packets=None if seen.dropped is None else packets + seen.dropped,
            kernel_drops=seen.dropped,
        )
