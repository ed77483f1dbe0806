"""Write the two halves of a network with two exits as ONNX files, and check each against PyTorch.

Each file is complete: any ONNX runtime computes calibrated logits from features or activations. The metadata are
``format_version``, ``architecture``, ``fingerprint``, ``activation_shape`` and, in the first half if they are known,
``thresholds``.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.alexnet import AlexNetWithExits
from models.calibrated import CalibratedNetwork
from models.checkpoint import fingerprint
from models.cpu_network import build_first_half, build_second_half
from models.early_exit import TwoExits
from models.onnx_quantize import quantize
from models.onnx_runtime import (
    FEATURES,
    FORMAT_VERSION,
    format_thresholds,
    read_first_half,
    read_second_half,
)
from models.prediction import batches, predict
from utils.classification_metrics import certainty
from utils.errors import CheckpointError
from utils.files import replacing
from utils.schema import Thresholds

MOST_DIFFERENCE: Final = 1e-4
"""Largest difference of a certainty between PyTorch and the file."""

_BATCH: Final = 100

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Agreement:
    """How far an exported file agrees with PyTorch.

    Attributes:
        rows: number of rows that were compared.
        difference: largest difference of a certainty.
        equal_labels: share of rows with equal labels.
    """

    rows: int
    difference: float
    equal_labels: float


def write_edge_model(
    path: Path, network: TwoExits, features: FloatArray, thresholds: Thresholds | None = None, *, int8: bool = False
) -> Agreement:
    """Write input transform, segment 1 and the calibrated exit 1 as an ONNX file.

    Args:
        path: the file to write.
        network: in evaluation mode on the CPU.
        features: (N, 58) float32, to check the file on.
        thresholds: chosen for the network; a client takes them from the file.
        int8: whether convolutions multiply 8-bit integers, scaled to the ranges of the features. Then the agreement is
            reported, but not required. AlexNet's exit 1 is not faster with it.

    Raises:
        CheckpointError: the certainties differ from PyTorch's, or int8 makes the network no faster. Nothing is written.
        InputFileError: the file cannot be written.
    """
    metadata = _build_metadata(network)
    if thresholds is not None:
        metadata |= format_thresholds(thresholds)
    content = build_first_half(network, metadata)
    if int8:
        if metadata["architecture"] == AlexNetWithExits.__name__:
            raise CheckpointError(
                f"{path}: is not written, as int8 makes AlexNet's exit 1 no faster. Leave out --quantize."
            )
        content = quantize(content, FEATURES, features)
    with replacing(path) as partial:
        partial.write_bytes(content)
        given, _ = read_first_half(partial).exit_1(features)
        return _check_agreement(
            path, predict(network, features, _BATCH)[0], given, math.inf if int8 else MOST_DIFFERENCE
        )


def write_second_exit_model(path: Path, network: TwoExits, features: FloatArray) -> Agreement:
    """Write segment 2 and the calibrated exit 2 as an ONNX file; otherwise like ``write_edge_model``."""
    with replacing(path) as partial:
        partial.write_bytes(build_second_half(network, _build_metadata(network)))
        with torch.inference_mode():
            activations = np.concatenate([network.segment_1(x).numpy() for x in batches(features, _BATCH)])
        given = read_second_half(partial).exit_2(activations)
        return _check_agreement(path, predict(network, features, _BATCH)[1], given, MOST_DIFFERENCE)


def _build_metadata(network: TwoExits) -> dict[str, str]:
    return {
        "format_version": str(FORMAT_VERSION),
        "architecture": type(network.model if isinstance(network, CalibratedNetwork) else network).__name__,
        "fingerprint": fingerprint(network),
        "activation_shape": ",".join(map(str, network.activation_shape())),
    }


def _check_agreement(path: Path, expected: FloatArray, given: FloatArray, most: float) -> Agreement:
    (label, certain), (label_given, certain_given) = certainty(expected), certainty(given)
    difference = float(np.abs(certain - certain_given).max())
    if not difference <= most:
        raise CheckpointError(
            f"{path}: is not written, as its certainties would differ by {difference:.2g} from the checkpoint's. "
            "Use the checkpoint."
        )
    return Agreement(len(given), difference, float((label == label_given).mean()))
