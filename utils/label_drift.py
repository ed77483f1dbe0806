"""Find, by the labels of two months, the frequent vectors whose labels are changing.

All events with one vector get one answer. While the labels of a frequent vector change, that answer is more often wrong
than any network can know, and no certainty shows it. A vector that became wrong more often from one labelled month to
the next is not trusted until a later month shows that its labels are stable again.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from utils.dataset import find_distinct_vectors
from utils.labelled_rows import LabelledRows
from utils.traffic_reference import LEAST_SHARE, MAX_VECTORS

LEVEL: Final = 0.001
"""Probability, for each frequent vector with stable labels, that it is reported."""

IntArray = NDArray[np.int64]


def find_unstable_vectors(before: LabelledRows, after: LabelledRows, level: float = LEVEL) -> NDArray[np.float32]:
    """Return the frequent vectors of a month (k, 58) that have become wrong more often since the month before.

    An event is wrong if its label is not the one that most events with its vector had before. Test: if the labels of a
    vector are stable, then of its wrong events in both months, those in the later one are a random choice of its
    events, so that their number is hypergeometric (R. A. Fisher's exact test, one-sided).

    Args:
        before: labelled rows of a month.
        after: labelled rows of a later month; those of its vectors are tested that ``traffic_reference`` counts as
            frequent.
        level: largest probability of the observed number, or more, with which a vector is reported.
    """
    vectors = np.concatenate((before.features, after.features))
    first, vector_index = find_distinct_vectors(vectors)
    labels = np.concatenate((before.labels, after.labels))
    is_after = np.arange(len(vectors)) >= len(before)

    def count(chosen: NDArray[np.bool_]) -> IntArray:
        return np.bincount(vector_index[chosen], minlength=len(first))

    events_before, events_after = count(~is_after), count(is_after)
    attacks_before, attacks_after = count(~is_after & (labels == 1)), count(is_after & (labels == 1))
    most_are_attacks = 2 * attacks_before >= events_before
    wrong_before = np.where(most_are_attacks, events_before - attacks_before, attacks_before)
    wrong_after = np.where(most_are_attacks, events_after - attacks_after, attacks_after)
    order = np.argsort(-events_after, kind="stable")[:MAX_VECTORS]
    tested = order[(events_after[order] >= LEAST_SHARE * len(after)) & (events_before[order] > 0)]
    both, wrong = (events_before + events_after)[tested], (wrong_before + wrong_after)[tested]
    probability = hypergeom.sf(wrong_after[tested] - 1, both, wrong, events_after[tested])
    unstable: NDArray[np.float32] = vectors[first[tested[probability <= level]]]
    return unstable
