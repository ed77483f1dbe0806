"""The months of an evaluation and their repeated vectors.

There are three kinds of months: those of training, the *month of the choice*, on which thresholds are chosen, and the
later months, on which they are evaluated.
"""

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from utils.dataset import distinct_vectors, find_datasets, read_all_labelled, strip_ending
from utils.decision import Decisions
from utils.errors import DatasetError
from utils.schema import FEATURES

ALL_ROWS: Final = "all rows"
UNSEEN: Final = "rows of unseen vectors"
DISTINCT: Final = "distinct vectors"
SUBSETS: Final = (ALL_ROWS, UNSEEN, DISTINCT)

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Month:
    """Labelled rows, sorted by vector and label, so that results do not depend on their order in the file.

    Attributes:
        name: of the file, without its ending; of several files, separated by spaces.
        features: (N, 58) float32.
        labels: (N,) int64.
        first: (D,) the index of one row of each distinct vector.
        vector_index: (N,) the index in ``first`` of each row's vector.
        seen: (N,) bool, whether the row's vector is among the training rows.
    """

    name: str
    features: NDArray[np.float32]
    labels: IntArray
    first: NDArray[np.intp]
    vector_index: NDArray[np.intp]
    seen: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def majority(self) -> IntArray:
        """The label that most rows of each distinct vector have (D,); in a tie, attack."""
        attacks = np.bincount(self.vector_index, self.labels)
        return (2 * attacks >= np.bincount(self.vector_index)).astype(np.int64)


@dataclass(frozen=True)
class Subset:
    """Some rows of a month.

    Attributes:
        name: one of ``SUBSETS``.
        rows: (K,) the indices of the rows in the month.
        labels: (K,) int64, the labels to compare with.
    """

    name: str
    rows: NDArray[np.intp]
    labels: IntArray

    def of(self, decisions: Decisions) -> Decisions:
        """Return the decisions about these rows, with the labels of the subset."""
        rows = self.rows
        return Decisions(self.labels, decisions.at_1[rows], decisions.at_2[rows], decisions.predictions[rows])


def subsets(month: Month) -> tuple[Subset, ...]:
    """Return the month's ``SUBSETS``; the last has one row for each distinct vector, with its majority label."""
    every, unseen = np.arange(len(month)), np.flatnonzero(~month.seen)
    return (
        Subset(ALL_ROWS, every, month.labels),
        Subset(UNSEEN, unseen, month.labels[unseen]),
        Subset(DISTINCT, month.first, month.majority),
    )


def make_month(
    name: str, features: NDArray[np.float32], labels: IntArray, training: NDArray[np.float32] | None = None
) -> Month:
    """Return a month with features (N, 58) and labels (N,), which may be in any order.

    Args:
        name: of the month.
        features: scaled.
        labels: 0 normal, 1 attack.
        training: (M, 58) the vectors that count as seen; None: all rows of the month count as seen.
    """
    order = np.lexsort((labels, distinct_vectors(features)[1]))
    features, labels = features[order], labels[order]
    first, place = distinct_vectors(features)
    seen = np.ones(len(labels), dtype=np.bool_)
    if training is not None:
        _, together = distinct_vectors(np.concatenate((training, features)))
        seen = np.isin(together[len(training) :], together[: len(training)])
    return Month(name, features, labels, first, place, seen)


def read_month(paths: Sequence[Path], training: Month | None = None) -> Month:
    """Read labelled CSVs as one month.

    Raises:
        DatasetError: a file is missing, is damaged, or has wrong columns, cells or labels.
    """
    dataset, labels = read_all_labelled(paths)
    name = " ".join(strip_ending(path.name) for path in paths)
    return make_month(name, dataset.features, labels, None if training is None else training.features)


@dataclass(frozen=True)
class Calendar:
    """The files of an evaluation: the month of the choice, and the later months in order of time."""

    choice: Path
    later: tuple[Path, ...]

    def check_unused(self, trained: Iterable[str], calibrated: Iterable[str]) -> None:
        """Check that a network was neither trained on the month of the choice nor trained or calibrated on a later one.

        Raises:
            DatasetError: the network was.
        """
        choice, later = strip_ending(self.choice.name), {strip_ending(path.name) for path in self.later}
        for use, met in (
            ("trained", sorted({choice, *later} & set(trained))),
            ("calibrated", sorted(later & set(calibrated))),
        ):
            if met:
                after = "after" if use == "trained" else "not before"
                raise DatasetError(
                    f"a network was {use} on {met[-1]}, so it cannot be evaluated with --choose-month {choice}; name a "
                    f"month {after} {met[-1]}"
                )


def find_training_files(folder: Path, pattern: str | None, said: Sequence[str]) -> list[Path]:
    """Return the files of a folder that the networks were trained on.

    Args:
        folder: with labelled CSVs.
        pattern: a glob of the files; None: the months that the networks name.
        said: the training months that the networks name.

    Raises:
        DatasetError: there is no such file.
    """
    if pattern is not None:
        return find_datasets(folder, pattern)
    try:
        return [path for name in said for path in find_datasets(folder, glob.escape(name))]
    except DatasetError as problem:
        raise DatasetError(
            f"{problem}; the networks were trained on {' '.join(said)}: add it, or name another with --train-month"
        ) from (problem)


def make_calendar(folder: Path, training: Sequence[Path], choose_month: str) -> Calendar:
    """Return the file of a folder that thresholds are chosen on, and those that they are evaluated on.

    Args:
        folder: with labelled CSVs, whose names sort by time.
        training: files that the networks were trained on.
        choose_month: the month that thresholds are chosen on.

    Raises:
        DatasetError: a month is missing or in the wrong order.
    """
    chosen = find_datasets(folder, choose_month)
    if len(chosen) > 1:
        raise DatasetError(
            f"--choose-month {choose_month!r} matches {', '.join(path.name for path in chosen[:3])}; name one of them"
        )
    choice = strip_ending(chosen[0].name)
    if late := [path.name for path in training if strip_ending(path.name) >= choice]:
        raise DatasetError(
            f"--choose-month {choice} is not after {late[0]}, which the networks were trained on; "
            "name a month after all training months"
        )
    later = [path for path in find_datasets(folder, "*") if strip_ending(path.name) > choice]
    names = [strip_ending(path.name) for path in later]
    if twice := [path.name for path in later if names.count(strip_ending(path.name)) > 1]:
        raise DatasetError(f"{folder}: holds {' and '.join(twice[:2])}, the same month twice; move one away")
    if not later:
        raise DatasetError(
            f"{folder}: holds no month after --choose-month {choice} to evaluate on; add one, or choose another month"
        )
    return Calendar(chosen[0], tuple(later))


def find_constant_columns(features: NDArray[np.float32]) -> list[str]:
    """Return the columns that hold the same value in all rows (N, 58)."""
    return [name for name, same in zip(FEATURES, (features == features[0]).all(axis=0), strict=True) if same]


def find_equal_columns(features: NDArray[np.float32]) -> list[list[str]]:
    """Return the groups of columns that equal each other in all rows (N, 58) and are not constant."""
    constant = set(find_constant_columns(features))
    _, group = np.unique(features.T, axis=0, return_inverse=True)
    members = ([name for name, at in zip(FEATURES, group, strict=True) if at == number] for number in range(58))
    return sorted(names for names in members if len(names) > 1 and not constant & set(names))
