"""The plain version as an oracle: before anything is timed, ours must give its results."""

import numpy as np
from numpy.typing import NDArray

Answers = tuple[NDArray[np.int64], NDArray[np.floating]]
"""Labels (N,) and certainties (N,) within [0.5, 1]."""

MOST_DIFFERENCE = 1e-4
"""Of a certainty, in float32: that of the toolkit's own check of an exported file."""


LEAST_EQUAL_INT8, MOST_DIFFERENCE_INT8 = 0.9995, 0.01
"""Of a worker's labels and certainties in 8 bits."""


class DisagreementError(Exception):
    """Ours gives other results than the plain version, so that its speed is worth nothing."""


def apart(plain: Answers, ours: Answers) -> float:
    """Return by how much the probabilities of an attack differ at most."""
    attack, other = (
        np.where(labels == 1, certain, 1 - certain.astype(np.float64)) for labels, certain in (plain, ours)
    )
    return float(np.abs(attack - other).max())


def agreement(plain: Answers, ours: Answers, most: float = MOST_DIFFERENCE) -> str:
    """Return how equal the answers of both are, in words.

    Args:
        plain, ours: for the same events.
        most: that a certainty may differ by; only where the plain one is within it of 0.5 may the labels differ.

    Raises:
        DisagreementError: they differ by more.
    """
    labels, certainties, other_labels = plain[0], plain[1].astype(np.float64), ours[0]
    if len(labels) != len(other_labels):
        raise DisagreementError(f"{len(other_labels)} answers for {len(labels)} events")
    differs, difference = labels != other_labels, apart(plain, ours)
    if not difference <= most or (differs & (certainties > 0.5 + most)).any():
        raise DisagreementError(
            f"{differs.sum()} of {len(labels)} labels differ, and certainties by up to {difference:.1e}, where "
            f"{most:g} is allowed"
        )
    equal = f"labels equal but for {differs.sum()} at even odds" if differs.any() else "labels equal"
    return f"{equal}, max |Δ certainty| {difference:.0e} (≤ {most:g}), {len(labels)} events"


def approximation(plain: Answers, ours: Answers, least: float, most: float = 0.5) -> str:
    """Return the same for answers that are meant to differ, as those of 8-bit integers.

    Raises:
        DisagreementError: a lower share than ``least`` of the labels is equal, or a certainty differs by more than
            ``most``.
    """
    equal = float((plain[0] == ours[0]).mean())
    difference = apart(plain, ours)
    if not equal >= least:
        raise DisagreementError(f"{100 * equal:.1f} % of the labels are equal, where {100 * least:g} % are needed")
    if not difference <= most:
        raise DisagreementError(f"certainties differ by up to {difference:.1e}, where {most:g} is allowed")
    bound = "" if most >= 0.5 else f" (≤ {most:g})"
    return f"{100 * equal:.4g} % of labels equal (≥ {100 * least:g} %), max |Δ certainty| {difference:.1g}{bound}"
