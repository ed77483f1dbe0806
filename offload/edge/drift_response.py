"""What the edge does when the watch gives an alarm: warn, tighten or reject."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from offload.defaults import REJECT, TIGHTEN
from offload.networks.exits import FloatArray
from utils.drift_watch import Alarm, DriftWatch
from utils.traffic_reference import Reference, compute_scores


class DriftResponse:
    """Watches the events of an edge, and names those that must not be accepted any more.

    Vectors that the reference distrusts are never accepted.

    Args:
        reference: what the traffic looked like when the thresholds were certified.
        mode: after an alarm, what is no longer accepted. ``warn``: nothing. ``tighten``: events of a category whose
            share has risen. ``reject``: all events.
        on_alarm: called once for each category that has changed.
    """

    def __init__(self, reference: Reference, mode: str, on_alarm: Callable[[Alarm], object]) -> None:
        self._watch = DriftWatch(reference)
        self._mode = mode
        self._on_alarm = on_alarm
        self._has_alarm = False
        self._distrusted = np.zeros(len(reference.shares), dtype=np.bool_)
        self._distrusted[list(reference.distrusted)] = True

    def find_distrusted(
        self,
        vectors: FloatArray,
        prediction: NDArray[np.int64],
        certainty: NDArray[np.floating],
        counts: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Watch a batch of events; return which of its distinct vectors (n,) must not be accepted.

        Args:
            vectors: (n, 58) float32, the distinct vectors.
            prediction: (n,) of exit 1.
            certainty: (n,) of the predictions.
            counts: (n,) number of events of each vector.
        """
        categories = self._watch.reference.find_categories(vectors, compute_scores(prediction, certainty))
        for alarm in self._watch.observe(categories, counts):
            self._has_alarm = True
            self._on_alarm(alarm)
        refused = self._distrusted.copy()
        if self._mode == TIGHTEN:
            refused |= self._watch.risen
        elif self._mode == REJECT and self._has_alarm:
            refused[:] = True
        return refused[categories]
