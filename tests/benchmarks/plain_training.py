"""Training and calibration as one would write them from their description: no row left out, float32, eager.

Known of the published recipe are Adam and a calibration of 80 epochs of 10 LBFGS iterations for each exit; the rest
here is the plainest way to do it: a DataLoader over a Dataset that hands out one row at a time, every row through the
whole network, both losses added. To compare like with like, the plain training takes from our recipe what changes the
loss but hardly the cost of a row: input transform, initialisation, batch size, one-cycle learning rate, AdamW's decay,
label smoothing, clipped gradients. What is left between the two is how the same steps are computed. The published
recipe's own batch size is not known; with another one, its epoch costs something else.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from dnn.training import TrainingSettings
from tests.benchmarks.plain_network import FloatArray, PlainNetwork, images_of


class Rows(Dataset[tuple[Tensor, int]]):
    """Rows of a month, one at a time, as images (1, 8, 8) and labels."""

    def __init__(self, features: FloatArray, labels: NDArray[np.int64]) -> None:
        self._features, self._labels = features, labels

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return images_of(self._features[number][None])[0], int(self._labels[number])


class PlainTraining:
    """A training run.

    Args:
        network: to train, in place.
        settings: batch size, rates and seed.
        rows: what to train on.
    """

    def __init__(self, network: PlainNetwork, settings: TrainingSettings, rows: Rows) -> None:
        self._network, self._settings = network.requires_grad_(True), settings
        torch.manual_seed(settings.seed)
        self._loader = DataLoader(rows, settings.batch_size, shuffle=True)
        self._optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, settings.learning_rate, total_steps=settings.epochs * len(self._loader)
        )

    def train_one_epoch(self) -> None:
        """Train on every row once."""
        self._network.train()
        for images, labels in self._loader:
            exits = self._network(images)
            smoothing = self._settings.label_smoothing
            loss = torch.stack(
                [functional.cross_entropy(logits, labels, label_smoothing=smoothing) for logits in exits]
            ).sum()
            self._optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._network.parameters(), self._settings.gradient_clip)
            self._optimiser.step()
            self._schedule.step()
        self._network.eval()


def calibrate(
    network: PlainNetwork, features: FloatArray, labels: NDArray[np.int64], batch_size: int, epochs: int = 80
) -> tuple[float, ...]:
    """Return the temperature of each exit, by LBFGS on the likelihood, 10 iterations an epoch."""
    logits: list[tuple[Tensor, ...]] = []
    loader = DataLoader(Rows(features, labels), batch_size)
    with torch.no_grad():
        for images, _ in loader:
            logits.append(network(images))
    targets = torch.from_numpy(labels)
    return tuple(temperature(torch.cat(parts), targets, epochs) for parts in zip(*logits, strict=True))


def temperature(logits: Tensor, labels: Tensor, epochs: int) -> float:
    """Return the temperature of least NLL for logits (N, 2) and labels (N,), where all epochs of LBFGS lead."""
    found = nn.Parameter(torch.ones(1))
    optimiser = torch.optim.LBFGS([found], max_iter=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(logits / found, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(epochs):
        optimiser.step(closure)  # type: ignore[no-untyped-call]
    return float(found.detach())
