"""Figures about 8-bit integers: convolutions at the edge for both exits, linear layers at the worker for exit 2."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.checkpoint import read_two_exits
from models.cpu_network import compute_logits
from models.onnx_export import write_edge_model, write_second_exit_model
from models.onnx_runtime import read_exported
from models.prediction import predict
from tests.benchmarks.agreement import LEAST_EQUAL_INT8, MOST_DIFFERENCE_INT8, apart
from tests.promised import Figure
from utils.classification_metrics import classify, compute_accuracy, compute_calibration_error
from utils.dataset import read_dataset, read_labelled

MOST_POINTS, MOST_ECE = 0.3, 0.01
LATER_MONTHS = "2016_0[2-8].csv"


def int8_accuracy(checkpoint: Path, data: Path) -> Iterator[Figure]:
    """Compare a network whose first half is exported with 8-bit convolutions, calibrated on January, with float32.

    Both exits are computed from that half, as on an edge that computes exit 2 itself or sends activations.
    """
    network, entry = read_two_exits(checkpoint)
    january = read_dataset(data / "dataset" / "2016_01.csv").features[:2000]
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "edge.onnx", Path(folder) / "second.onnx"
        write_edge_model(paths[0], network, january, int8=True)
        write_second_exit_model(paths[1], network, january)
        first, second = read_exported(*paths, family=None)
    assert second is not None
    months = sorted((data / "dataset").glob(LATER_MONTHS))
    points, errors = np.empty((len(months), 2)), np.empty((len(months), 2))
    for month, path in enumerate(months):
        dataset, labels = read_labelled(path)
        logits_1, activations = first.exit_1(dataset.features)
        ours = logits_1, second.exit_2(activations)
        for number, logits in enumerate(zip(predict(network, dataset.features, 500), ours, strict=True)):
            (accuracy_plain, ece_plain), (accuracy_ours, ece_ours) = (_quality(one, labels) for one in logits)
            points[month, number] = 100 * (accuracy_ours - accuracy_plain)
            errors[month, number] = ece_ours - ece_plain
    for number in (0, 1):
        worst, mean = np.abs(points[:, number]).max(), points[:, number].mean()
        ece = np.abs(errors[:, number]).max()
        yield Figure(
            f"int8 against float32, {entry.architecture.name}, exit {number + 1}, each of {len(months)} later months",
            f"within {MOST_POINTS} points, ECE within {MOST_ECE}",
            f"at most {worst:.2f} points ({mean:+.2f} on average), ECE {ece:.4f}",
            bool(worst <= MOST_POINTS and ece <= MOST_ECE),
        )


def int8_worker(checkpoint: Path, data: Path) -> Figure:
    """Compare exit 2 of a network with quantised large linear layers with float32, row by row."""
    plain, entry = read_two_exits(checkpoint)
    months = sorted((data / "dataset").glob(LATER_MONTHS))
    features = np.concatenate([read_dataset(path).features for path in months])
    before = classify(predict(plain, features, 500)[1])
    after = classify(compute_logits(plain, features, 500, torch.device("cpu"), int8=True)[1])
    equal, most = before[0] == after[0], apart(before, after)
    return Figure(
        f"int8 worker against float32, {checkpoint.stem}, {entry.architecture.name}, {len(months)} later months",
        f"labels equal on {100 * LEAST_EQUAL_INT8:g} %, certainties within {MOST_DIFFERENCE_INT8}",
        f"{(~equal).sum()} of {len(equal):,} labels differ, certainties by at most {most:.4f}",
        bool(equal.mean() >= LEAST_EQUAL_INT8 and most <= MOST_DIFFERENCE_INT8),
    )


def _quality(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, float]:
    predictions, certainties = classify(logits)
    return compute_accuracy(predictions, labels), compute_calibration_error(certainties, predictions == labels)
