"""Choose records that are worth a label: a random part, and those that teach the most.

The random part is drawn from all rows, each with the same probability, so that shares among its records estimate shares
of the traffic without bias. The informative part is for training and for proposing thresholds; nothing may be estimated
from it, because it holds what the network finds difficult.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from utils.verdicts import Verdicts

MOST_ALIKE: Final = 3
"""Records that look the same are labelled so often before others have their turn.

With the same answers of both exits they very likely have the same features, so that one more label teaches little.
"""

RowArray = NDArray[np.intp]


@dataclass(frozen=True)
class Choice:
    """Chosen rows.

    Attributes:
        rows: (n,) ascending, numbers of rows from 0.
        is_random: (n,) bool; the others are informative.
        weight: number of rows that each random one stands for.
    """

    rows: RowArray
    is_random: NDArray[np.bool_]
    weight: float

    def __len__(self) -> int:
        return len(self.rows)


def choose_rows(verdicts: Verdicts, count: int, random_share: float, seed: int) -> Choice:
    """Choose rows that are worth a label.

    Args:
        verdicts: of N rows.
        count: number of rows to choose; if there are no more, all are chosen, as random ones.
        random_share: share of them that is random.
        seed: of the random choice, also among rows that are equally informative.
    """
    if count >= len(verdicts):
        return Choice(np.arange(len(verdicts)), np.ones(len(verdicts), dtype=np.bool_), 1.0)
    shuffled = np.random.default_rng(seed).permutation(len(verdicts))
    randoms = round(random_share * count)
    informative = order_by_information(verdicts, shuffled[:randoms], shuffled[randoms:])[: count - randoms]
    rows = np.concatenate((shuffled[:randoms], informative))
    order = np.argsort(rows)
    return Choice(rows[order], order < randoms, len(verdicts) / randoms if randoms else 0.0)


def order_by_information(verdicts: Verdicts, labelled: RowArray, others: RowArray) -> RowArray:
    """Return rows in the order in which their labels teach the most.

    Rejected rows come before accepted ones, and then the less certain first. Of rows with equal answers of both exits,
    ``MOST_ALIKE`` have their place in this order, those that are labelled anyway counted; as many again follow after
    all other rows, and so on.

    Args:
        verdicts: of N rows.
        labelled: (m,) rows that get a label anyway.
        others: (k,) rows to put in order; equally informative ones stay in this order.

    Returns:
        (k,) all of ``others``.
    """
    ordered = others[np.lexsort((verdicts.certainty[others], ~verdicts.is_rejected[others]))]
    together = np.concatenate((labelled, ordered))
    turn = _count_alike_before(verdicts, together)[len(labelled) :] // MOST_ALIKE
    return ordered[np.argsort(turn, kind="stable")]


def _count_alike_before(verdicts: Verdicts, rows: RowArray) -> NDArray[np.int64]:
    """Return, for each of the rows (n,), how many of those in front of it have equal answers (n,)."""
    answers = (verdicts.prediction_1, verdicts.certainty_1, verdicts.prediction_2, np.nan_to_num(verdicts.certainty_2))
    columns = np.stack([column[rows].astype(np.float64) for column in answers])
    order = np.lexsort(columns)  # stable: equal answers stay in the order of the rows
    in_order = columns[:, order]
    is_first = np.concatenate(([True], (in_order[:, 1:] != in_order[:, :-1]).any(axis=0)))
    places = np.arange(len(rows))
    counts = np.empty(len(rows), dtype=np.int64)
    counts[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return counts
