"""Find the temperature of an exit by minimising the negative log-likelihood or the calibration error.

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2. Here each exit has its own
temperature.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from models.prediction import Progress, no_progress
from utils.classification_metrics import classify, compute_calibration_error, compute_negative_log_likelihood

LEAST_TEMPERATURE: Final = 0.05
GREATEST_TEMPERATURE: Final = 20.0
# The grid has steps of 0.3 %, smaller than differences that the calibration error of a few thousand rows can show.
_GRID: Final = np.geomspace(LEAST_TEMPERATURE, GREATEST_TEMPERATURE, 2001)

LEAST_ROWS: Final = 100
"""With fewer rows, the calibration error in 15 bins, and so the best temperature, are mostly due to chance."""

Method = Callable[[NDArray[np.floating], NDArray[np.int64]], float]


@dataclass(frozen=True)
class Quality:
    """Quality of an exit's certainties: negative log-likelihood (NLL) in nats, and expected calibration error (ECE)."""

    nll: float
    ece: float


def measure_quality(logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float = 1.0) -> Quality:
    """Return the NLL and the ECE of logits (N, 2), divided by a temperature, for labels (N,)."""
    scaled = logits / temperature
    predictions, certainties = classify(scaled)
    return Quality(
        compute_negative_log_likelihood(scaled, labels),
        compute_calibration_error(certainties, predictions == labels),
    )


def find_doubts(temperature: float, rows: int) -> list[str]:
    """Return sentences that say why a temperature is unreliable; none if there is no reason for doubt.

    Args:
        temperature: the temperature.
        rows: number of rows on which it was found.
    """
    found = []
    if rows < LEAST_ROWS:
        found.append(f"{rows} rows are too few to calibrate on. Use at least {LEAST_ROWS}.")
    if not 1.001 * LEAST_TEMPERATURE < temperature < GREATEST_TEMPERATURE / 1.001:
        found.append(
            f"the temperature {temperature:g} is at its bound, so the certainties mean nothing. Calibrate on more "
            "rows, of both classes, some of which the exit gets wrong."
        )
    return found


def fit_by_likelihood(
    logits: NDArray[np.floating],
    labels: NDArray[np.int64],
    max_iter: int = 10,
    epochs: int = 80,
    progress: Progress = no_progress,
) -> float:
    """Return the temperature with the lowest ECE among 1 and those that LBFGS reaches while it minimises the NLL.

    Args:
        logits: (N, 2) of one exit.
        labels: (N,) int64.
        max_iter: LBFGS iterations per epoch.
        epochs: largest number of epochs. An epoch is one call of LBFGS, which yields one temperature; the search stops
            early when an epoch does not change the temperature.
        progress: called with 1 after each epoch.
    """
    inputs, targets = torch.from_numpy(logits.astype(np.float64)), torch.from_numpy(labels)
    # LBFGS optimises the logarithm of the temperature, so that the temperature stays positive.
    exponent = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([exponent], max_iter=max_iter, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(inputs / exponent.exp(), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    met = [1.0]
    for _ in range(epochs):
        optimiser.step(closure)  # type: ignore[no-untyped-call]
        found = float(np.clip(exponent.exp().item(), LEAST_TEMPERATURE, GREATEST_TEMPERATURE))
        progress(1)
        if found == met[-1]:
            break
        met.append(found)
    return min(met, key=lambda temperature: measure_quality(logits, labels, temperature).ece)


def fit_by_ece(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Return the temperature with the lowest ECE on a grid from 0.05 to 20; of several, the nearest to 1 in logarithm.

    The ECE is not a continuous function of the temperature, so every point of the grid is tried.
    """
    order = np.argsort(np.abs(np.log(_GRID)), kind="stable")
    errors = [measure_quality(logits, labels, float(temperature)).ece for temperature in _GRID[order]]
    return float(_GRID[order][int(np.argmin(errors))])
