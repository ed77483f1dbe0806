"""The exits of an exported network as ONNX Runtime computes them, on an edge without PyTorch."""

from dataclasses import dataclass
from pathlib import Path

from models.onnx_runtime import CHUNK, EdgeModel, SecondExitModel, read_exported
from offload.exits import AtExit1, FloatArray, Network


@dataclass(frozen=True)
class _Exit1:
    model: EdgeModel

    def __call__(self, features: FloatArray, /) -> AtExit1:
        logits, activations = self.model.exit_1(features)
        return AtExit1(logits, activations.__getitem__)


@dataclass(frozen=True)
class _Exit2:
    first: EdgeModel
    second: SecondExitModel

    def of_features(self, features: FloatArray, /) -> FloatArray:
        return self.second.exit_2(self.first.exit_1(features)[1])

    def of_activations(self, activations: FloatArray, /) -> FloatArray:
        return self.second.exit_2(activations)


def open_exported(
    path: Path, second_exit: Path | None, family: str | None, threads: int = 1, chunk: int = CHUNK
) -> Network:
    """Return the network that ``dnn/export-edge-model.py`` wrote; see ``models.onnx_runtime.read_exported``."""
    first, second = read_exported(path, second_exit, family, threads, chunk)
    exit_2 = None if second is None else _Exit2(first, second)
    device = f"cpu (ONNX Runtime, threads: {threads})"
    return Network(first.architecture, first.fingerprint, device, _Exit1(first), exit_2, first.thresholds)
