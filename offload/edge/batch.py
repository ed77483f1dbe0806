"""Events that are decided together, with their verdicts: one table of columns from the source to the output."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from offload.networks.exits import FloatArray
from utils.records import Records
from utils.schema import ATTACK, CERTAIN, CLASS_NAMES, DRIFT, EDGE, FEATURE_COUNT, REJECTED, UNCERTAIN


@dataclass(eq=False)
class Batch:
    """N events. The source sets the first three columns, ``offload.edge.edge.Edge`` fills the others in place.

    Attributes:
        features: (N, 58) float32, scaled.
        labels: (N,) int64, true classes; None if they are unknown.
        records: records of the events; None for the rows of a dataset.
        prediction_1, certainty_1: (N,) int64 and float64, of exit 1.
        prediction_2, certainty_2: (N,) int64 and float64, of exit 2; -1 and NaN if it has no answer.
        uncertain: (N,) bool, whether exit 1 was not certain enough.
        answered_by: (N,) text, where the last exit that answered was computed: ``edge`` (exit 1), ``cloud`` or
            ``local`` (exit 2); empty if exit 2 was needed and did not answer.
        failure: (N,) text, code of the reason why the cloud did not answer; empty otherwise.
        rejected: (N,) bool, whether exit 2 was needed, and was not certain enough or did not answer; or ``drifted``.
        drifted: (N,) bool, whether the event was not accepted because the traffic has changed.
        release: name of the release whose network decides the batch; empty without releases.
    """

    features: FloatArray
    labels: NDArray[np.int64] | None = None
    records: Records | None = None
    prediction_1: NDArray[np.int64] = field(init=False)
    certainty_1: NDArray[np.float64] = field(init=False)
    prediction_2: NDArray[np.int64] = field(init=False)
    certainty_2: NDArray[np.float64] = field(init=False)
    uncertain: NDArray[np.bool_] = field(init=False)
    answered_by: NDArray[np.str_] = field(init=False)
    failure: NDArray[np.str_] = field(init=False)
    rejected: NDArray[np.bool_] = field(init=False)
    drifted: NDArray[np.bool_] = field(init=False)
    release: str = field(init=False, default="")

    def __post_init__(self) -> None:
        count = len(self.features)
        self.prediction_1, self.prediction_2 = np.full(count, -1), np.full(count, -1)
        self.certainty_1, self.certainty_2 = np.full(count, np.nan), np.full(count, np.nan)
        self.uncertain, self.rejected, self.drifted = (np.zeros(count, dtype=np.bool_) for _ in range(3))
        self.answered_by, self.failure = np.full(count, EDGE, dtype="U8"), np.full(count, "", dtype="U32")

    def __len__(self) -> int:
        return len(self.features)

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Whether exit 2 answered (N,)."""
        return self.prediction_2 >= 0

    @property
    def prediction(self) -> NDArray[np.int64]:
        """The final prediction (N,): that of exit 2 if it answered, otherwise that of exit 1."""
        return np.where(self.answered, self.prediction_2, self.prediction_1)

    @property
    def certainty(self) -> NDArray[np.float64]:
        """The certainty (N,) of the final prediction."""
        return np.where(self.answered, self.certainty_2, self.certainty_1)

    @property
    def decider(self) -> NDArray[np.str_]:
        """The decider (N,): ``edge``, ``cloud``, ``local``, or ``rejected``."""
        return np.where(self.rejected, REJECTED, self.answered_by)

    @property
    def reason(self) -> NDArray[np.str_]:
        """The reason for the verdict (N,): certain, uncertain, drift, or the code of the cloud's failure."""
        certain = np.where(self.drifted, DRIFT, np.where(self.rejected, UNCERTAIN, CERTAIN))
        has_failed = (self.failure != "") & (~self.rejected | ~self.answered)
        return np.where(has_failed, self.failure, certain)

    def count_deciders(self) -> Counter[tuple[str, str]]:
        """Return the events by (decider, verdict), the verdict being ``normal``, ``attack`` or ``rejected``."""
        verdicts = np.where(self.rejected, REJECTED, np.where(self.prediction == ATTACK, *reversed(CLASS_NAMES)))
        return Counter(zip(self.decider.tolist(), verdicts.tolist(), strict=True))


EMPTY_BATCH = Batch(np.empty((0, FEATURE_COUNT), np.float32))
"""A source yields this batch while it has no events, so that the edge can collect replies."""
