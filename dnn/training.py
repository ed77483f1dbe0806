"""Train a network; if it has two exits, train both jointly.

The script dnn/train-early-exit-network.py applies He initialisation and an input transform that replaces features by
their ranks (models/preprocessing.py). This module uses AdamW with a one-cycle learning rate, gradient clipping and
label smoothing. Rows that repeat within a batch are computed once and weighted by their count. The gradient is the
same, except that repeated rows share a dropout mask. Several processes can train together (dnn/distributed.py).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dnn.distributed import ALONE, Ranks
from models.prediction import Progress, iterate_batches, no_progress
from utils.classification_metrics import accuracy
from utils.dataset import distinct_vectors, to_images
from utils.schema import CLASS_COUNT

LEAST_STEPS_AN_EPOCH = 36


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training run.

    Attributes:
        epochs: passes over the training rows.
        batch_size: rows per step.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: weight decay of AdamW.
        label_smoothing: share of each label that is spread over both classes. Equal vectors can have different labels,
            and labels drift from month to month; without smoothing, certainties are too high in the next month.
        gradient_clip: largest norm of the gradient of a step.
        seed: seed of the order of rows, and of dropout; the script also draws the initial weights with it.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01
    label_smoothing: float = 0.2
    gradient_clip: float = 1.0
    seed: int = 1


@dataclass(frozen=True)
class EpochResult:
    """Results of an epoch.

    Attributes:
        epoch: counted from 1.
        loss: mean training loss, summed over the exits, nats.
        held_back_loss: the same on the held-back rows. Epochs are ranked by it, because on a few hundred rows, losses
            differ clearly even if accuracies differ by only one or two rows.
        accuracies: accuracy of each exit on the held-back rows, within [0, 1].
    """

    epoch: int
    loss: float
    held_back_loss: float
    accuracies: tuple[float, ...]


def split_rows(labels: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the numbers of the rows to train on and to hold back; hold back the same share of each class.

    Args:
        labels: (N,) int64.
        share: share of rows to hold back, within (0, 1).
        seed: seed of the random choice.

    Raises:
        ValueError: no rows would be left to train on, or to hold back.
    """
    generator = np.random.default_rng(seed)
    held_back = []
    for label in range(CLASS_COUNT):
        rows = generator.permutation(np.flatnonzero(labels == label))
        held_back.append(rows[: round(share * len(rows))])
    validation = np.sort(np.concatenate(held_back))
    training = np.setdiff1d(np.arange(len(labels)), validation)
    if len(training) == 0 or len(validation) == 0:
        raise ValueError(f"{len(labels)} rows with {share:g} of them held back leave {len(training)} to train on")
    return training, validation


def choose_batch_size(batch_size: int, rows: int) -> int:
    """Return ``batch_size``, or a smaller size with which an epoch has at least 36 steps, if it has 36 rows."""
    return max(1, min(batch_size, rows // LEAST_STEPS_AN_EPOCH))


class Trainer:
    """A training run that can be stopped after any epoch and resumed with the same result.

    The random choices of an epoch depend only on the seed and the epoch's number; dropout also depends on the rank.

    Args:
        network: the network, which is trained in place.
        settings: settings of the run.
        rows: number of training rows, on which the learning-rate schedule depends.
        ranks: the processes that train together. Each must have the same network, settings, rows and data.
    """

    def __init__(self, network: nn.Module, settings: TrainingSettings, rows: int, ranks: Ranks = ALONE) -> None:
        self.network = network
        self._ranks = ranks
        self._joined = ranks.join(network)
        self.settings = settings
        self.epoch = 0
        self._rows = rows
        self._device = next(network.parameters()).device
        self._optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        steps = settings.epochs * math.ceil(rows / settings.batch_size)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, settings.learning_rate, total_steps=max(steps, 2)
        )

    def state(self) -> dict[str, Any]:
        """Return the plain values and tensors that ``restore`` needs."""
        return {
            "settings": asdict(self.settings),
            "rows": self._rows,
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": {key: value for key, value in self._schedule.state_dict().items() if not callable(value)},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Resume the run that ``state`` was taken from.

        Raises:
            KeyError, ValueError, RuntimeError: the state belongs to another run, network or version.
        """
        if state["settings"] != asdict(self.settings) or state["rows"] != self._rows:
            raise ValueError("settings or data differ")
        self.network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self.epoch = state["epoch"]

    def train_one_epoch(
        self,
        features: NDArray[np.float32],
        labels: NDArray[np.int64],
        progress: Progress = no_progress,
        rows: NDArray[np.intp] | None = None,
    ) -> float:
        """Train on every row once and return the mean loss in nats, summed over the exits.

        Args:
            features: (N, 58) float32; copied in batches, so they may be mapped from a file.
            labels: (N,) int64.
            progress: called with the number of rows of each step.
            rows: numbers of the rows to train on; None: all.

        Raises:
            PeerError: another process of the run ended or does not respond.
        """
        self.epoch += 1
        torch.manual_seed(self.settings.seed * 100_003 + self.epoch + (self._ranks.rank << 50))
        chosen = np.arange(len(features)) if rows is None else rows
        order = chosen[np.random.default_rng((self.settings.seed, self.epoch)).permutation(len(chosen))]
        self.network.train()
        total = 0.0
        with self._ranks.report_lost_peers():
            for start in range(0, len(order), self.settings.batch_size):
                batch = order[start : start + self.settings.batch_size]
                total += self._step(*count_distinct_rows(features[batch], labels[batch])) * len(batch)
                progress(len(batch))
        return self._ranks.average(total / len(order))

    def _step(self, features: NDArray[np.float32], counts: NDArray[np.float32]) -> float:
        features, shares = self._ranks.take_share(features, counts / counts.sum())
        images = torch.from_numpy(to_images(features)).to(self._device)
        weights = torch.from_numpy(shares).to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=is_bfloat16_fast(self._device)):
            outputs = self._joined(images)
        exits = outputs if isinstance(outputs, tuple) else (outputs,)
        smoothing = self.settings.label_smoothing
        loss = torch.stack([weighted_cross_entropy(logits, weights, smoothing) for logits in exits]).sum()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        # DistributedDataParallel has averaged the gradients, so every process clips the same gradient.
        nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.gradient_clip)
        self._optimiser.step()
        self._schedule.step()
        return float(loss.detach())


def count_distinct_rows(
    features: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the distinct vectors (U, 58) of a batch (N, 58) and their counts in each class (U, 2), float32."""
    first, place = distinct_vectors(features)
    counts = np.zeros((len(first), CLASS_COUNT), dtype=np.float32)
    np.add.at(counts, (place, labels), 1.0)
    return features[first], counts


def weighted_cross_entropy(logits: Tensor, weights: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy in nats, summed over rows, of logits (U, 2) with the weights of the classes (U, 2)."""
    smooth = weights.sum(dim=1, keepdim=True) * (label_smoothing / CLASS_COUNT)
    targets = weights * (1.0 - label_smoothing) + smooth
    return -(targets * functional.log_softmax(logits.float(), dim=1)).sum()


def is_bfloat16_fast(device: torch.device) -> bool:
    """Return whether the device computes matrix products faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def evaluate(
    network: nn.Module,
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    label_smoothing: float = 0.0,
    rows: NDArray[np.intp] | None = None,
) -> tuple[float, tuple[float, ...]]:
    """Return the loss summed over the exits, in nats, and each exit's accuracy.

    Args:
        network: a network with one exit or two; it is put into evaluation mode.
        features: (N, 58) float32; copied in batches.
        labels: (N,) int64.
        label_smoothing: as in training.
        rows: numbers of the rows to evaluate; None: all.
    """
    network.eval()
    device = next(network.parameters()).device
    chosen = np.arange(len(features)) if rows is None else rows
    batch_logits: list[tuple[Tensor, ...]] = []
    with torch.inference_mode():
        for start in range(0, len(chosen), 1000):
            (images,) = iterate_batches(features[chosen[start : start + 1000]], 1000, device)
            outputs = network(images)
            batch_logits.append(outputs if isinstance(outputs, tuple) else (outputs,))
    exits = [torch.cat(parts).float().cpu() for parts in zip(*batch_logits, strict=True)]
    expected = labels[chosen]
    targets = torch.from_numpy(expected)
    loss = sum(float(functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)) for logits in exits)
    return loss, tuple(accuracy(logits.argmax(dim=1).numpy(), expected) for logits in exits)
