"""Write the alerts on observed traffic as they are found, and the counts now and then."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

from dataset.packets.traffic_counts import TrafficCounts
from offload.alerts.alert_limit import AlertLimit
from offload.alerts.alerts_file import AlertsFile, UnwrittenError
from offload.alerts.eve import Event, make_alerts, make_stats
from offload.alerts.unwritten_lines import UnwrittenLines
from offload.defaults import ATTACK_SIGNATURE, REJECTED_SIGNATURE, SIGNATURES
from offload.edge.batch import Batch
from offload.edge.verdict_counts import VerdictCounts
from offload.operations.metrics import PACKET_FATES, ClientMetrics
from utils.schema import REJECTED

STATS_INTERVAL: Final = 10.0
"""Seconds between two stats events; the default of Suricata is 8."""


class AlertWriter:
    """Writes alerts and counts them.

    Args:
        file: for the events; None: they are only counted.
        limit: of alerts.
        unwritten: counts events that cannot be written.
        metrics: count packets and alerts.
        traffic: what was read so far; others add to it.
        in_iface: the interface, if the traffic comes from one.

    Attributes:
        alerts: written so far; without a file, found so far.
        total: counts of the verdicts so far.
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
        """Alerts that a limit suppressed, by signature."""
        return self._limit.suppressed

    def write(self, batch: Batch) -> None:
        """Write the alerts on a decided batch of records.

        Raises:
            InputFileError: the file cannot be written, and the run can be repeated.
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
        """Add events to the file, if there is one; return how many of them, from the first on, are written."""
        if self._file is not None:
            try:
                self._file.append(events)
            except UnwrittenError as problem:
                self._unwritten.count("alerts", len(events) - problem.written, problem)
                return problem.written
        return len(events)

    def write_stats_if_due(self) -> None:
        """Write the counts where ``STATS_INTERVAL`` is over; call it often.

        Raises:
            InputFileError: as ``write``.
        """
        if time.monotonic() - self._last_stats >= STATS_INTERVAL:
            self.write_stats()

    def write_stats(self) -> None:
        """Write the counts.

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
