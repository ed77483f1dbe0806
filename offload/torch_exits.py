"""Exit 2 of a network, wherever it runs: at a worker, or on an edge that the cloud does not answer."""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.early_exit import TwoExits
from utils.dataset import to_images

FloatArray = NDArray[np.float32]

CHUNK: Final = 64
"""Events of one forward pass by default: AlexNet's weights are read once for each, and MobileNetV2's activations still
fit into the processor's cache."""


class Exit2:
    """Computes exit 2 in passes of equal size, so that equal requests give equal answers on both sides.

    Args:
        network: in evaluation mode, on ``device``.
        device: where it runs.
        chunk: events of one forward pass at most.
    """

    def __init__(self, network: TwoExits, device: torch.device, chunk: int = CHUNK) -> None:
        self._network = network
        self._device = device
        self._chunk = chunk

    def of_features(self, features: FloatArray) -> FloatArray:
        """Return the logits (n, 2) float32 for features (n, 58); segment 1 is computed too."""
        return self._in_chunks(to_images(features), lambda images: self._network.cloud(self._network.segment_1(images)))

    def of_activations(self, activations: FloatArray) -> FloatArray:
        """Return the logits (n, 2) float32 for the activations (n, C, H, W) behind segment 1."""
        return self._in_chunks(activations, self._network.cloud)

    def _in_chunks(self, events: FloatArray, compute: Callable[[Tensor], Tensor]) -> FloatArray:
        chunks = np.array_split(events, -(-len(events) // self._chunk))
        with torch.inference_mode():
            logits = torch.cat([compute(torch.from_numpy(chunk).to(self._device)) for chunk in chunks])
            return logits.float().cpu().numpy()
