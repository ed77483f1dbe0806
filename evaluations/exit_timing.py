"""Run a network over a dataset part by part, and measure what each part costs in the runtime that computes it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.cpu_network import open_parts, open_single_exit
from models.early_exit import TwoExits
from models.onnx_runtime import choose_pass_size
from models.prediction import ONNX, Progress, choose_runtime, no_progress
from utils.classification_metrics import certainty
from utils.dataset import to_images
from utils.schema import EVALUATION_COLUMNS, SINGLE_EXIT_EVALUATION_COLUMNS
from utils.timing import Stopwatch

FloatArray = NDArray[np.float32]
Measured = tuple[Any, *tuple[float, ...]]
"""The logits (n, 2) of an exit, and the seconds of each part that was computed for it."""


@dataclass(frozen=True)
class Parts:
    """The parts of a network, in the runtime that computes them.

    Attributes:
        compute: segment 1, exit 1, segment 2 and exit 2; or a whole network with a single exit.
        device: where they run.
        runtime: a key of ``prediction.RUNTIMES``.
        pass_size: most events in a forward pass; None: a whole batch.
    """

    compute: tuple[Callable[[Any], Any], ...]
    device: torch.device
    runtime: str
    pass_size: int | None


def split_network(network: nn.Module, device: torch.device, runtime: str | None = None) -> Parts:
    """Return the parts of a network.

    In ONNX Runtime, each part has its own session. Client and worker have one session for a segment and its exit, which
    takes as long as the two parts (``tests/evaluations/test_exit_timing.py`` compares them).

    Args:
        network: of ``models.ARCHITECTURES``, on the device, in evaluation mode.
        device: where it runs.
        runtime: a key of ``prediction.RUNTIMES``; None: the device's default.

    Raises:
        DeviceError: the runtime does not compute on the device.
    """
    runtime = choose_runtime(runtime, device)
    on_onnx = runtime == ONNX
    compute: tuple[Callable[[Any], Any], ...] = (network,)
    if isinstance(network, TwoExits):
        eager = network.segment_1, network.exit_1, network.segment_2, network.exit_2
        compute = open_parts(network) if on_onnx else eager
    elif on_onnx:
        compute = (open_single_exit(network),)
    most = choose_pass_size(type(getattr(network, "model", network)).__name__) if on_onnx else None
    return Parts(compute, device, runtime, most)


def measure_parts(
    parts: Parts,
    features: FloatArray,
    labels: NDArray[np.int64],
    batch_size: int,
    clock: str = "cpu",
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Return the evaluation table of a network, a row per dataset row, in order.

    Segment 1 is computed once for both exits. Each part is timed separately, and the time of a batch is divided by its
    number of rows.

    Args:
        parts: of the network.
        features: (N, 58) float32.
        labels: (N,) int64.
        batch_size: number of rows in a batch.
        clock: a key of ``timing.CLOCKS``.
        progress: called with the number of rows of each batch.

    Returns:
        columns ``EVALUATION_COLUMNS``, or ``SINGLE_EXIT_EVALUATION_COLUMNS``; times in seconds per event.
    """
    columns = SINGLE_EXIT_EVALUATION_COLUMNS if len(parts.compute) == 1 else EVALUATION_COLUMNS
    most = min(batch_size, parts.pass_size or batch_size)
    tables = []
    with torch.inference_mode():
        _time(parts, features[:most], clock)  # warm-up: first calls allocate and choose kernels
        for begin in range(0, len(features), batch_size):
            batch = features[begin : begin + batch_size]
            passes = [_time(parts, events, clock) for events in np.array_split(batch, -(-len(batch) // most))]
            values: list[Any] = []
            for logits, *seconds in (zip(*at_exit, strict=True) for at_exit in zip(*passes, strict=True)):
                values += certainty(np.concatenate(logits))
                values += (sum(of_part) / len(batch) for of_part in seconds)
            tables.append(pd.DataFrame(dict(zip(columns[1:], values, strict=True))))
            progress(len(batch))
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, columns[0], labels)
    return table


def _time(parts: Parts, features: FloatArray, clock: str) -> tuple[Measured, ...]:
    """Run one forward pass, and measure the time of each part."""
    on_torch = parts.runtime != ONNX
    events = torch.from_numpy(to_images(features)).to(parts.device) if on_torch else features
    watch = Stopwatch(clock, parts.device)
    if len(parts.compute) == 1:
        return ((_to_array(parts.compute[0](events)), watch.lap()),)
    segment_1, exit_1, segment_2, exit_2 = parts.compute
    activations, at_segment_1 = segment_1(events), watch.lap()
    logits_1, at_exit_1 = exit_1(activations), watch.lap()
    deeper, at_segment_2 = segment_2(activations), watch.lap()
    logits_2, at_exit_2 = exit_2(deeper), watch.lap()
    return (_to_array(logits_1), at_segment_1, at_exit_1), (_to_array(logits_2), at_segment_2, at_exit_2)


def _to_array(logits: FloatArray | Tensor) -> FloatArray:
    return logits.cpu().numpy() if isinstance(logits, Tensor) else logits
