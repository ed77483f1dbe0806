"""The interface of a network's exits, which ONNX Runtime computes on CPUs and PyTorch on GPUs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from utils.schema import Thresholds

FloatArray = NDArray[np.float32]

ActivationsAt = Callable[[NDArray[np.intp]], FloatArray]
"""Returns the activations (k, C, H, W) behind segment 1 for the events in rows (k,)."""


class FirstExit(Protocol):
    """Segment 1 and exit 1."""

    def __call__(self, features: FloatArray, /) -> tuple[FloatArray, ActivationsAt]:
        """Return the calibrated logits (n, 2) float32 for features (n, 58), and a function for their activations."""


class SecondExit(Protocol):
    """Segment 2 and exit 2."""

    def compute_from_features(self, features: FloatArray, /) -> FloatArray:
        """Return the calibrated logits (n, 2) float32 for features (n, 58); this computes segment 1, too."""

    def compute_from_activations(self, activations: FloatArray, /) -> FloatArray:
        """Return the calibrated logits (n, 2) float32 for the activations (n, C, H, W) behind segment 1."""


@dataclass(frozen=True)
class Network:
    """A network that edge and worker can compute.

    Attributes:
        architecture: class name, as in ``models.ARCHITECTURES``.
        fingerprint: fingerprint of its weights; only a worker with the same one answers its requests.
        activation_shape: (C, H, W) behind segment 1.
        device: description of the device and the runtime.
        exit_1: segment 1 and exit 1.
        exit_2: segment 2 and exit 2; None if only workers have them.
        thresholds: default thresholds in the network's file, if there are any.
    """

    architecture: str
    fingerprint: str
    activation_shape: tuple[int, ...]
    device: str
    exit_1: FirstExit
    exit_2: SecondExit | None
    thresholds: Thresholds | None = None
