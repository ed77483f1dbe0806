"""Write the two halves of a network with two exits as ONNX files, and check each against PyTorch.

Each file is complete: any ONNX runtime can compute calibrated logits, from features in the first half and from
activations in the second. The keys of the metadata are ``format_version``, ``architecture``, ``fingerprint``,
``activation_shape`` and, in the first half if thresholds are given, ``thresholds``.
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
from models.prediction import iterate_batches, predict
from utils.classification_metrics import certainty
from utils.errors import CheckpointError
from utils.files import replacing
from utils.schema import Thresholds

MOST_DIFFERENCE: Final = 1e-4
"""Largest allowed difference between a certainty of PyTorch and one of the file."""

_BATCH: Final = 100

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Agreement:
    """Comparison of an exported file with PyTorch.

    Attributes:
        rows: number of rows that were compared.
        difference: largest difference between two certainties of a row.
        equal_labels: share of rows for which both predict the same class.
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
        features: (N, 58) float32, rows on which the file is compared with PyTorch.
        thresholds: stored in the file, from which a client takes them; None: none are stored.
        int8: whether convolutions multiply 8-bit integers. The ranges of the activations are then measured on
            ``features``, and the agreement is reported, but not required. It makes AlexNet's exit 1 no faster.

    Raises:
        CheckpointError: the certainties differ from PyTorch's by more than ``MOST_DIFFERENCE``, or int8 makes the
            network no faster. Nothing is written.
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
            activations = np.concatenate([network.segment_1(x).numpy() for x in iterate_batches(features, _BATCH)])
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
