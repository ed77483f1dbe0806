"""Compute both exits for a whole dataset with PyTorch; ``models.cpu_network`` does the same with ONNX Runtime."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.early_exit import TwoExits
from models.repeats import Progress as Progress
from models.repeats import compute_each_once
from utils.dataset import to_images
from utils.errors import DeviceError
from utils.schema import AUTO

ONNX, TORCH = "onnx", "torch"
RUNTIMES: Final = {ONNX: "ONNX Runtime", TORCH: "PyTorch"}


def no_progress(_rows: int) -> None:
    """Ignore the progress."""


def select_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is CUDA if PyTorch finds a GPU, else the CPU.

    Raises:
        DeviceError: the name is not auto, cpu, cuda or cuda:N, or this machine has no such device.
    """
    if name == AUTO:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in {"cpu", "cuda"} or (device.type == "cpu" and device.index):
            raise RuntimeError
    except RuntimeError as problem:
        raise DeviceError(f"--device {name!r} is unknown. Use auto, cpu, cuda or cuda:N.") from problem
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise DeviceError(f"--device {name}: this machine shows {count} CUDA devices to PyTorch. Use --device cpu.")
    return device


def choose_runtime(name: str | None, device: torch.device) -> str:
    """Return ``name``, a key of ``RUNTIMES``; for None, return ONNX on the CPU and TORCH on a GPU.

    Raises:
        DeviceError: ONNX Runtime is named for a GPU.
    """
    if device.type != "cpu" and name == ONNX:
        raise DeviceError(
            f"--runtime onnx: computes on the CPU only, not on {device}. Use --runtime torch, or --device cpu."
        )
    return name or (ONNX if device.type == "cpu" else TORCH)


def describe_device(device: torch.device, runtime: str | None = None) -> str:
    """Return a description of a device, such as ``cuda (NVIDIA A2)`` or ``cpu (threads: 4)``.

    Args:
        device: the device.
        runtime: a key of ``RUNTIMES``, to name the runtime too, as in ``cpu (ONNX Runtime, threads: 4)``.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"threads: {torch.get_num_threads()}"
    return f"{device} ({name if runtime is None else f'{RUNTIMES[runtime]}, {name}'})"


def iterate_batches(
    features: NDArray[np.float32], batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[Tensor]:
    """Yield features (N, 58) as images (at most batch_size, 1, 8, 8) float32 on the device, in order."""
    for start in range(0, len(features), batch_size):
        yield torch.from_numpy(to_images(features[start : start + batch_size])).to(device)


def predict(
    network: TwoExits,
    features: NDArray[np.float32],
    batch_size: int,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the logits of both exits, each (N, 2) float32, and compute repeated rows only once.

    Args:
        network: in evaluation mode, on the device.
        features: (N, 58) float32; copied in parts, so they may be mapped from a file.
        batch_size: distinct rows per forward pass.
        device: the device that computes the logits.
        progress: called after each pass with the number of rows that it completed, including repeated ones.
    """

    def compute(events: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        logits_1, logits_2 = network(torch.from_numpy(to_images(events)).to(device))
        return logits_1.float().cpu().numpy(), logits_2.float().cpu().numpy()

    with torch.inference_mode():
        return compute_each_once(features, batch_size, compute, progress)
