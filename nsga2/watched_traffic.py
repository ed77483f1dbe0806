"""Describe the traffic of the rows that certify thresholds, and find the vectors whose labels are changing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsga2.certifying_rows import UNKNOWN, CertifyingRows
from utils.dataset import read_dataset
from utils.errors import InputFileError
from utils.label_drift import find_unstable_vectors
from utils.labelled_rows import LabelledRows
from utils.traffic_reference import Reference, compute_scores, make_reference

FloatArray = NDArray[np.float32]


def read_features(datasets: Sequence[Path], files: Sequence[Path], rows: CertifyingRows) -> FloatArray:
    """Read the features (N, 58) of all rows.

    Args:
        datasets: one for each file, in order.
        files: the files that the rows were read from.
        rows: N rows.

    Raises:
        DatasetError: a dataset is missing or damaged.
        InputFileError: there are more or fewer datasets than files, or one holds other rows than its file.
    """
    if len(datasets) != len(files):
        raise InputFileError(f"{len(datasets)} --dataset for {len(files)} --eval-file; give one for each, in order")
    features = []
    for dataset, file, start, stop in zip(datasets, files, rows.starts[:-1], rows.starts[1:], strict=True):
        content, labels = read_dataset(dataset), rows.evaluation.labels[start:stop]
        is_other = len(content) != len(labels)
        if not is_other and content.labels is not None and UNKNOWN not in labels:
            is_other = bool((content.labels != labels).any())
        if is_other:
            raise InputFileError(f"{dataset}: holds other rows than {file}; give the dataset that it evaluates")
        features.append(content.features)
    return np.concatenate(features)


def find_changed_vectors(before: LabelledRows, features: FloatArray, rows: CertifyingRows) -> FloatArray:
    """Return the frequent vectors (k, 58) whose labels have changed since an earlier month.

    The rows of the tests have no part in this: if they had, the vectors on which they show most errors would be left
    out of them, and the certificate would be too optimistic.

    Args:
        before: labelled rows of the earlier month.
        features: (N, 58) of all rows.
        rows: those that propose are compared with the earlier month.
    """
    proposing = rows.proposing
    after = LabelledRows("", features[proposing], rows.evaluation.labels[proposing])
    return find_unstable_vectors(before, after)


def refer(
    features: FloatArray, rows: CertifyingRows, tolerance: float, distrusted: FloatArray | None
) -> tuple[Reference, NDArray[np.bool_]]:
    """Return the reference of all rows, and which of them (N,) it distrusts, so that no client accepts them.

    Args:
        features: (N, 58) of all rows.
        rows: their answers.
        tolerance: largest tolerated difference of a share.
        distrusted: (k, 58) vectors that must not be accepted; those that are not frequent are ignored.
    """
    scores = compute_scores(rows.evaluation.prediction_1, rows.evaluation.certainty_1)
    reference = make_reference(features, scores, tolerance, distrusted)
    return reference, np.isin(reference.find_categories(features, scores), reference.distrusted)
