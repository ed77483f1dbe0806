"""The exits of a network as PyTorch computes them, on the edge and at a worker."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.checkpoint import fingerprint, read_two_exits
from models.early_exit import TwoExits
from models.packing import pack_layers
from models.prediction import describe_device, select_device
from offload.exits import AtExit1, FloatArray, Network
from offload.service import CHUNK
from utils.dataset import to_images

EDGE_CHUNK: Final = 32
"""Events of one pass of exit 1 by default: of more, MobileNetV2's activations leave the processor's cache and cost up
to 9 times as much an event; of fewer, the fixed cost of a pass shows."""


def open_checkpoint(
    path: Path, family: str | None, device_name: str, threads: int | None = None, chunk: int = EDGE_CHUNK
) -> Network:
    """Return the network of a checkpoint (.pth).

    Args:
        path: of the checkpoint.
        family: that it must be of, as in ``models.FAMILIES``.
        device_name: where it is to run.
        threads: that PyTorch computes with in this process; None: what it chooses.
        chunk: events of one pass of exit 1 at most.

    Raises:
        CheckpointError: as ``models.checkpoint.read_two_exits``.
        DeviceError: there is no such device.
    """
    device = select_device(device_name)
    if threads is not None:
        torch.set_num_threads(threads)
    network, checkpoint = read_two_exits(path, family)
    network.to(device)
    pack_layers(network)
    exit_1, exit_2 = Exit1(network, device, chunk), Exit2(network, device)
    return Network(checkpoint.architecture.name, fingerprint(network), describe_device(device), exit_1, exit_2)


class Exit1:
    """Computes exit 1, with the activations at hand for whoever asks about uncertain events.

    Args:
        network: in evaluation mode, on ``device``.
        device: where it runs.
        chunk: events of one forward pass at most.
    """

    def __init__(self, network: TwoExits, device: torch.device, chunk: int = EDGE_CHUNK) -> None:
        self._network = network
        self._device = device
        self._chunk = chunk

    def __call__(self, features: FloatArray, /) -> AtExit1:
        """Compute it for features (n, 58)."""
        images = torch.from_numpy(to_images(features))
        with torch.inference_mode():
            chunks = [self._network.edge(chunk.to(self._device)) for chunk in torch.split(images, self._chunk)]
            logits = torch.cat([logits for _, logits in chunks]).float().cpu().numpy()

        def activations(rows: NDArray[np.intp]) -> FloatArray:
            with torch.inference_mode():
                chosen = torch.cat([part for part, _ in chunks])[torch.from_numpy(rows).to(self._device)]
                return chosen.float().cpu().numpy()

        return AtExit1(logits, activations)


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
