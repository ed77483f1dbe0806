import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, log_loss

from utils.classification_metrics import (
    ECE_BINS,
    bin_by_certainty,
    classify,
    compute_accuracy,
    compute_calibration_error,
    compute_negative_log_likelihood,
    divide,
)

# Edges of the 15 bins among them, and of bins that do not fall on a float.
CERTAINTY = st.one_of(
    st.integers(0, ECE_BINS).map(lambda i: i / ECE_BINS), st.integers(0, 10_000).map(lambda i: i / 10_000)
)
ANSWERS = st.lists(st.tuples(CERTAINTY, st.booleans()), min_size=1, max_size=60)


def bin_of(certain: float, bins: int) -> int:
    """Return the bin i whose interval (i/B, (i+1)/B] holds a certainty; 0 is in the first."""
    return next(i for i in range(bins) if certain <= (i + 1) / bins)


def plain_bins(answers: list[tuple[float, bool]], bins: int) -> list[list[tuple[float, bool]]]:
    sorted_in: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for certain, right in answers:
        sorted_in[bin_of(certain, bins)].append((certain, right))
    return sorted_in


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def columns(answers: list[tuple[float, bool]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return np.array([certain for certain, _ in answers]), np.array([right for _, right in answers], dtype=bool)


@given(ANSWERS, st.sampled_from([1, 2, 10, ECE_BINS]))
def test_reliability_bins_equal_those_of_a_loop(answers: list[tuple[float, bool]], bins: int) -> None:
    counts, mean_certainty, mean_correct = bin_by_certainty(*columns(answers), bins)
    expected = plain_bins(answers, bins)
    assert counts.tolist() == [len(rows) for rows in expected]
    np.testing.assert_allclose(mean_certainty, [mean([c for c, _ in rows]) for rows in expected], atol=1e-12)
    np.testing.assert_allclose(mean_correct, [mean([float(r) for _, r in rows]) for rows in expected], atol=1e-12)


@given(ANSWERS)
def test_the_calibration_error_equals_that_of_a_loop(answers: list[tuple[float, bool]]) -> None:
    gap = 0.0
    for rows in plain_bins(answers, ECE_BINS):
        gap += abs(sum(c for c, _ in rows) - sum(r for _, r in rows))
    assert compute_calibration_error(*columns(answers)) == pytest.approx(gap / len(answers), abs=1e-12)


def test_the_edge_of_a_bin_belongs_to_the_bin_below_in_either_precision() -> None:
    for dtype in (np.float32, np.float64):
        edges: NDArray[np.floating] = (np.arange(1, ECE_BINS + 1) / ECE_BINS).astype(dtype)
        counts, _, _ = bin_by_certainty(edges, np.ones(ECE_BINS, dtype=bool))
        assert counts.tolist() == [1] * ECE_BINS


def test_a_perfectly_calibrated_exit_has_no_calibration_error() -> None:
    certainties = np.repeat([0.6, 0.8], 10)
    correct = np.array([True] * 6 + [False] * 4 + [True] * 8 + [False] * 2)
    assert compute_calibration_error(certainties, correct) == pytest.approx(0, abs=1e-12)


def test_an_exit_that_is_certain_and_wrong_has_a_calibration_error_of_1() -> None:
    assert compute_calibration_error(np.ones(5), np.zeros(5, dtype=bool)) == 1


# Certainty and likelihood


LOGITS = np.random.default_rng(0).normal(scale=4, size=(500, 2)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 2, 500)
EXTREME = np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4], [-1e4, -1e4], [0, 1e4], [0, 0]], dtype=np.float32)


@pytest.mark.parametrize("logits", [LOGITS, EXTREME, LOGITS.astype(np.float64)], ids=["usual", "extreme", "float64"])
def test_certainty_equals_the_greatest_softmax_of_torch(logits: NDArray[np.floating]) -> None:
    prediction, certain = classify(logits)
    greatest, index = torch.from_numpy(logits).double().softmax(dim=1).max(dim=1)
    np.testing.assert_allclose(certain, greatest.numpy(), rtol=1e-12)
    np.testing.assert_array_equal(prediction, index.numpy())
    assert prediction.dtype == np.int64
    assert certain.dtype == np.float64


def test_equal_logits_give_class_0_with_certainty_one_half() -> None:
    prediction, certain = classify(np.full((1, 2), 7.0))
    assert (prediction.tolist(), certain.tolist()) == ([0], [0.5])


def test_certainty_works_for_more_than_two_classes() -> None:
    prediction, certain = classify(np.tile([0.0, 0.0, 9.0, 0.0], (3, 1)))
    assert prediction.tolist() == [2, 2, 2]
    np.testing.assert_allclose(certain, 1 / (1 + 3 * math.exp(-9)))


def test_the_likelihood_equals_that_of_sklearn_and_of_torch() -> None:
    probabilities = torch.from_numpy(LOGITS).double().softmax(dim=1).numpy()
    loss = compute_negative_log_likelihood(LOGITS, LABELS)
    assert loss == pytest.approx(log_loss(LABELS, probabilities), rel=1e-9)
    torch_loss = torch.nn.functional.cross_entropy(torch.from_numpy(LOGITS).double(), torch.from_numpy(LABELS))
    assert loss == pytest.approx(torch_loss.item(), rel=1e-12)


def test_the_likelihood_of_extreme_logits_is_their_margin() -> None:
    labels = np.array([0, 0, 0, 1, 0, 1])
    assert compute_negative_log_likelihood(EXTREME, labels) == pytest.approx((2e4 + 1e4 + 3 * math.log(2)) / 6)


# Rates


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1))
def test_accuracy_equals_that_of_sklearn(pairs: list[tuple[int, int]]) -> None:
    predictions, labels = np.array(pairs).T
    assert compute_accuracy(predictions, labels) == pytest.approx(accuracy_score(labels, predictions))


def test_rates_without_rows_are_nan() -> None:
    nothing, logits = np.array([], dtype=np.int64), np.empty((0, 2))
    assert math.isnan(divide(1, 0))
    assert math.isnan(compute_accuracy(nothing, nothing))
    assert math.isnan(compute_calibration_error(np.array([]), np.array([], dtype=bool)))
    assert math.isnan(compute_negative_log_likelihood(logits, nothing))
    assert [len(part) for part in classify(logits)] == [0, 0]


def test_a_rate_is_a_quotient() -> None:
    assert (divide(1, 4), divide(0, 4)) == (0.25, 0)
