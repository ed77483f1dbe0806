"""Decide batches of events: exit 1, exit 2 for the uncertain ones, and the verdicts, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from offload.edge.batch import Batch
from offload.edge.drift_response import DriftResponse
from offload.edge.second_exit import CloudSecondExit, LocalSecondExit, Query
from offload.link.protocol import MAX_EVENTS
from offload.networks.cache import Cache, make_keys
from offload.networks.exits import ActivationsAt, FirstExit, FloatArray
from utils.classification_metrics import classify
from utils.dataset import find_distinct_vectors
from utils.decision import is_accepted
from utils.errors import CaptureError
from utils.schema import CLASS_COUNT, Thresholds
from utils.stopping import Stop

_POLL: Final = 0.05
_EMPTY_QUERY: Final = Query((), tuple)


@dataclass(frozen=True)
class Deciding:
    """What decides the batches of an edge until the next release.

    Attributes:
        exit_1: decides the events of which it is certain.
        thresholds: thresholds of both exits.
        second_exit: decides the other events.
        cache: logits of both exits; None: vectors that repeat in another batch are computed again.
        drift: watches the events; None: they are not watched.
        release: name of the release; empty: the network is of none.
    """

    exit_1: FirstExit
    thresholds: Thresholds
    second_exit: CloudSecondExit | LocalSecondExit
    cache: Cache | None = None
    drift: DriftResponse | None = None
    release: str = ""


@dataclass(frozen=True)
class _Pending:
    """A batch with its columns of exit 1, whose other columns wait for exit 2.

    Attributes:
        deciding: what decides the batch, also if the edge has changed over since.
        batch: the batch to fill.
        vector_index: (N,) index of each event's vector among the n uncertain distinct ones; -1 if exit 1 was certain.
        keys: keys of the n uncertain vectors in the cache.
        distrusted: (n,) whether the traffic has changed so that the vector must not be accepted.
        logits: (n, 2) logits of exit 2 from the cache; NaN if they are not cached.
        missing: (k,) indices of the vectors that are not cached.
        query: query about the missing vectors.
    """

    deciding: Deciding
    batch: Batch
    vector_index: NDArray[np.intp]
    keys: list[bytes]
    distrusted: NDArray[np.bool_]
    logits: FloatArray
    missing: NDArray[np.intp]
    query: Query


class Edge:
    """Decides batches of events.

    Args:
        exit_1, thresholds, second_exit, cache, drift, release: as in ``Deciding``, for the first batches.
    """

    def __init__(
        self,
        exit_1: FirstExit,
        thresholds: Thresholds,
        second_exit: CloudSecondExit | LocalSecondExit,
        cache: Cache | None = None,
        drift: DriftResponse | None = None,
        release: str = "",
    ) -> None:
        self._deciding = Deciding(exit_1, thresholds, second_exit, cache, drift, release)
        self._latest: tuple[Deciding, Callable[[], object]] = self._deciding, lambda: None

    @property
    def thresholds(self) -> Thresholds:
        """Thresholds of both exits for the next batch."""
        return self._deciding.thresholds

    def change_to(self, deciding: Deciding, on_change: Callable[[], object]) -> None:
        """Decide the batches that are not begun with another network; safe in any thread, and returns at once.

        Args:
            deciding: decides them, with the same client. Its cache must not hold logits of another network.
            on_change: called between two batches, in the thread that decides.
        """
        self._latest = deciding, on_change

    def _change_over(self) -> None:
        deciding, on_change = self._latest
        if deciding is not self._deciding:
            self._deciding = deciding
            on_change()

    def decide(self, batch: Batch) -> Batch:
        """Fill the verdict columns of one batch, and return it; waits for replies."""
        self._change_over()
        return self._finish(self._begin(batch))

    def decide_all(
        self, batches: Iterable[Batch], window: int, stop: Stop, *, to_the_end: bool = False
    ) -> Iterator[Batch]:
        """Yield the batches with their verdicts, in order, while exit 1 of later batches is computed.

        Args:
            batches: batches to decide; an empty one is not yielded, but finished batches are then yielded.
            window: most requests in flight; a batch that needs more of them is decided alone.
            stop: ends the wait for replies.
            to_the_end: after the stop, decide the pending batches without the cloud; otherwise leave them undecided.

        Raises:
            CloudError: ``second_exit`` raised it.
            CaptureError: ``batches`` raised it; it is raised after the earlier batches were yielded.
        """
        pending: deque[_Pending] = deque()
        problem: CaptureError | None = None
        coming = iter(batches)
        while True:
            try:
                batch = next(coming, None)
            except CaptureError as raised:
                batch, problem = None, raised
            while pending and (batch is None or _must_finish_oldest(pending, len(batch), window)):
                if pending[0].query.wait(_POLL):  # not longer: replies to later batches make room, too
                    yield self._finish(pending.popleft())
                elif stop.is_over:
                    if not to_the_end:
                        return
                    pending[0].deciding.second_exit.give_up()
            if batch is None:
                break
            self._change_over()
            if to_the_end and stop.is_over:
                coming = iter(())  # only the pending batches are still decided
            elif len(batch):
                pending.append(self._begin(batch))
        if problem is not None:
            raise problem

    def _begin(self, batch: Batch) -> _Pending:
        """Compute exit 1 of the distinct vectors, and query exit 2 about the uncertain ones."""
        deciding = self._deciding
        batch.release = deciding.release
        first, vector_index = find_distinct_vectors(batch.features)
        vectors = batch.features[first]
        keys = [] if deciding.cache is None else make_keys(vectors)
        known = None if deciding.cache is None else deciding.cache.find(keys)
        logits, computed, activations = self._compute_exit_1(vectors, keys, known)
        prediction, certainties = classify(logits)
        batch.prediction_1[:], batch.certainty_1[:] = prediction[vector_index], certainties[vector_index]
        limits = deciding.thresholds
        distrusted = self._find_distrusted(vectors, prediction, certainties, vector_index)
        is_uncertain = distrusted | ~is_accepted(prediction, certainties, limits.normal_exit_1, limits.attack_exit_1)
        uncertain = np.flatnonzero(is_uncertain)
        among_uncertain = np.where(is_uncertain, np.cumsum(is_uncertain) - 1, -1)
        logits_2, missing = self._look_up_exit_2(known, uncertain)
        query = _EMPTY_QUERY
        if len(missing):
            chosen = uncertain[missing]
            query = deciding.second_exit.ask(
                vectors[chosen],
                lambda rows: _select_activations(deciding.exit_1, vectors, computed, activations, chosen[rows]),
            )
        keys = [keys[row] for row in uncertain.tolist()] if keys else []
        return _Pending(
            deciding, batch, among_uncertain[vector_index], keys, distrusted[uncertain], logits_2, missing, query
        )

    def _find_distrusted(
        self,
        vectors: FloatArray,
        prediction: NDArray[np.int64],
        certainties: NDArray[np.floating],
        vector_index: NDArray[np.intp],
    ) -> NDArray[np.bool_]:
        if self._deciding.drift is None:
            return np.zeros(len(prediction), dtype=np.bool_)
        return self._deciding.drift.find_distrusted(vectors, prediction, certainties, np.bincount(vector_index))

    def _compute_exit_1(
        self, vectors: FloatArray, keys: list[bytes], known: FloatArray | None
    ) -> tuple[FloatArray, NDArray[np.intp], ActivationsAt]:
        """Return the logits (D, 2) of exit 1, the computed rows, and a function for the activations of these rows."""
        exit_1, cache = self._deciding.exit_1, self._deciding.cache
        if cache is None or known is None:
            logits, activations = exit_1(vectors)
            return logits, np.arange(len(vectors)), activations
        logits = known[:, 0]
        missing = cache.find_missing(1, logits)
        if len(missing) == 0:
            return logits, missing, _no_activations
        logits[missing], activations = exit_1(vectors[missing])
        cache.put([keys[row] for row in missing.tolist()], 1, logits[missing])
        return logits, missing, activations

    def _look_up_exit_2(
        self, known: FloatArray | None, uncertain: NDArray[np.intp]
    ) -> tuple[FloatArray, NDArray[np.intp]]:
        """Return the cached logits (n, 2) of exit 2 of the uncertain vectors, and which of these are missing."""
        cache = self._deciding.cache
        if cache is None or known is None or len(uncertain) == 0:
            return np.full((len(uncertain), CLASS_COUNT), np.nan, dtype=np.float32), np.arange(len(uncertain))
        logits = known[uncertain, 1]
        return logits, cache.find_missing(2, logits)

    def _finish(self, pending: _Pending) -> Batch:
        """Wait for replies, and fill the columns of exit 2."""
        deciding, batch, logits = pending.deciding, pending.batch, pending.logits
        if len(logits) == 0:
            return batch
        answered_by = np.full(len(logits), deciding.second_exit.answered_by, dtype="U8")
        failure = np.full(len(logits), "", dtype="U32")
        for rows, found, decider, code in pending.query.collect():
            vectors = pending.missing[rows]
            logits[vectors], answered_by[vectors], failure[vectors] = found, decider, code
            if deciding.cache is not None and not code:
                deciding.cache.put([pending.keys[vector] for vector in vectors.tolist()], 2, found)
        prediction, certainties = classify(logits)
        is_unanswered = np.isnan(certainties)
        limits = deciding.thresholds
        accepted = is_accepted(prediction, certainties, limits.normal_exit_2, limits.attack_exit_2)
        events = np.flatnonzero(pending.vector_index >= 0)
        vector_index = pending.vector_index[events]
        batch.uncertain[events] = True
        batch.prediction_2[events] = np.where(is_unanswered, -1, prediction)[vector_index]
        batch.certainty_2[events] = certainties[vector_index]
        batch.answered_by[events], batch.failure[events] = answered_by[vector_index], failure[vector_index]
        batch.rejected[events] = (pending.distrusted | is_unanswered | ~accepted)[vector_index]
        batch.drifted[events] = pending.distrusted[vector_index]
        return batch


def _must_finish_oldest(pending: Sequence[_Pending], events: int, window: int) -> bool:
    """Return whether the oldest pending batch has all replies, or leaves no room for another batch of ``events``."""
    in_flight = sum(one.query.count_pending() for one in pending)
    return (
        pending[0].query.count_pending() == 0
        or in_flight - (-events // MAX_EVENTS) > window
        or events + sum(len(one.batch) for one in pending) > window * MAX_EVENTS
    )


def _select_activations(
    exit_1: FirstExit,
    vectors: FloatArray,
    computed: NDArray[np.intp],
    activations: ActivationsAt,
    chosen: NDArray[np.intp],
) -> FloatArray:
    """Return the activations of chosen vectors; segment 1 of vectors with a cached exit 1 is computed again."""
    is_computed = np.isin(chosen, computed)
    if is_computed.all():
        return activations(np.searchsorted(computed, chosen))
    cached = np.flatnonzero(~is_computed)
    _, activations_of_cached = exit_1(vectors[chosen[cached]])
    again = activations_of_cached(np.arange(len(cached)))
    selected = np.empty((len(chosen), *again.shape[1:]), dtype=np.float32)
    selected[cached] = again
    if is_computed.any():
        selected[is_computed] = activations(np.searchsorted(computed, chosen[is_computed]))
    return selected


def _no_activations(_rows: NDArray[np.intp]) -> FloatArray:
    """Stand in for the activations if exit 1 of all vectors was cached."""
    raise AssertionError("nothing was computed")
