"""Renew a network: continue its training on the labelled months so far, of which the latest weigh most.

The weight of a month is ``DECAY`` to the power of its age. An epoch draws that share of its rows anew, so that the rows
of old months are seen less often, not less strongly. Training starts from the network that is to be renewed, whose
input transform is kept. The temperatures are found on rows that training has not seen.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from dnn.defaults import EPOCHS
from dnn.training import Trainer, TrainingSettings, choose_batch_size
from models.calibrated import CalibratedNetwork
from models.cpu_network import compute_logits
from models.early_exit import EarlyExitNetwork, TwoExits
from models.prediction import Progress, no_progress
from utils.classification_metrics import classify
from utils.labelled_rows import DECAY, LabelledRows
from utils.results import Evaluation

LEARNING_RATES: Final = {"AlexNetWithExits": 2e-4, "MobileNetV2WithExits": 1e-3}
"""Peaks of the learning rate, lower than those of a training that starts anew, by the name of the network's class."""

BATCH_SIZE: Final = 1000

Costs = tuple[float, float, float, float]
"""Seconds of an event in segment 1, exit 1, segment 2 and exit 2."""
EQUAL_COSTS: Final[Costs] = (1.0, 1.0, 1.0, 1.0)

Calibrate = Callable[[NDArray[np.float32], NDArray[np.int64]], float]
"""Returns the temperature of an exit from its logits (N, 2) and the labels (N,)."""


@dataclass(frozen=True)
class RenewalSettings:
    """How a network is renewed.

    Attributes:
        seed: of the draws of rows, their order and dropout.
        epochs: draws of rows to train on.
        decay: see ``DECAY``.
        learning_rate: peak of the one-cycle schedule; None: that of ``LEARNING_RATES``.
    """

    seed: int = 1
    epochs: int = EPOCHS
    decay: float = DECAY
    learning_rate: float | None = None


def count_draws(sizes: Sequence[int], decay: float) -> list[int]:
    """Return how many rows an epoch draws of each month, from the numbers of their rows, in order of time."""
    return [round(size * decay**age) for age, size in zip(reversed(range(len(sizes))), sizes, strict=True)]


def draw_epoch(sizes: Sequence[int], draws: Sequence[int], seed: int, epoch: int) -> NDArray[np.intp]:
    """Return the indices (M,) of the rows of an epoch in the rows of all months together."""
    generator = np.random.default_rng((seed, epoch))
    starts = np.cumsum([0, *sizes[:-1]])
    drawn = [
        start + generator.choice(size, count, replace=False)
        for start, size, count in zip(starts, sizes, draws, strict=True)
    ]
    return np.concatenate(drawn)


def renew(
    network: TwoExits,
    months: Sequence[LabelledRows],
    held_back: LabelledRows,
    calibrate: Calibrate,
    settings: RenewalSettings,
    progress: Progress = no_progress,
) -> CalibratedNetwork:
    """Return a new network that was trained further; ``network`` is left as it is.

    Args:
        network: on the CPU or a GPU, where the training then runs.
        months: labelled rows to train on, in order of time.
        held_back: labelled rows that the temperatures are found on; they must not be among ``months``.
        calibrate: finds a temperature.
        settings: how the network is renewed.
        progress: called with the number of rows of each step.

    Raises:
        ValueError: no rows are left to train on, or to calibrate on.
    """
    sizes = [len(month) for month in months]
    draws = count_draws(sizes, settings.decay)
    if not sum(draws) or not len(held_back):
        raise ValueError(f"{sum(draws)} rows to train on, {len(held_back)} to calibrate on")
    inner = copy.deepcopy(network.model if isinstance(network, CalibratedNetwork) else network)
    assert isinstance(inner, EarlyExitNetwork)
    _train(inner.requires_grad_(True), months, sizes, draws, settings, progress)
    inner.eval().requires_grad_(False).cpu()
    exits = compute_logits(inner, held_back.features, BATCH_SIZE, torch.device("cpu"))
    return (
        CalibratedNetwork(inner, [calibrate(logits, held_back.labels) for logits in exits]).eval().requires_grad_(False)
    )


def _train(
    network: EarlyExitNetwork,
    months: Sequence[LabelledRows],
    sizes: Sequence[int],
    draws: Sequence[int],
    settings: RenewalSettings,
    progress: Progress,
) -> None:
    rows = sum(draws)
    features = np.concatenate([month.features for month in months])
    labels = np.concatenate([month.labels for month in months])
    rate = settings.learning_rate or LEARNING_RATES[type(network).__name__]
    training = TrainingSettings(
        epochs=settings.epochs, batch_size=choose_batch_size(BATCH_SIZE, rows), learning_rate=rate, seed=settings.seed
    )
    trainer = Trainer(network, training, rows)
    for epoch in range(settings.epochs):
        drawn = draw_epoch(sizes, draws, settings.seed, epoch)
        trainer.train_one_epoch(features, labels, progress, drawn)


def answer(network: TwoExits, rows: LabelledRows, costs: Costs = EQUAL_COSTS) -> Evaluation:
    """Return the answers of both exits of a network on the CPU, with the same costs for all rows."""
    logits = compute_logits(network, rows.features, BATCH_SIZE, torch.device("cpu"))
    (first, certain), (second, certain_2) = (classify(one) for one in logits)
    segment_1, exit_1, segment_2, exit_2 = (np.full(len(rows), cost) for cost in costs)
    return Evaluation(
        rows.labels, first, certain.astype(np.float64), segment_1, exit_1, second, certain_2.astype(np.float64),
        segment_2, exit_2,
    )  # fmt: skip


class RenewableNetwork:
    """A network that answers labelled rows, and can be renewed.

    Args:
        network: calibrated.
        name: family of the network.
        seed: of its training.
        costs: of its parts.
        calibrate: finds a temperature.
        settings: how the network is renewed; each renewal takes the next seed.
        progress: called with the number of rows of each step of a training.
    """

    def __init__(
        self,
        network: TwoExits,
        name: str,
        seed: str,
        costs: Costs,
        calibrate: Calibrate,
        settings: RenewalSettings,
        progress: Progress = no_progress,
    ) -> None:
        self.network = network
        self.name = name
        self.seed = seed
        self._costs = costs
        self._calibrate = calibrate
        self._settings = settings
        self._progress = progress

    def answer(self, rows: LabelledRows) -> Evaluation:
        """Return the answers of both exits."""
        return answer(self.network, rows, self._costs)

    def renew(self, months: Sequence[LabelledRows], held_back: LabelledRows) -> "RenewableNetwork":
        """Return the renewed network; see ``renew``."""
        network = renew(self.network, months, held_back, self._calibrate, self._settings, self._progress)
        settings = replace(self._settings, seed=self._settings.seed + 1)
        return RenewableNetwork(network, self.name, self.seed, self._costs, self._calibrate, settings, self._progress)
