"""Write the alerts on observed traffic as they are found, and statistics at intervals."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

from dataset.packets.traffic_counts import TrafficCounts
from offload.alerts.alert_limit import AlertLimit
from offload.alerts.alerts_file import AlertsFile, UnwrittenError
from offload.alerts.eve import Event, make_alerts, make_drift, make_stats
from offload.alerts.unwritten_lines import UnwrittenLines
from offload.defaults import ATTACK_SIGNATURE, REJECTED_SIGNATURE, SIGNATURES
from offload.edge.batch import Batch
from offload.edge.verdict_counts import VerdictCounts
from offload.operations.metrics import PACKET_FATES, ClientMetrics
from utils.drift_watch import Alarm
from utils.schema import REJECTED

STATS_INTERVAL: Final = 10.0
"""Seconds between two stats events; Suricata's default is 8."""


class AlertWriter:
    """Writes alerts and counts them.

    Args:
        file: EVE file; None: alerts are only counted.
        limit: limits the number of alerts.
        unwritten: counts events that cannot be written.
        metrics: count packets and alerts.
        traffic: counts of the traffic so far, which the reader of the traffic updates.
        in_iface: the interface, if the traffic comes from one.

    Attributes:
        alerts: number of alerts written; without a file, of alerts found.
        total: counts of the verdicts.
    """

    def __init__(
        self,
        file: AlertsFile | None,
        limit: AlertLimit,
        unwritten: UnwrittenLines,
        metrics: ClientMetrics,
        traffic: TrafficCounts,
        in_iface: str | None = None,
    ) -> None:
        self.alerts = 0
        self.total = VerdictCounts.zero(labelled=False)
        self._file, self._limit, self._unwritten = file, limit, unwritten
        self._metrics, self._traffic, self._in_iface = metrics, traffic, in_iface
        self._begun = self._last_stats = time.monotonic()
        self._counted: dict[str, int] = {}

    @property
    def suppressed(self) -> Counter[str]:
        """Number of alerts that a limit suppressed, by signature."""
        return self._limit.suppressed

    def write(self, batch: Batch) -> None:
        """Write the alerts on a decided batch of records.

        Raises:
            InputFileError: the file cannot be written, and the run can be repeated; see ``UnwrittenLines``.
        """
        before = self._limit.suppressed.copy()
        events = make_alerts(batch, self._limit, self._in_iface)
        for signature in SIGNATURES:
            suppressed = self._limit.suppressed[signature] - before[signature]
            self._metrics.suppressed_alerts.labels(signature=signature).inc(suppressed)
        self.total += VerdictCounts.from_batch(batch)
        written = events[: self._append(events)]
        self.alerts += len(written)
        rejected = sum(event["early_exit"]["decider"] == REJECTED for event in written)
        self._metrics.alerts.labels(signature=ATTACK_SIGNATURE).inc(len(written) - rejected)
        self._metrics.alerts.labels(signature=REJECTED_SIGNATURE).inc(rejected)

    def _append(self, events: Sequence[Event]) -> int:
        """Append events to the file, if there is one; return the number of events, from the first on, that it holds."""
        if self._file is not None:
            try:
                self._file.append(events)
            except UnwrittenError as problem:
                self._unwritten.count("alerts", len(events) - problem.written, problem)
                return problem.written
        return len(events)

    def write_drift(self, alarm: Alarm) -> None:
        """Write an event about a change of the traffic.

        Raises:
            InputFileError: as ``write``.
        """
        self._append([make_drift(alarm, time.time_ns() // 1000, self._in_iface)])

    def write_stats_if_due(self) -> None:
        """Write a stats event if the last one is ``STATS_INTERVAL`` ago; call it often.

        Raises:
            InputFileError: as ``write``.
        """
        if time.monotonic() - self._last_stats >= STATS_INTERVAL:
            self.write_stats()

    def write_stats(self) -> None:
        """Write a stats event, and update the metrics of packets.

        Raises:
            InputFileError: as ``write``.
        """
        self._last_stats = time.monotonic()
        for fate in PACKET_FATES:
            now = getattr(self._traffic, fate) or 0
            self._metrics.packets.labels(fate=fate).inc(now - self._counted.get(fate, 0))
            self._counted[fate] = now
        own = {
            "records": self.total.events,
            "alerts": self.alerts,
            "offloaded": self.total.offloaded,
            "rejected": self.total.rejected,
            "attack_suppressed": self.suppressed[ATTACK_SIGNATURE],
            "rejected_suppressed": self.suppressed[REJECTED_SIGNATURE],
            "unwritten": self._unwritten.lines.get("alerts", 0),
        }
        self._append([make_stats(self._traffic, own, time.time_ns() // 1000, int(self._last_stats - self._begun))])
