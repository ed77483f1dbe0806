"""Compute metrics of a classifier. A metric whose denominator is zero is NaN."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

ECE_BINS: Final = 15


def divide(numerator: float, denominator: float) -> float:
    """Return numerator / denominator, or NaN if the denominator is zero."""
    return numerator / denominator if denominator else float("nan")


def classify(logits: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the predicted class (N,) int64 and its softmax probability (N,) float64 for logits (N, C)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    prediction = shifted.argmax(axis=1)
    return prediction, 1.0 / np.exp(shifted).sum(axis=1)


def compute_accuracy(predictions: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Return the share of predictions (N,) that equal their labels (N,); NaN without rows."""
    return divide(int((predictions == labels).sum()), len(labels))


def bin_by_certainty(
    certainties: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = ECE_BINS
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Count predictions, and average their certainty and accuracy, in B equal bins of certainty, (i/B, (i+1)/B].

    Args:
        certainties: (N,) within [0, 1].
        correct: (N,) whether each prediction is correct.
        bins: number of bins, B.

    Returns:
        counts (B,), mean certainties (B,) and accuracies (B,) of the bins; 0 for an empty bin.
    """
    index = np.clip(np.ceil(certainties * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    filled = np.maximum(counts, 1)
    mean_certainty = np.bincount(index, weights=certainties, minlength=bins) / filled
    mean_correct = np.bincount(index, weights=correct, minlength=bins) / filled
    return counts, mean_certainty, mean_correct


def compute_calibration_error(certainties: NDArray[np.floating], correct: NDArray[np.bool_]) -> float:
    """Return the expected calibration error of N predictions (arguments as for ``bin_by_certainty``); NaN without rows.

    It is the mean gap between certainty and accuracy over ``ECE_BINS`` bins of certainty, weighted by their counts.
    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    counts, mean_certainty, mean_correct = bin_by_certainty(certainties, correct)
    return divide(float((counts * np.abs(mean_certainty - mean_correct)).sum()), int(counts.sum()))


def compute_negative_log_likelihood(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Return the mean cross-entropy, in nats, of logits (N, C) for labels (N,); NaN without rows."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return divide(float((log_sum - shifted[np.arange(len(labels)), labels]).sum()), len(labels))
