"""The exits of an exported network as ONNX Runtime computes them, on an edge without PyTorch."""

from dataclasses import dataclass
from pathlib import Path

from models import ARCHITECTURES
from models.onnx_runtime import EdgeModel, SecondExitModel, read_edge_model, read_second_exit_model
from offload.exits import AtExit1, FloatArray, Network
from utils.errors import CheckpointError


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


def open_exported(path: Path, second_exit: Path | None, family: str) -> Network:
    """Return the network that ``dnn/export-edge-model.py`` wrote.

    Args:
        path: of its first half.
        second_exit: of its second half; None: the network has no exit 2 here.
        family: that it must be of, as in ``models.FAMILIES``.

    Raises:
        CheckpointError: as ``read_edge_model``, or it is of another family, or the halves are of two networks.
    """
    first = read_edge_model(path)
    if ARCHITECTURES[first.architecture].family != family:
        raise CheckpointError(f"{path}: holds {first.architecture}, not {family}; name the network that it holds")
    if second_exit is None:
        return Network(first.architecture, first.fingerprint, _Exit1(first), None)
    second = read_second_exit_model(second_exit)
    if second.fingerprint != first.fingerprint:
        raise CheckpointError(f"{second_exit}: is of another network than {path}; export both from one checkpoint")
    return Network(first.architecture, first.fingerprint, _Exit1(first), _Exit2(first, second))
