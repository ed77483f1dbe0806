"""Sources of the client's events: their interface, and the rows of a dataset."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from tqdm import tqdm

from offload.edge.batch import Batch
from offload.edge.edge import Edge
from offload.edge.offload_csv import OffloadCsv, Table
from offload.edge.resume_file import Facts, digest_dataset
from utils.dataset import Dataset
from utils.drift_watch import Alarm
from utils.stopping import Stop

log = logging.getLogger(__name__)


class Source(Protocol):
    """A source of events.

    Attributes:
        labelled: whether the true classes are known.
        resumable: whether another run can decide the events that are left undecided.
    """

    labelled: bool
    resumable: bool

    def open(self, edge: Edge, stop: Stop, /) -> AbstractContextManager[Iterable[Batch]]:
        """Return a block with the batches to decide, until a stop is requested."""

    def save(self, savefile: OffloadCsv, columns: Table, /) -> None:
        """Append the rows of a decided batch to the offload CSV."""

    def handle_decided(self, batch: Batch, /) -> None:
        """Count a decided batch, and write its alerts."""

    def handle_drift(self, alarm: Alarm, /) -> None:
        """Write that the traffic has changed to where alerts are written."""

    def log_summary(self, stop: Stop, /) -> None:
        """Log a summary of the source at the end of a run."""


class DatasetSource:
    """The rows of a dataset.

    Args:
        rows: the whole dataset.
        savefile: the offload CSV, if there is one.
        network: facts on the network that determine the verdicts; see ``offload.edge.resume_file``. Thresholds among
            them take the place of the edge's.
        resumes: whether to continue the offload CSV of an interrupted run.
        batch_size: rows of a batch.
    """

    resumable = True

    def __init__(
        self, rows: Dataset, savefile: OffloadCsv | None, network: Facts, *, resumes: bool, batch_size: int
    ) -> None:
        self.labelled = rows.labels is not None
        self._rows, self._savefile, self._network = rows, savefile, network
        self._resumes, self._batch_size = resumes, batch_size
        self._done = 0

    @contextmanager
    def open(self, edge: Edge, stop: Stop, /) -> Iterator[Iterable[Batch]]:
        """See ``Source``."""
        rows = self._rows
        if self._savefile is not None:
            facts = {"thresholds": vars(edge.thresholds), **self._network, "dataset": digest_dataset(rows)}
            self._done = self._savefile.begin(facts, len(rows), resumes=self._resumes)
        with tqdm(total=len(rows), initial=self._done, desc="events", unit="event", disable=None) as self._bar:
            yield split_dataset(rows, self._done, self._batch_size, stop)

    def save(self, savefile: OffloadCsv, columns: Table, /) -> None:
        """See ``Source``; a full disk ends the run, because another run can continue the file."""
        savefile.append(columns)

    def handle_decided(self, batch: Batch, /) -> None:
        """See ``Source``."""
        self._done += len(batch)
        self._bar.update(len(batch))

    def handle_drift(self, _alarm: Alarm, /) -> None:
        """See ``Source``; a dataset has no alerts."""

    def log_summary(self, stop: Stop, /) -> None:
        """See ``Source``."""
        if stop.requested:
            hint = "; continue with --resume" if self._savefile else ""
            log.warning("stopped after %d of %d events%s", self._done, len(self._rows), hint)


def split_dataset(dataset: Dataset, start: int, size: int, stop: Stop) -> Iterator[Batch]:
    """Yield the rows of a dataset from ``start`` on, ``size`` at a time, until a stop is requested."""
    for row in range(start, len(dataset), size):
        if stop.requested:
            return
        rows = slice(row, row + size)
        yield Batch(dataset.features[rows], None if dataset.labels is None else dataset.labels[rows])
