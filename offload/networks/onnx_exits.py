"""Compute the exits of a network with ONNX Runtime, without torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.onnx_runtime import EDGE_PASS_SIZE, FirstHalf, SecondHalf, read_exported
from offload.networks.exits import ActivationsAt, FloatArray, Network


@dataclass(frozen=True)
class _Exit1:
    first: FirstHalf

    def __call__(self, features: FloatArray, /) -> tuple[FloatArray, ActivationsAt]:
        logits, activations = self.first.exit_1(features)
        return logits, activations.__getitem__


@dataclass(frozen=True)
class _Exit2:
    first: FirstHalf
    second: SecondHalf

    def compute_from_features(self, features: FloatArray, /) -> FloatArray:
        # Both segments in each pass, so that the activations stay in the processor's cache.
        passes = np.array_split(features, -(-len(features) // self.second.pass_size) or 1)
        return np.concatenate([self.second.exit_2(self.first.segment_1(part)) for part in passes])

    def compute_from_activations(self, activations: FloatArray, /) -> FloatArray:
        return self.second.exit_2(activations)


def open_exported(
    path: Path,
    second_exit: Path | None,
    family: str | None,
    threads: int = 1,
    chunk: int = EDGE_PASS_SIZE,
    most: int | None = None,
) -> Network:
    """Open a network that ``dnn/export-edge-model.py`` exported; see ``models.onnx_runtime.read_exported``."""
    return make_network(*read_exported(path, second_exit, family, threads, chunk, most), threads)


def make_network(first: FirstHalf, second: SecondHalf | None, threads: int) -> Network:
    """Return a network whose first half, or both halves, ONNX Runtime computes."""
    return Network(
        first.architecture, first.fingerprint, first.activation_shape, f"cpu (ONNX Runtime, threads: {threads})",
        _Exit1(first), None if second is None else _Exit2(first, second), first.thresholds,
    )  # fmt: skip
