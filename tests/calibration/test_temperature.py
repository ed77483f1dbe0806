import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from calibration.temperature import (
    GREATEST_TEMPERATURE,
    LEAST_TEMPERATURE,
    Method,
    Quality,
    find_doubts,
    fit_by_ece,
    fit_by_likelihood,
    measure_quality,
)
from utils.classification_metrics import classify, compute_calibration_error, compute_negative_log_likelihood

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]

METHODS = pytest.mark.parametrize("method", [fit_by_likelihood, fit_by_ece])


def calibrated_exit(rows: int, seed: int = 0) -> tuple[Logits, Labels]:
    """Return logits of an exit whose certainties are true, and labels drawn from them."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(scale=2, size=(rows, 2)).astype(np.float32)
    attack = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    return logits, (draw.random(rows) < attack).astype(np.int64)


def least_nll(logits: Logits, labels: Labels) -> float:
    """The temperature of least NLL, by another search than the module's."""
    found = minimize_scalar(
        lambda exponent: compute_negative_log_likelihood(logits / np.exp(exponent), labels),
        bounds=(np.log(LEAST_TEMPERATURE), np.log(GREATEST_TEMPERATURE)),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(np.exp(found.x))


@pytest.mark.parametrize("bound", [LEAST_TEMPERATURE, GREATEST_TEMPERATURE])
def test_a_temperature_at_its_bound_and_too_few_rows_cause_warnings(bound: float) -> None:
    few, at_bound = find_doubts(bound, 1)
    assert few.startswith("1 rows are too few to calibrate on. Use at least 100.")
    assert at_bound.startswith(f"the temperature {bound:g} is at its bound")
    assert find_doubts(1.3, 100) == []


@pytest.mark.slow
@METHODS
@pytest.mark.parametrize("temperature", [0.4, 5.0])
def test_a_known_temperature_is_recovered(method: Method, temperature: float) -> None:
    logits, labels = calibrated_exit(6000)
    found = method((logits * temperature).astype(np.float32), labels)
    assert found == pytest.approx(temperature, rel=0.08)


@pytest.mark.parametrize("temperature", [0.3, 1.5, 2.5, 6.0])
def test_the_temperature_by_likelihood_equals_that_of_another_optimiser(temperature: float) -> None:
    logits, labels = calibrated_exit(5000, seed=1)
    logits *= temperature
    reference = least_nll(logits, labels)
    # The module keeps 1 where that has the lesser ECE; here it has not.
    assert measure_quality(logits, labels, reference).ece < measure_quality(logits, labels).ece
    assert fit_by_likelihood(logits, labels) == pytest.approx(reference, rel=1e-3)


def test_the_temperature_of_lowest_ece_along_the_search_is_returned() -> None:
    logits, labels = calibrated_exit(2000, seed=4)  # drawn well: 1 is better calibrated than the likeliest temperature
    reference = least_nll(logits, labels)
    assert measure_quality(logits, labels).ece < measure_quality(logits, labels, reference).ece
    assert fit_by_likelihood(logits, labels) == 1


def test_the_ece_method_finds_the_lowest_ece_of_a_plain_scan() -> None:
    logits, labels = calibrated_exit(1500, seed=2)
    logits *= 4
    errors = []
    for temperature in np.geomspace(0.05, 20, 301):
        prediction, certain = classify(logits / temperature)
        errors.append(compute_calibration_error(certain, prediction == labels))
    assert measure_quality(logits, labels, fit_by_ece(logits, labels)).ece <= min(errors)


CASES: dict[str, tuple[Logits, Labels]] = {
    "calibrated": calibrated_exit(500),
    "one row, right": (np.array([[2.0, -1.0]], dtype=np.float32), np.array([0])),
    "one row, wrong": (np.array([[2.0, -1.0]], dtype=np.float32), np.array([1])),
    "all right": (calibrated_exit(300)[0], calibrated_exit(300)[0].argmax(axis=1)),
    "all wrong": (calibrated_exit(300)[0], calibrated_exit(300)[0].argmin(axis=1)),
    "one class": (calibrated_exit(300)[0], np.ones(300, dtype=np.int64)),
    "equal logits": (np.zeros((300, 2), dtype=np.float32), calibrated_exit(300)[1]),
    "huge logits": (calibrated_exit(300)[0] * np.float32(1e4), calibrated_exit(300)[1]),
    "huge logits, all right": (np.full((300, 2), (1e4, -1e4), dtype=np.float32), np.zeros(300, dtype=np.int64)),
    "tiny logits": (calibrated_exit(300)[0] * np.float32(1e-30), calibrated_exit(300)[1]),
    "far overconfident": (calibrated_exit(300)[0] * np.float32(100), calibrated_exit(300)[1]),
    "far underconfident": (calibrated_exit(300)[0] / np.float32(100), calibrated_exit(300)[1]),
}


@METHODS
@pytest.mark.parametrize(("logits", "labels"), CASES.values(), ids=CASES)
def test_no_logits_give_a_temperature_out_of_range_or_a_higher_ece(
    method: Method, logits: Logits, labels: Labels
) -> None:
    found = method(logits, labels)
    assert LEAST_TEMPERATURE <= found <= GREATEST_TEMPERATURE
    before, after = measure_quality(logits, labels), measure_quality(logits, labels, found)
    assert np.isfinite([after.nll, after.ece]).all()
    assert after.ece <= before.ece + 1e-12


@METHODS
def test_if_all_temperatures_are_equally_good_1_is_returned(method: Method) -> None:
    assert method(*CASES["equal logits"]) == pytest.approx(1)


def test_the_quality_is_that_of_the_scaled_logits() -> None:
    logits, labels = calibrated_exit(400)
    prediction, certain = classify(logits / 2)
    expected = Quality(
        compute_negative_log_likelihood(logits / 2, labels), compute_calibration_error(certain, prediction == labels)
    )
    assert measure_quality(logits, labels, 2.0) == expected


def test_the_search_ends_when_the_temperature_repeats_or_after_all_epochs() -> None:
    logits, labels = calibrated_exit(500)
    told = list[int]()
    fit_by_likelihood(logits * 3, labels, max_iter=10, epochs=80, progress=told.append)
    assert told == [1] * len(told)
    assert 1 < len(told) < 20
    told.clear()
    fit_by_likelihood(logits * 3, labels, max_iter=1, epochs=2, progress=told.append)
    assert told == [1, 1]
