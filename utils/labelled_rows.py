"""Labelled rows of a period, and how they are divided between training and tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from utils.dataset import read_labelled, strip_ending

DECAY: Final = 0.7
"""Weight of a month in training, as a share of the weight of the month after it."""


@dataclass(frozen=True)
class LabelledRows:
    """Labelled rows in the order of their file.

    Attributes:
        name: of the file, without its ending.
        features: (N, 58) float32, scaled.
        labels: (N,) int64, 0 normal and 1 attack.
    """

    name: str
    features: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.intp]) -> "LabelledRows":
        """Return the rows with the given indices."""
        return LabelledRows(self.name, self.features[rows], self.labels[rows])


def read_rows(path: Path) -> LabelledRows:
    """Read a labelled dataset.

    Raises:
        DatasetError: the file is missing, is damaged, or has wrong columns, cells or labels.
    """
    dataset, labels = read_labelled(path)
    return LabelledRows(strip_ending(path.name), dataset.features, labels)


def draw_rows(rows: LabelledRows, count: int, seed: int) -> LabelledRows:
    """Return ``count`` random rows, in their order; all if there are no more."""
    if count >= len(rows):
        return rows
    return rows.take(np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False)))


def hold_back(months: Sequence[LabelledRows], wanted: int, seed: int) -> tuple[list[LabelledRows], LabelledRows]:
    """Divide months into rows to train on and the latest rows, which training must not see.

    At most half of a month is held back, so that training sees each month. If that is less than ``wanted``, rows of the
    month before are held back too, and so on.

    Args:
        months: in order of time, one or more.
        wanted: number of rows to hold back.
        seed: of the random choice within a month. With the same seed, the same rows of a month are chosen first.

    Returns:
        for each month, the rows to train on; and the rows that are held back, of all months together.
    """
    training, held, left = list(months), list[LabelledRows](), wanted
    for index in reversed(range(len(months))):
        rows = months[index]
        count = min(left, len(rows) // 2)
        left -= count
        shuffled = np.random.default_rng((seed, index)).permutation(len(rows))
        training[index] = rows.take(np.sort(shuffled[count:]))
        held.append(rows.take(np.sort(shuffled[:count])))
    return training, join_rows(held[::-1])


def split_in_half(rows: LabelledRows, seed: int) -> tuple[LabelledRows, LabelledRows]:
    """Return two random halves of the rows, each in their order."""
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    middle = (len(rows) + 1) // 2
    return rows.take(np.sort(shuffled[:middle])), rows.take(np.sort(shuffled[middle:]))


def leave_out(rows: LabelledRows, vectors: NDArray[np.float32]) -> LabelledRows:
    """Return the rows without those that have one of the vectors (k, 58); all rows if none would be left."""
    is_kept = np.ones(len(rows), dtype=np.bool_)
    for vector in vectors:
        is_kept &= (rows.features != vector).any(axis=1)
    return rows.take(np.flatnonzero(is_kept)) if is_kept.any() else rows


def join_rows(parts: Sequence[LabelledRows]) -> LabelledRows:
    """Return all rows of the parts; the name joins those of the parts that hold rows."""
    names = " ".join(part.name for part in parts if len(part))
    return LabelledRows(
        names, np.concatenate([part.features for part in parts]), np.concatenate([part.labels for part in parts])
    )
