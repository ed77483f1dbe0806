"""Open the network of a checkpoint: ONNX Runtime computes its exits on the CPU, PyTorch on a GPU."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.checkpoint import compute_fingerprint, read_two_exits
from models.cpu_network import NO_INT8, open_halves
from models.early_exit import TwoExits
from models.onnx_runtime import EDGE_PASS_SIZE
from models.prediction import describe_device, select_device
from offload.defaults import MAX_BATCH
from offload.networks.exits import ActivationsAt, FloatArray, Network
from offload.networks.onnx_exits import make_network
from utils.dataset import to_images
from utils.errors import DeviceError


def open_checkpoint(
    path: Path, family: str | None, device_name: str, threads: int | None = None, chunk: int = EDGE_PASS_SIZE,
    most: int | None = None, *, int8: bool = False,
) -> Network:  # fmt: skip
    """Return the network of a checkpoint (.pth).

    Args:
        path: checkpoint file.
        family: family that the network must have, as in ``models.FAMILIES``; None: any.
        device_name: device to compute on.
        threads: threads on the CPU; None: as many as PyTorch chooses.
        chunk: most events of one pass of exit 1.
        most: most events of one pass of exit 2; on the CPU, a pass has fewer if the network is faster that way.
        int8: whether the large linear layers of exit 2 multiply 8-bit integers, on the CPU.

    Raises:
        CheckpointError: as ``models.checkpoint.read_two_exits``, or the network gains nothing from int8.
        DeviceError: there is no such device, or int8 is requested on a GPU.
    """
    device = select_device(device_name)
    network, _ = read_two_exits(path, family)
    return open_network(network, device, threads, chunk, most, int8=int8)


def open_network(
    network: TwoExits, device: torch.device, threads: int | None = None, chunk: int = EDGE_PASS_SIZE,
    most: int | None = None, *, int8: bool = False,
) -> Network:  # fmt: skip
    """Return the exits of a network in evaluation mode; arguments as in ``open_checkpoint``."""
    threads = torch.get_num_threads() if threads is None else threads
    if device.type == "cpu":
        return make_network(*open_halves(network, threads, chunk, most, int8=int8), threads)
    if int8:
        raise DeviceError(NO_INT8)
    network.to(device)
    inner = getattr(network, "model", network)
    return Network(
        type(inner).__name__, compute_fingerprint(network), network.activation_shape(), describe_device(device),
        Exit1(network, device, chunk), Exit2(network, device, most or MAX_BATCH),
    )  # fmt: skip


class Exit1:
    """Computes exit 1 with PyTorch, and keeps the activations for uncertain events.

    Args:
        network: network in evaluation mode, on ``device``.
        device: device to compute on.
        chunk: most events of one forward pass.
    """

    def __init__(self, network: TwoExits, device: torch.device, chunk: int = EDGE_PASS_SIZE) -> None:
        self._network = network
        self._device = device
        self._chunk = chunk

    def __call__(self, features: FloatArray, /) -> tuple[FloatArray, ActivationsAt]:
        """See ``FirstExit``."""
        images = torch.from_numpy(to_images(features))
        with torch.inference_mode():
            chunks = [self._network.edge(chunk.to(self._device)) for chunk in torch.split(images, self._chunk)]
            logits = torch.cat([logits for _, logits in chunks]).float().cpu().numpy()

        def select_activations(rows: NDArray[np.intp]) -> FloatArray:
            with torch.inference_mode():
                chosen = torch.cat([part for part, _ in chunks])[torch.from_numpy(rows).to(self._device)]
                return chosen.float().cpu().numpy()

        return logits, select_activations


class Exit2:
    """Computes exit 2 with PyTorch, in passes of equal size.

    Args:
        network: network in evaluation mode, on ``device``.
        device: device to compute on.
        chunk: most events of one forward pass.
    """

    def __init__(self, network: TwoExits, device: torch.device, chunk: int = MAX_BATCH) -> None:
        self._network = network
        self._device = device
        self._chunk = chunk

    def compute_from_features(self, features: FloatArray) -> FloatArray:
        """Return the logits (n, 2) float32 for features (n, 58); this computes segment 1, too."""
        network = self._network
        return self._run_in_chunks(to_images(features), lambda images: network.cloud(network.segment_1(images)))

    def compute_from_activations(self, activations: FloatArray) -> FloatArray:
        """Return the logits (n, 2) float32 for the activations (n, C, H, W) behind segment 1."""
        return self._run_in_chunks(activations, self._network.cloud)

    def _run_in_chunks(self, events: FloatArray, compute: Callable[[Tensor], Tensor]) -> FloatArray:
        chunks = np.array_split(events, -(-len(events) // self._chunk))
        with torch.inference_mode():
            logits = torch.cat([compute(torch.from_numpy(chunk).to(self._device)) for chunk in chunks])
            return logits.float().cpu().numpy()
