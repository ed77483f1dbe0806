"""Small months and networks to evaluate."""

import numpy as np
from numpy.typing import NDArray

from evaluations.months import Month, make_month
from tests.networks import SAMPLE
from utils.dataset import read_labelled


def rows_of(number: int, rows: int = 120) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the first rows of a month of the bundled sample."""
    dataset, labels = read_labelled(SAMPLE.with_name(f"2016_{number:02}.csv"))
    return dataset.features[:rows], labels[:rows]


def month(number: int, training: Month | None = None, rows: int = 120) -> Month:
    """Return these rows as a month."""
    seen = None if training is None else training.features
    return make_month(f"2016_{number:02}", *rows_of(number, rows), seen)
