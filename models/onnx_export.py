"""Write the two halves of a network with two exits as ONNX files, each checked against PyTorch before it is kept.

Each is complete: any ONNX runtime computes calibrated logits from features, or from the activations behind segment 1.
Their metadata: ``format_version``, ``architecture``, ``fingerprint``, ``activation_shape``; in the first half, if they
are known, the ``thresholds``.
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
    read_first_half,
    read_second_half,
    thresholds_metadata,
)
from models.prediction import batches, predict
from utils.classification_metrics import certainty
from utils.errors import CheckpointError
from utils.files import replacing
from utils.schema import Thresholds

MOST_DIFFERENCE: Final = 1e-4
"""Of a certainty, between PyTorch and the file."""

_BATCH: Final = 100

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Agreement:
    """How an exported file compares with PyTorch, over the rows it was checked on.

    Attributes:
        rows: how many.
        difference: the largest of a certainty.
        equal_labels: share of the rows.
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
        thresholds: least certainties that were chosen for the network, for whoever runs it.
        int8: whether convolutions are computed with 8-bit integers, to scales taken from the features. Then the
            agreement is reported only. Of MobileNetV2 alone: AlexNet's exit 1 is not faster so.

    Raises:
        CheckpointError: the certainties are not PyTorch's, or int8 is of no use to the network; nothing is written.
        InputFileError: the file cannot be written.
    """
    metadata = _metadata(network)
    if thresholds is not None:
        metadata |= thresholds_metadata(thresholds)
    content = build_first_half(network, metadata)
    if int8:
        if metadata["architecture"] == AlexNetWithExits.__name__:
            raise CheckpointError(
                f"{path}: is not written: int8 makes AlexNet's exit 1 no faster; leave out --quantize"
            )
        content = quantize(content, FEATURES, features)
    with replacing(path) as partial:
        partial.write_bytes(content)
        given, _ = read_first_half(partial).exit_1(features)
        return _agreement(path, predict(network, features, _BATCH)[0], given, math.inf if int8 else MOST_DIFFERENCE)


def write_second_exit_model(path: Path, network: TwoExits, features: FloatArray) -> Agreement:
    """Write segment 2 and the calibrated exit 2 as an ONNX file; else as ``write_edge_model``."""
    with replacing(path) as partial:
        partial.write_bytes(build_second_half(network, _metadata(network)))
        with torch.inference_mode():
            activations = np.concatenate([network.segment_1(x).numpy() for x in batches(features, _BATCH)])
        given = read_second_half(partial).exit_2(activations)
        return _agreement(path, predict(network, features, _BATCH)[1], given, MOST_DIFFERENCE)


def _metadata(network: TwoExits) -> dict[str, str]:
    return {
        "format_version": str(FORMAT_VERSION),
        "architecture": type(network.model if isinstance(network, CalibratedNetwork) else network).__name__,
        "fingerprint": fingerprint(network),
        "activation_shape": ",".join(map(str, network.activation_shape())),
    }


def _agreement(path: Path, expected: FloatArray, given: FloatArray, most: float) -> Agreement:
    (label, certain), (label_given, certain_given) = certainty(expected), certainty(given)
    difference = float(np.abs(certain - certain_given).max())
    if not difference <= most:
        raise CheckpointError(
            f"{path}: is not written, for its certainties would differ by {difference:.2g} from the checkpoint's; "
            "keep to the checkpoint"
        )
    return Agreement(len(given), difference, float((label == label_given).mean()))
