"""Compute a network on the CPU with ONNX Runtime, which runs graphs that are built in memory from the weights."""

import functools
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import nn

from models.calibrated import CalibratedNetwork, CalibratedSingleExit
from models.checkpoint import compute_fingerprint
from models.early_exit import EarlyExitNetwork, SingleExitNetwork, TwoExits
from models.mobilenet import MobileNetV2
from models.onnx_graph import (
    SMALLEST_INT8,
    FloatArray,
    Graph,
    append,
    append_first_exit,
    append_first_segment,
    append_transform,
)
from models.onnx_runtime import (
    ACTIVATIONS,
    FEATURES,
    LOGITS_1,
    LOGITS_2,
    FirstHalf,
    SecondHalf,
    choose_pass_size,
    compute_both,
    start_session,
)
from models.prediction import Progress, no_progress, predict
from models.preprocessing import QuantileTransform
from models.repeats import compute_each_once
from utils.errors import CheckpointError, DeviceError
from utils.schema import FEATURE_COUNT

NO_INT8: Final = (
    "--quantize: 8-bit integers are multiplied on the CPU only. Leave out --quantize, or choose --device cpu."
)

Compute = Callable[[FloatArray], FloatArray]
Metadata = dict[str, str]


def open_halves(
    network: TwoExits, threads: int | None = None, pass_size: int | None = None, most: int | None = None,
    *, int8: bool = False,
) -> tuple[FirstHalf, SecondHalf]:  # fmt: skip
    """Return both halves of a network for ONNX Runtime, which copies the weights.

    Args:
        network: a network of ``models.ARCHITECTURES``, in evaluation mode on the CPU.
        threads: threads per pass; None: as many as PyTorch uses.
        pass_size: largest number of events in a pass of the first half; None: as in ``onnx_runtime.PASS_SIZES``.
        most: as ``pass_size``, for the second half; a larger number than that in ``PASS_SIZES`` has no effect.
        int8: whether exit 2's large linear layers multiply 8-bit integers.

    Raises:
        CheckpointError: int8 makes the network no faster.
    """
    threads = torch.get_num_threads() if threads is None else threads
    return _open_halves(network, compute_fingerprint(network), threads, pass_size, most, int8=int8)


def _open_halves(
    network: TwoExits, digest: str, threads: int, pass_size: int | None = None, most: int | None = None, *, int8: bool
) -> tuple[FirstHalf, SecondHalf]:
    facts = type(_unwrap(network)[0]).__name__, digest, network.activation_shape()
    first, second = build_first_half(network), build_second_half(network, int8=int8)
    return (
        FirstHalf(*facts, pass_size or choose_pass_size(facts[0]), start_session(first, threads)),
        SecondHalf(*facts, choose_pass_size(facts[0], most), start_session(second, threads)),
    )


def compute_logits(
    network: TwoExits, features: FloatArray, batch_size: int, device: torch.device, progress: Progress = no_progress,
    *, int8: bool = False,
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Return the logits of both exits, each (N, 2) float32; ONNX Runtime computes them on the CPU, PyTorch on a GPU.

    Args:
        network: in evaluation mode, on the device.
        features: (N, 58) float32.
        batch_size: distinct rows per batch.
        device: the device that computes the logits.
        progress: called after each batch with the number of rows that it completed, including repeated ones.
        int8: whether exit 2's large linear layers multiply 8-bit integers, on the CPU.

    Raises:
        CheckpointError: int8 makes the network no faster.
        DeviceError: int8 is asked for on a GPU.
    """
    if device.type != "cpu":
        if int8:
            raise DeviceError(NO_INT8)
        return predict(network, features, batch_size, device, progress)
    # The fingerprint is not needed here, and computing it takes longer than AlexNet's first 100 rows.
    first, second = _open_halves(network, "", torch.get_num_threads(), int8=int8)
    return compute_each_once(features, batch_size, functools.partial(compute_both, first, second), progress)


def open_parts(network: TwoExits, threads: int | None = None) -> tuple[Compute, Compute, Compute, Compute]:
    """Return a function for each part, to time it: segment 1 with the input transform, exit 1, segment 2, exit 2.

    The arguments and the layers are those of ``open_halves``, but each part has its own session, and copies its input
    and output.
    """
    model, (temperature_1, temperature_2) = _unwrap(network)
    shape = network.activation_shape()
    segment_1, exit_1, segment_2, exit_2 = (Graph() for _ in range(4))
    activations = append_first_segment(segment_1, model.backbone[0], _append_transform(segment_1, model.transform))
    logits_1 = append_first_exit(exit_1, model.exits[0], ACTIVATIONS, temperature_1)
    deeper = append(segment_2, model.backbone[1], ACTIVATIONS)
    logits_2 = append(exit_2, model.exits[1], "deeper", temperature_2)
    return (
        _open_part(segment_1, FEATURES, (FEATURE_COUNT,), (activations, 4), threads),
        _open_part(exit_1, ACTIVATIONS, shape, (logits_1, 2), threads),
        _open_part(segment_2, ACTIVATIONS, shape, (deeper, 4), threads),
        _open_part(exit_2, "deeper", (None,) * 3, (logits_2, 2), threads),
    )


def open_single_exit(network: nn.Module, threads: int | None = None) -> Compute:
    """Return a function from features (N, 58) to the logits (N, 2) of a single-exit network, computed in one pass.

    Args:
        network: a network of ``models.ARCHITECTURES``, in evaluation mode on the CPU, calibrated or not.
        threads: as for ``open_halves``.
    """
    model, temperature = network, 1.0
    if isinstance(network, CalibratedSingleExit):
        model, temperature = network.model, float(network.temperature[0])
    assert isinstance(model, SingleExitNetwork)
    if isinstance(model, MobileNetV2):
        first: nn.Module = nn.Sequential(model.upsample, model.stem_conv)
        rest: nn.Module = model.backbone
    else:
        first, rest = model.get_submodule("backbone.0"), model.get_submodule("backbone.1")
    graph = Graph()
    activations = append_first_segment(graph, first, _append_transform(graph, model.transform))
    logits = append(graph, nn.Sequential(rest, model.exit), activations, temperature)
    return _open_part(graph, FEATURES, (FEATURE_COUNT,), (logits, 2), threads)


def _open_part(
    graph: Graph, name: str, shape: tuple[int | None, ...], output: tuple[str, int], threads: int | None
) -> Compute:
    """Return a function that computes a graph with one input and one output; see ``Graph.to_bytes``."""
    content = graph.to_bytes({name: shape}, {"output": output}, {})
    session = start_session(content, torch.get_num_threads() if threads is None else threads)

    def compute(batch: FloatArray) -> FloatArray:
        (found,) = session.run(None, {name: batch})
        return np.asarray(found)

    return compute


def build_first_half(network: TwoExits, metadata: Metadata | None = None) -> bytes:
    """Return input transform, segment 1 and the calibrated exit 1 as an ONNX file."""
    model, (temperature, _) = _unwrap(network)
    graph = Graph()
    activations = append_first_segment(graph, model.backbone[0], _append_transform(graph, model.transform))
    logits = append_first_exit(graph, model.exits[0], activations, temperature)
    return graph.to_bytes(
        {FEATURES: (FEATURE_COUNT,)}, {LOGITS_1: (logits, 2), ACTIVATIONS: (activations, 4)}, metadata or {}
    )


def build_second_half(network: TwoExits, metadata: Metadata | None = None, *, int8: bool = False) -> bytes:
    """Return segment 2 and the calibrated exit 2 as an ONNX file; ``int8`` as for ``open_halves``."""
    model, (_, temperature) = _unwrap(network)
    layers = nn.Sequential(model.backbone[1], model.exits[1])
    if int8 and not any(
        isinstance(layer, nn.Linear) and layer.weight.numel() >= SMALLEST_INT8 for layer in layers.modules()
    ):
        raise CheckpointError(
            "--quantize: int8 makes this network no faster, as it has no large linear layer. Leave it out."
        )
    graph = Graph()
    logits = append(graph, layers, ACTIVATIONS, temperature, int8=int8)
    return graph.to_bytes({ACTIVATIONS: network.activation_shape()}, {LOGITS_2: (logits, 2)}, metadata or {})


def _append_transform(graph: Graph, transform: nn.Module) -> str:
    if not isinstance(transform, QuantileTransform):
        return FEATURES
    return append_transform(graph, transform.knots.numpy(), transform.levels.numpy(), FEATURES)


def _unwrap(network: TwoExits) -> tuple[EarlyExitNetwork, tuple[float, float]]:
    if isinstance(network, CalibratedNetwork):
        first, second = (float(value) for value in network.temperature)
        return network.model, (first, second)
    assert isinstance(network, EarlyExitNetwork)
    return network, (1.0, 1.0)
