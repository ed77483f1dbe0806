"""What the edge computes: exit 1, who is asked about the uncertain events, and the verdict on each, in order."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from offload.exits import AtExit1, FirstExit, FloatArray
from offload.protocol import MAX_EVENTS
from offload.second_exit import Asked, SecondExit
from offload.verdicts import Verdicts
from utils.classification_metrics import certainty
from utils.dataset import distinct_vectors
from utils.decision import is_accepted
from utils.errors import CaptureError
from utils.schema import EDGE, Thresholds
from utils.stopping import Stop

_POLL: Final = 0.05


@dataclass(frozen=True)
class Undecided:
    """A batch of which exit 1 is done and exit 2's answers are on their way.

    Attributes:
        place: (N,) which of the D distinct events each event equals.
        prediction_1, certainty_1: (D,) of exit 1.
        rows: (n,) which of the distinct events are uncertain.
        asked: about those; None where there are none.
    """

    place: NDArray[np.intp]
    prediction_1: NDArray[np.int64]
    certainty_1: NDArray[np.float64]
    rows: NDArray[np.intp]
    asked: Asked | None

    def __len__(self) -> int:
        return len(self.place)

    def under_way(self) -> int:
        """Return how many requests have no answer yet."""
        return 0 if self.asked is None else self.asked.under_way()

    def wait(self, seconds: float) -> bool:
        """Wait at most that long; return whether the batch can be decided."""
        return self.asked is None or self.asked.wait(seconds)


class Edge:
    """Decides batches of events.

    Args:
        exit_1: is computed for all of them.
        thresholds: least certainties.
        second_exit: is asked about the events that exit 1 is not certain of.
    """

    def __init__(self, exit_1: FirstExit, thresholds: Thresholds, second_exit: SecondExit) -> None:
        self._exit_1 = exit_1
        self._thresholds = thresholds
        self._second_exit = second_exit

    def decide(self, features: FloatArray) -> Verdicts:
        """Return the verdicts on one batch of features (N, 58) float32."""
        return self.finish(self.begin(features))

    @property
    def thresholds(self) -> Thresholds:
        """The least certainties."""
        return self._thresholds

    def decide_all(
        self, batches: Iterable[FloatArray], window: int, stop: Stop, *, to_the_end: bool = False
    ) -> Iterator[Verdicts]:
        """Yield the verdicts on each batch, in order, while exit 1 of later batches goes on.

        Args:
            batches: features (N, 58) float32; with an empty one, nothing is begun, but what is answered comes out.
            window: requests under way at once at most; one batch may need more of them, but only alone.
            stop: ends in the end the waiting for answers.
            to_the_end: what then waits is decided without the cloud, but no more is begun; else it is left undecided.

        Raises:
            CloudError: what ``second_exit`` raises.
            CaptureError: what ``batches`` raises, after the verdicts on what came before.
        """
        undecided: deque[Undecided] = deque()
        problem: CaptureError | None = None
        events = 0
        coming = iter(batches)
        while True:
            try:
                features = next(coming)
            except StopIteration:
                break
            except CaptureError as raised:
                problem = raised
                break
            requests = -(-len(features) // MAX_EVENTS)  # at most
            while undecided and (
                undecided[0].under_way() == 0
                or sum(batch.under_way() for batch in undecided) + requests > window
                or events + len(features) > window * MAX_EVENTS
            ):
                if undecided[0].wait(_POLL):  # not longer: later answers make room too
                    events -= len(undecided[0])
                    yield self.finish(undecided.popleft())
                elif stop.is_over:
                    if not to_the_end:
                        return
                    self._second_exit.give_up()
            if to_the_end and stop.is_over:
                break
            if len(features):
                undecided.append(self.begin(features))
                events += len(features)
        while undecided:
            if undecided[0].wait(_POLL):
                yield self.finish(undecided.popleft())
            elif stop.is_over:
                if not to_the_end:
                    return
                self._second_exit.give_up()
        if problem is not None:
            raise problem

    def begin(self, features: FloatArray) -> Undecided:
        """Compute exit 1 of features (N, 58) and ask about the uncertain events, each distinct one once."""
        first, place = distinct_vectors(features)
        events = features[first]
        at_exit_1: AtExit1 = self._exit_1(events)
        prediction_1, certainty_1 = certainty(at_exit_1.logits)
        rows = np.flatnonzero(self._is_uncertain(prediction_1, certainty_1))
        if len(rows) == 0:
            return Undecided(place, prediction_1, certainty_1, rows, None)
        asked = self._second_exit(events[rows], lambda places: at_exit_1.activations(rows[places]))
        return Undecided(place, prediction_1, certainty_1, rows, asked)

    def _is_uncertain(self, prediction: NDArray[np.int64], certainties: NDArray[np.float64]) -> NDArray[np.bool_]:
        limits = self._thresholds
        return ~is_accepted(prediction, certainties, limits.normal_exit_1, limits.attack_exit_1)

    def finish(self, batch: Undecided) -> Verdicts:
        """Return the verdicts on a batch; waits for its answers.

        Raises:
            CloudError: what ``second_exit`` raises.
        """
        count, rows = len(batch.prediction_1), batch.rows
        prediction_2, certainty_2 = np.full(count, -1, dtype=np.int64), np.full(count, np.nan)
        answered_by, failure = np.full(count, EDGE, dtype="U8"), np.full(count, "", dtype="U32")
        rejected, uncertain = np.zeros(count, dtype=np.bool_), np.zeros(count, dtype=np.bool_)
        if batch.asked is not None:
            answers = batch.asked.answers()
            uncertain[rows] = True
            answered_by[rows], failure[rows] = answers.answered_by, answers.failure
            silent = np.isnan(answers.logits).any(axis=1)
            prediction, certainties = certainty(answers.logits)
            prediction_2[rows] = np.where(silent, -1, prediction)
            certainty_2[rows] = certainties
            limits = self._thresholds
            accepted = is_accepted(prediction, certainties, limits.normal_exit_2, limits.attack_exit_2)
            rejected[rows] = silent | ~accepted
        columns = (
            batch.prediction_1, batch.certainty_1, prediction_2, certainty_2, uncertain, answered_by, failure, rejected
        )  # fmt: skip
        return Verdicts(*(columns if len(batch) == 1 else (column[batch.place] for column in columns)))
