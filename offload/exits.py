"""What client and worker need of a network's exits, whether ONNX Runtime computes them (CPU) or PyTorch (GPU)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from utils.schema import Thresholds

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class AtExit1:
    """What exit 1 says of n events.

    Attributes:
        logits: (n, 2) float32, calibrated.
        activations: returns those behind segment 1, (k, C, H, W) float32, of the events at some places (k,).
    """

    logits: FloatArray
    activations: Callable[[NDArray[np.intp]], FloatArray]


class FirstExit(Protocol):
    """Exit 1 on the edge."""

    def __call__(self, features: FloatArray, /) -> AtExit1:
        """Compute it for features (n, 58)."""


class OwnSecondExit(Protocol):
    """Exit 2 on the edge itself."""

    def of_features(self, features: FloatArray, /) -> FloatArray:
        """Return the logits (n, 2) float32 for features (n, 58); segment 1 is computed too."""

    def of_activations(self, activations: FloatArray, /) -> FloatArray:
        """Return the logits (n, 2) float32 for the activations (n, C, H, W) behind segment 1."""


@dataclass(frozen=True)
class Network:
    """A network as client and worker have it.

    Attributes:
        architecture: class name, as in ``models.ARCHITECTURES``.
        fingerprint: of its weights; only a worker with the same answers for it.
        activation_shape: (C, H, W) behind segment 1.
        device: what computes it, for people.
        exit_1: is computed for every event.
        exit_2: None where only workers have it.
        thresholds: least certainties that its file names, if it does.
    """

    architecture: str
    fingerprint: str
    activation_shape: tuple[int, ...]
    device: str
    exit_1: FirstExit
    exit_2: OwnSecondExit | None
    thresholds: Thresholds | None = None
