"""Small months and networks to evaluate."""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from evaluations.months import Month, make_month
from models.calibrated import CalibratedNetwork
from models.prediction import predict
from models.preprocessing import fit_quantile_transform
from tests.models import small
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


def network(seed: int = 0) -> CalibratedNetwork:
    """Return an untrained network with two exits whose answers and certainties differ from row to row."""
    untrained, (features, _) = small.with_two_exits(seed=seed).eval().requires_grad_(False), rows_of(1)
    untrained.transform = fit_quantile_transform(features)
    margins = [np.subtract(*logits.T) for logits in predict(untrained, features, 1000)]
    for head, margin in zip(untrained.exits, margins, strict=True):
        last = [module for module in head.modules() if isinstance(module, nn.Linear)][-1]
        last.bias[0] -= float(np.median(margin))
    return CalibratedNetwork(untrained, [float(np.std(margin)) / 2 for margin in margins]).eval().requires_grad_(False)
