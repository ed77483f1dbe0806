"""Batches of events on their way to a verdict, from datasets or from traffic, and back together with their verdicts."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offload.edge import Edge
from offload.exits import FloatArray
from offload.verdicts import Verdicts
from utils.dataset import Dataset
from utils.records import Records
from utils.schema import FEATURE_COUNT
from utils.stopping import Stop


@dataclass(frozen=True)
class Batch:
    """Events that are decided together.

    Attributes:
        features: (N, 58) float32, scaled.
        labels: (N,) int64, their classes; None where they are not known.
        records: whose features they are; None where that is not known.
    """

    features: FloatArray
    labels: NDArray[np.int64] | None = None
    records: Records | None = None

    def __len__(self) -> int:
        return len(self.features)


NOTHING = Batch(np.empty((0, FEATURE_COUNT), np.float32))
"""Comes where there are no events for a moment, so that what is under way can be looked after."""


def of_dataset(dataset: Dataset, start: int, size: int, stop: Stop) -> Iterator[Batch]:
    """Yield the rows of a dataset from ``start`` on, ``size`` at a time, until a stop is asked for."""
    for row in range(start, len(dataset), size):
        if stop.requested:
            return
        rows = slice(row, row + size)
        yield Batch(dataset.features[rows], None if dataset.labels is None else dataset.labels[rows])


def of_records(
    lists: Iterable[Sequence[Records]], scale: Callable[[NDArray[np.float64]], NDArray[np.float64]], size: int
) -> Iterator[Batch]:
    """Yield records as they come, at most ``size`` at a time, and ``NOTHING`` for each empty list.

    Args:
        lists: of records.
        scale: turns raw features (N, 58) into network inputs.
        size: of a batch.
    """
    for found in lists:
        if not found:
            yield NOTHING
        for records in found:
            for start in range(0, len(records), size):
                some = records.take(np.arange(start, min(start + size, len(records))))
                yield Batch(scale(some.features).astype(np.float32), records=some)


def decided(
    edge: Edge, batches: Iterable[Batch], window: int, stop: Stop, *, to_the_end: bool = False
) -> Iterator[tuple[Batch, Verdicts]]:
    """Yield each batch that holds events with the verdicts on them, as ``Edge.decide_all`` does."""
    undecided: deque[Batch] = deque()

    def features() -> Iterator[FloatArray]:
        for batch in batches:
            if len(batch):
                undecided.append(batch)
            yield batch.features

    for verdicts in edge.decide_all(features(), window, stop, to_the_end=to_the_end):
        yield undecided.popleft(), verdicts
