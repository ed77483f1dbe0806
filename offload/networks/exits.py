"""The exits of a network as edge and worker use them, whether ONNX Runtime computes them (CPU) or PyTorch (GPU)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from utils.schema import Thresholds

FloatArray = NDArray[np.float32]

ActivationsAt = Callable[[NDArray[np.intp]], FloatArray]
"""Returns the activations (k, C, H, W) behind segment 1 of the events at some rows (k,)."""


class FirstExit(Protocol):
    """Segment 1 and exit 1."""

    def __call__(self, features: FloatArray, /) -> tuple[FloatArray, ActivationsAt]:
        """Return the calibrated logits (n, 2) float32 for features (n, 58), and what returns their activations."""


class SecondExit(Protocol):
    """Segment 2 and exit 2."""

    def compute_from_features(self, features: FloatArray, /) -> FloatArray:
        """Return the calibrated logits (n, 2) float32 for features (n, 58); segment 1 is computed, too."""

    def compute_from_activations(self, activations: FloatArray, /) -> FloatArray:
        """Return the calibrated logits (n, 2) float32 for the activations (n, C, H, W) behind segment 1."""


@dataclass(frozen=True)
class Network:
    """A network that edge and worker can compute.

    Attributes:
        architecture: class name, as in ``models.ARCHITECTURES``.
        fingerprint: of its weights; only a worker with the same fingerprint answers for it.
        activation_shape: (C, H, W) behind segment 1.
        device: what computes it, for people.
        exit_1: is computed for every event.
        exit_2: None where only workers have it.
        thresholds: the default thresholds in its file, if there are any.
    """

    architecture: str
    fingerprint: str
    activation_shape: tuple[int, ...]
    device: str
    exit_1: FirstExit
    exit_2: SecondExit | None
    thresholds: Thresholds | None = None
