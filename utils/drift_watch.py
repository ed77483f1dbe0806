"""Watch, without labels, whether traffic still looks like the reference: a sequential test that may run forever.

Hypothesis: at every event, given all events before, each category of ``traffic_reference`` has a share within the
tolerance of its reference share. While it is true, the probability that the watch ever gives an alarm is at most
``FALSE_ALARMS``, however long it runs. Bursts of similar events violate it, even if they even out.

Method: for the upper limit u of a share and an alternative r > u, the likelihood ratio of "the share is r" to "it is u"
is a nonnegative supermartingale under the hypothesis, and so is a mixture over alternatives and over the event with
which the change began (an e-process; G. Shafer and others, "Test martingales, Bayes factors and p-values", Statistical
Science 26(1), 2011; for changes, J. Shin, A. Ramdas and A. Rinaldo, "E-detectors", 2022). The weights of the first
changed event, 1 / (t (t + 1)) for event t, add up to 1, and by Ville's inequality the mixture ever exceeds 1 / a with
probability at most a. The lower limits are tested likewise. The sum of the a of all tests is ``FALSE_ALARMS``.

What no watch of this kind can see: a vector whose labels change while its share stays.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from utils.traffic_reference import Reference

FALSE_ALARMS: Final = 0.01
ALTERNATIVES: Final = (0.02, 0.06, 0.15, 0.35)
"""Distances of the alternatives from the limit."""
MEMORY: Final = 200
"""Events after which the weight of an event in the reported share is halved."""

_SURE: Final = 1e-9  # an alternative this close to 0 or 1 would turn one event into certainty


@dataclass(frozen=True)
class Alarm:
    """A category whose share has left the tolerance.

    Attributes:
        category: its number.
        is_vector: whether it is a frequent vector; otherwise a range of scores.
        share: its share of the latest events.
        reference: its share of the reference rows.
        events: number of events that had been watched.
    """

    category: int
    is_vector: bool
    share: float
    reference: float
    events: int

    def describe(self) -> str:
        """Return a sentence about the change."""
        what = f"frequent vector {self.category + 1} is" if self.is_vector else "a range of scores of exit 1 has"
        return (
            f"drift after {self.events} events: {what} {100 * self.share:.0f} % of the latest events, "
            f"and {100 * self.reference:.0f} % in the reference"
        )


class DriftWatch:
    """Watches events in the order of their arrival; memory and work do not grow.

    Args:
        reference: the categories and their shares.
        false_alarms: probability of any alarm while all shares stay within the tolerance.

    Attributes:
        risen: (categories,) bool, whether an alarm was given because a share has risen.
        fallen: likewise.
        events: number of events so far.
    """

    def __init__(self, reference: Reference, false_alarms: float = FALSE_ALARMS) -> None:
        self.reference = reference
        shares, tolerance = reference.shares, reference.tolerance
        self.risen, self.fallen = (np.zeros(len(shares), dtype=np.bool_) for _ in range(2))
        self.events = 0
        upper, lower = np.minimum(shares + tolerance, 1 - _SURE), np.maximum(shares - tolerance, _SURE)
        distances = np.array(ALTERNATIVES)
        above = np.clip(upper[:, np.newaxis] + distances, None, 1 - _SURE)
        below = np.clip(lower[:, np.newaxis] - distances, _SURE, None)
        limits, alternatives = np.stack((upper, lower))[:, :, np.newaxis], np.stack((above, below))
        # Logarithms of the likelihood ratio of an event in the category, and of one outside: (2, categories, R).
        self._inside = np.log(alternatives / limits)
        self._outside = np.log((1 - alternatives) / (1 - limits))
        # A share cannot fall below the lower limit where that is 0; nor rise above 1.
        self._is_tested = np.stack((shares + tolerance < 1, shares - tolerance > 0))
        self._evidence = np.full(self._inside.shape, -np.inf)  # logarithms
        self._needed = np.log(max(int(self._is_tested.sum()), 1) * len(ALTERNATIVES) / false_alarms)
        self._recent, self._recent_events = np.zeros(len(shares)), 0.0

    def observe(self, categories: NDArray[np.intp], counts: NDArray[np.int64]) -> list[Alarm]:
        """Add a batch of events, and return the new alarms.

        Args:
            categories: (n,) of distinct vectors, see ``Reference.find_categories``.
            counts: (n,) number of events of each.
        """
        seen = np.bincount(categories, counts, len(self.reference.shares))
        batch = int(counts.sum())
        if batch == 0:
            return []
        # The sum of the weights of this batch's events, 1 / (events + 1) - 1 / (events + batch + 1).
        start = np.log(batch) - np.log(self.events + 1) - np.log(self.events + batch + 1)
        inside = seen[np.newaxis, :, np.newaxis]
        self._evidence = np.logaddexp(self._evidence, start) + inside * self._inside + (batch - inside) * self._outside
        self.events += batch
        kept = 0.5 ** (batch / MEMORY)
        self._recent, self._recent_events = kept * self._recent + seen, kept * self._recent_events + batch
        changed = (self._evidence.max(axis=2) >= self._needed) & self._is_tested
        new = np.flatnonzero((changed[0] & ~self.risen) | (changed[1] & ~self.fallen))
        self.risen |= changed[0]
        self.fallen |= changed[1]
        return [self._make_alarm(int(category)) for category in new]

    def _make_alarm(self, category: int) -> Alarm:
        share = float(self._recent[category] / self._recent_events)
        is_vector = category < len(self.reference.vectors)
        return Alarm(category, is_vector, share, float(self.reference.shares[category]), self.events)


def watch_rows(
    reference: Reference, features: NDArray[np.float32], scores: NDArray[np.floating], batch_size: int
) -> tuple[NDArray[np.bool_], int]:
    """Watch rows in batches, as a client does with ``--on-drift tighten``.

    Args:
        reference: what they are compared with.
        features: (N, 58) float32, in the order of their arrival.
        scores: (N,) of exit 1.
        batch_size: rows that are watched before any of them is decided.

    Returns:
        (N,) whether the row must not be accepted; and the number of rows until the first alarm, 0 without one.
    """
    watch = DriftWatch(reference)
    categories = reference.find_categories(features, scores)
    is_refused = np.isin(categories, reference.distrusted)
    until_alarm = 0
    for start in range(0, len(features), batch_size):
        batch = categories[start : start + batch_size]
        alarms = watch.observe(batch, np.ones(len(batch), dtype=np.int64))
        if alarms and not until_alarm:
            until_alarm = alarms[0].events
        is_refused[start : start + batch_size] |= watch.risen[batch]
    return is_refused, until_alarm
