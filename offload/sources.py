"""Where a client's events come from, and what is told of them as they are decided."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from offload import logs
from offload.alert_limit import ATTACK_SIGNATURE, REJECTED_SIGNATURE, AlertLimit
from offload.alerts import AlertsFile
from offload.edge import Edge
from offload.events import Batch, of_dataset, of_records
from offload.losses import Losses, is_full
from offload.metrics import ClientMetrics
from offload.resume_file import Facts, dataset_digest
from offload.sensor import Seen, Sensor
from offload.verdicts import Verdicts
from offload.verdicts_file import Table, VerdictsFile
from utils.dataset import Dataset
from utils.errors import InputFileError
from utils.records import Records
from utils.schema import CLASS
from utils.stopping import Stop

log = logging.getLogger(__name__)


class Source(Protocol):
    """Where events come from.

    Attributes:
        labelled: whether their classes are known.
        resumable: whether what is left undecided can be decided another time.
    """

    labelled: bool
    resumable: bool

    def opened(self, edge: Edge, stop: Stop, /) -> AbstractContextManager[Iterable[Batch]]:
        """Return a block with the batches to decide, until a stop is asked for."""

    def save(self, savefile: VerdictsFile, rows: Table, /) -> None:
        """Add the rows of a batch to the file of verdicts."""

    def decided(self, batch: Batch, verdicts: Verdicts, /) -> None:
        """Take note of the verdicts on a batch."""

    def report(self, stop: Stop, /) -> None:
        """Log what is to be said at the end."""


class DatasetSource:
    """The rows of a dataset.

    Args:
        rows: all of them.
        savefile: where the verdicts go.
        network: what decides the verdicts besides dataset and thresholds; see ``offload.resume_file``.
        resumes: begin where that file ends.
        batch_size: rows of a batch.
    """

    resumable = True

    def __init__(
        self, rows: Dataset, savefile: VerdictsFile | None, network: Facts, *, resumes: bool, batch_size: int
    ) -> None:
        self.labelled = rows.labels is not None
        self._rows, self._savefile, self._network = rows, savefile, network
        self._resumes, self._batch_size = resumes, batch_size
        self._done = 0

    @contextmanager
    def opened(self, edge: Edge, stop: Stop, /) -> Iterator[Iterable[Batch]]:
        """See ``Source``."""
        rows = self._rows
        if self._savefile is not None:
            facts = {**self._network, "dataset": dataset_digest(rows), "thresholds": vars(edge.thresholds)}
            self._done = self._savefile.begin(facts, len(rows), resumes=self._resumes)
        with tqdm(total=len(rows), initial=self._done, desc="events", unit="event", disable=None) as self._bar:
            yield of_dataset(rows, self._done, self._batch_size, stop)

    def save(self, savefile: VerdictsFile, rows: Table, /) -> None:
        """See ``Source``; where there is no room, the run ends, for another can continue the file."""
        savefile.append(rows)

    def decided(self, batch: Batch, _verdicts: Verdicts, /) -> None:
        """See ``Source``."""
        self._done += len(batch)
        self._bar.update(len(batch))

    def report(self, stop: Stop, /) -> None:
        """See ``Source``."""
        if stop.requested:
            hint = "; go on with --resume" if self._savefile else ""
            log.warning("stopped after %d of %d events%s", self._done, len(self._rows), hint)


@dataclass(frozen=True)
class Observed:
    """Traffic under observation.

    Attributes:
        records: that are complete, in lists; an empty one whenever there are none for a moment.
        seen: returns the packets so far.
        summary: returns them as a line for people.
        is_live: whether it ends only when it is stopped.
    """

    records: Iterable[Sequence[Records]]
    seen: Callable[[], Seen]
    summary: Callable[[], str]
    is_live: bool


Observe = Callable[[Callable[[], bool]], AbstractContextManager[Observed]]
"""Begins to observe traffic, until what it is given says that it is over."""


@dataclass(frozen=True)
class Telling:
    """How alerts are told.

    Attributes:
        file: for the events, or ``alerts.STDOUT``, or None.
        most_rejected: alerts on rejected records of each window.
        most_per_source: alerts of each signature on records of one source address in each window; 0: unlimited.
        in_iface: the interface that the traffic comes from, if it does.
    """

    file: Path | None
    most_rejected: int
    most_per_source: int
    in_iface: str | None


class TrafficSource:
    """The flow records of traffic, and the alerts on them.

    Args:
        observe: the traffic.
        scale: turns raw features (N, 58) into network inputs.
        batch_size: records of a batch, at most.
        telling: how alerts are told.
        metrics: count packets and alerts.
    """

    labelled = resumable = False

    def __init__(
        self,
        observe: Observe,
        scale: Callable[[NDArray[np.float64]], NDArray[np.float64]],
        batch_size: int,
        telling: Telling,
        metrics: ClientMetrics,
    ) -> None:
        self._observe, self._scale, self._batch_size = observe, scale, batch_size
        self._telling, self._metrics = telling, metrics
        self._summary = ""
        self._begun = self._done = 0
        self._is_live = True

    @contextmanager
    def opened(self, _edge: Edge, stop: Stop, /) -> Iterator[Iterable[Batch]]:
        """See ``Source``."""
        telling = self._telling
        with ExitStack() as stack:
            file = None if telling.file is None else AlertsFile(telling.file, lambda: stop.is_over)
            if file is not None:
                stack.enter_context(file)
            traffic = stack.enter_context(self._observe(lambda: stop.requested))
            self._is_live = traffic.is_live
            # A capture can be read again once there is room; what passed an interface is gone.
            self._losses = Losses(self._metrics, lambda: self._is_live or stop.requested)
            limit = AlertLimit(telling.most_rejected, telling.most_per_source)
            self._sensor = Sensor(file, limit, self._losses, self._metrics, traffic.seen, telling.in_iface)
            self._sensor.tell_counts()  # whoever reads the events sees that it is there
            try:
                yield self._watched(of_records(traffic.records, self._scale, self._batch_size))
            finally:
                self._sensor.tell_counts()
                self._summary = traffic.summary()

    def _watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._sensor.look()
            self._begun += len(batch)
            yield batch

    def save(self, savefile: VerdictsFile, rows: Table, /) -> None:
        """See ``Source``; where there is no room, live traffic's rows are lost and counted, and later ones written."""
        try:
            savefile.append(rows)
        except InputFileError as problem:
            if not is_full(problem):
                raise
            self._losses.count("verdicts", len(rows[CLASS]), problem)

    def decided(self, batch: Batch, verdicts: Verdicts, /) -> None:
        """See ``Source``."""
        assert batch.records is not None
        self._done += len(batch)
        self._sensor.tell(batch.records, verdicts)

    def report(self, stop: Stop, /) -> None:
        """See ``Source``."""
        if self._begun > self._done:
            log.warning("%d records were not decided in time", self._begun - self._done)
        if stop.requested and not self._is_live:
            log.warning("stopped before the end of the captures")
        alerts, suppressed = self._sensor.alerts, self._sensor.suppressed
        logs.report(log, "traffic", self._summary)
        told = f"{alerts} alerts{_held_back(suppressed)}{self._losses.report()}"
        where = f" -> {self._telling.file}" if self._telling.file else ""
        unwritten = self._losses.lines
        logs.report(log, "alerts", f"{told}{where}", alerts=alerts, suppressed=dict(suppressed), unwritten=unwritten)


def _held_back(suppressed: Mapping[str, int]) -> str:
    """Return how many alerts a limit held back, as the end of a sentence."""
    if not any(suppressed.values()):
        return ""
    attacks, rejected = suppressed[ATTACK_SIGNATURE], suppressed[REJECTED_SIGNATURE]
    return f", suppressed by a limit: {attacks} on attacks, {rejected} on rejected records"
