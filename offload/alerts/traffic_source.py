"""Observed traffic as a source of the client's events, with the alerts on them."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataset.records.traffic import Traffic, observe
from offload.alerts.alert_limit import AlertLimit
from offload.alerts.alert_writer import AlertWriter
from offload.alerts.alerts_file import AlertsFile
from offload.alerts.unwritten_lines import UnwrittenLines, is_full
from offload.defaults import ATTACK_SIGNATURE, REJECTED_SIGNATURE
from offload.edge.batch import EMPTY_BATCH, Batch
from offload.edge.edge import Edge
from offload.edge.offload_csv import OffloadCsv, Table
from offload.operations import logs
from offload.operations.metrics import ClientMetrics
from utils.drift_watch import Alarm
from utils.errors import InputFileError
from utils.records import Records
from utils.schema import CLASS
from utils.stopping import Stop

Scale = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Turns raw features (N, 58) into network inputs."""

log = logging.getLogger(__name__)


class TrafficSource:
    """The records of observed traffic, and the alerts on them.

    Args:
        traffic: traffic to observe.
        scale: turns raw features (N, 58) into network inputs.
        batch_size: most records of a batch.
        alerts_path: EVE file, or ``defaults.STDOUT``; None: alerts are only counted.
        limit: limits the number of alerts.
        metrics: count packets and alerts.
    """

    labelled = resumable = False

    def __init__(
        self,
        traffic: Traffic,
        scale: Scale,
        batch_size: int,
        alerts_path: Path | None,
        limit: AlertLimit,
        metrics: ClientMetrics,
    ) -> None:
        self._traffic, self._scale, self._batch_size = traffic, scale, batch_size
        self._alerts_path, self._limit, self._metrics = alerts_path, limit, metrics
        self._summary = ""
        self._begun = self._done = 0

    @contextmanager
    def open(self, _edge: Edge, stop: Stop, /) -> Iterator[Iterable[Batch]]:
        """See ``Source``."""
        with ExitStack() as stack:
            file = None
            if self._alerts_path is not None:
                file = stack.enter_context(AlertsFile(self._alerts_path, lambda: stop.is_over))
            observation = stack.enter_context(observe(self._traffic, lambda: stop.requested))
            # A capture can be read again once there is room on the disk; live traffic cannot.
            self._unwritten = UnwrittenLines(self._metrics, lambda: self._traffic.is_live or stop.requested)
            self._writer = AlertWriter(
                file, self._limit, self._unwritten, self._metrics, observation.counts, self._traffic.interface
            )
            self._writer.write_stats()  # so that readers of the file see that the sensor runs
            try:
                yield self._write_stats_between(split_records(observation.records, self._scale, self._batch_size))
            finally:
                self._writer.write_stats()
                self._summary = observation.summarize()

    def _write_stats_between(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._writer.write_stats_if_due()
            self._begun += len(batch)
            yield batch

    def save(self, savefile: OffloadCsv, columns: Table, /) -> None:
        """See ``Source``; if the disk is full, rows of live traffic are lost and counted."""
        try:
            savefile.append(columns)
        except InputFileError as problem:
            if not is_full(problem):
                raise
            self._unwritten.count("verdicts", len(columns[CLASS]), problem)

    def handle_decided(self, batch: Batch, /) -> None:
        """See ``Source``."""
        self._done += len(batch)
        self._writer.write(batch)

    def handle_drift(self, alarm: Alarm, /) -> None:
        """See ``Source``."""
        self._writer.write_drift(alarm)

    def log_summary(self, stop: Stop, /) -> None:
        """See ``Source``."""
        if self._begun > self._done:
            log.warning("%d records were not decided in time", self._begun - self._done)
        if stop.requested and not self._traffic.is_live:
            log.warning("stopped before the end of the captures")
        alerts, suppressed = self._writer.alerts, self._writer.suppressed
        logs.report(log, "traffic", self._summary)
        sentence = f"{alerts} alerts{_describe_suppressed(suppressed)}{self._unwritten.describe()}"
        where = f" -> {self._alerts_path}" if self._alerts_path else ""
        unwritten = self._unwritten.lines
        logs.report(
            log, "alerts", f"{sentence}{where}", alerts=alerts, suppressed=dict(suppressed), unwritten=unwritten
        )


def _describe_suppressed(suppressed: Mapping[str, int]) -> str:
    """Return the numbers of suppressed alerts as the end of a sentence."""
    if not any(suppressed.values()):
        return ""
    attacks, rejected = suppressed[ATTACK_SIGNATURE], suppressed[REJECTED_SIGNATURE]
    return f", suppressed by a limit: {attacks} on attacks, {rejected} on rejected records"


def split_records(lists: Iterable[Sequence[Records]], scale: Scale, size: int) -> Iterator[Batch]:
    """Yield batches of at most ``size`` records, and ``EMPTY_BATCH`` for each empty list."""
    for found in lists:
        if not found:
            yield EMPTY_BATCH
        for records in found:
            for start in range(0, len(records), size):
                some = records.take(np.arange(start, min(start + size, len(records))))
                yield Batch(scale(some.features).astype(np.float32), records=some)
