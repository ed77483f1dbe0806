"""Judge a renewed network against the one that it was trained from, on labelled rows that neither has seen.

The loss of an event is 1 if it is accepted and wrong, ``reject_cost`` if it is rejected, and 0 otherwise (C. K. Chow,
"On optimum recognition error and reject tradeoff", IEEE Transactions on Information Theory 16(1), 1970). So a network
is better if it errs less, or rejects less, as long as it does not pay too much for it with the other.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dnn.defaults import REJECT_COST
from utils.decision import Decisions

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 2000

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Judgement:
    """A comparison of two networks on the same rows.

    Attributes:
        rows: number of rows.
        loss: mean loss of the challenger.
        difference: mean loss of the challenger minus that of the champion; below 0, the challenger is better.
        low, high: interval of the difference.
    """

    rows: int
    loss: float
    difference: float
    low: float
    high: float

    @property
    def is_better(self) -> bool:
        """Whether the whole interval says that the challenger is better."""
        return self.high < 0


def compute_losses(decided: Decisions, reject_cost: float = REJECT_COST) -> FloatArray:
    """Return the loss (N,) of each event."""
    is_wrong = decided.predictions != decided.labels
    losses: FloatArray = np.where(decided.at_1 | decided.at_2, is_wrong.astype(np.float64), reject_cost)
    return losses


def judge(challenger: FloatArray, champion: FloatArray, seed: int, resamples: int = RESAMPLES) -> Judgement:
    """Compare the losses (N,) of two networks about the same rows.

    The interval is that of a paired bootstrap over rows, by percentiles: both networks are given, and what varies is
    which events come.

    Args:
        challenger: losses of the renewed network.
        champion: losses of the network that it was trained from.
        seed: of the bootstrap.
        resamples: number of its samples.

    Raises:
        ValueError: there are no rows.
    """
    differences = challenger - champion
    if not len(differences):
        raise ValueError("no rows to judge on")
    # Equal differences are drawn together: there are only a few values.
    values, counts = np.unique(differences, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(differences), counts / len(differences), resamples)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn @ values / len(differences), (tail, 1 - tail))
    return Judgement(len(differences), float(challenger.mean()), float(differences.mean()), float(low), float(high))
