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


def differing(plain: Answers, ours: Answers, most: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which labels (N,) differ at even odds (the plain version within ``most`` of 0.5), and which elsewhere."""
    differs, even = plain[0] != ours[0], plain[1].astype(np.float64) <= 0.5 + most
    return differs & even, differs & ~even


def agreement(plain: Answers, ours: Answers, most: float = MOST_DIFFERENCE) -> str:
    """Return how equal the answers of both are, in words.

    Args:
        plain, ours: for the same events.
        most: that a certainty may differ by; only where the plain one is within it of 0.5 may the labels differ.

    Raises:
        DisagreementError: they differ by more.
    """
    count = len(plain[0])
    if count != len(ours[0]):
        raise DisagreementError(f"{len(ours[0])} answers for {count} events")
    (at_even_odds, elsewhere), difference = differing(plain, ours, most), apart(plain, ours)
    if not difference <= most or elsewhere.any():
        raise DisagreementError(
            f"{(at_even_odds | elsewhere).sum()} of {count} labels differ, and certainties by up to {difference:.1e}, "
            f"where {most:g} is allowed"
        )
    equal = f"labels equal but for {at_even_odds.sum()} at even odds" if at_even_odds.any() else "labels equal"
    return f"{equal}, max |Δ certainty| {difference:.0e} (≤ {most:g}), {count} events"


def approximation(plain: Answers, ours: Answers, least: float, most: float = 0.5) -> str:
    """Return the same for answers that are meant to differ, as those of 8-bit integers.

    A label at even odds may be either one, and counts as equal: among few events, one such label is a large share.

    Raises:
        DisagreementError: a lower share than ``least`` of the labels is equal, or a certainty differs by more than
            ``most``.
    """
    equal = 1 - float(differing(plain, ours, MOST_DIFFERENCE)[1].mean())
    difference = apart(plain, ours)
    if not equal >= least:
        raise DisagreementError(f"{100 * equal:.1f} % of the labels are equal, where {100 * least:g} % are needed")
    if not difference <= most:
        raise DisagreementError(f"certainties differ by up to {difference:.1e}, where {most:g} is allowed")
    bound = "" if most >= 0.5 else f" (≤ {most:g})"
    return f"{100 * equal:.4g} % of labels equal (≥ {100 * least:g} %), max |Δ certainty| {difference:.1g}{bound}"
