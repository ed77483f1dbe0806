"""Find the rows that propose thresholds and those that test them: all of evaluation CSVs, or those of label lists.

With label lists, only random records test, because only these are drawn from the traffic as a whole. Records of several
lists may stand for different numbers of rows, so that a rare month would count as much as a frequent one. They are
thinned: each is kept with the probability weight / largest weight. Then each row of the traffic had the same
probability of being among the tests, and the exact tests of ``nsga2.certification`` apply to plain counts. The
informative records, the records that thinning removes, and a random share of the others propose.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsga2.certification import split_rows
from utils.errors import InfeasibleError, ResultFileError
from utils.label_list import LabelList, name_file, read_label_lists
from utils.results import Evaluation, join_evaluations, read_evaluation
from utils.verdicts import is_verdicts, read_verdicts

UNKNOWN = -1
"""Label of a row without one."""

RowArray = NDArray[np.intp]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class CertifyingRows:
    """The answers of all rows of some files, and which rows certify thresholds.

    Attributes:
        evaluation: of N rows; a label is ``UNKNOWN`` if the row has none.
        starts: (files + 1,) int64, number of the first row of each file, and N.
        proposing: numbers of the rows that propose thresholds; none if other rows do.
        testing: numbers of the rows that take part in nothing but the tests.
        notes: lines for the user about the records of label lists.
    """

    evaluation: Evaluation
    starts: NDArray[np.int64]
    proposing: RowArray
    testing: RowArray
    notes: tuple[str, ...] = ()

    def leave_out(self, is_left_out: NDArray[np.bool_]) -> "CertifyingRows":
        """Return the same without the rows for which (N,) is set.

        Raises:
            InfeasibleError: no row is left to propose or to test.
        """
        proposing, testing = (rows[~is_left_out[rows]] for rows in (self.proposing, self.testing))
        if not (len(proposing) and len(testing)):
            raise InfeasibleError(
                f"{len(testing)} rows are left to test thresholds, and {len(proposing)} to propose them; give more rows"
            )
        return replace(self, proposing=proposing, testing=testing)


def read_answers(files: Sequence[Path]) -> list[Evaluation]:
    """Read files of labelled or unlabelled rows: evaluation CSVs, or verdicts as ``dnn/inference.py`` writes them.

    Verdicts have no times: if a file holds verdicts, each part of the network takes 1 second in all files, so that the
    cheapest thresholds are those that offload the fewest events.

    Raises:
        ResultFileError: a file is missing, damaged or of another kind, or a value is out of range.
    """
    parts, has_times = list[Evaluation](), True
    for path in files:
        if not is_verdicts(path):
            parts.append(read_evaluation([path]))
            continue
        has_times, verdicts = False, read_verdicts(path)
        one = np.ones(len(verdicts))
        parts.append(
            Evaluation(
                np.full(len(verdicts), UNKNOWN), verdicts.prediction_1.astype(np.int64), verdicts.certainty_1, one, one,
                verdicts.prediction_2.astype(np.int64), verdicts.certainty_2, one, one,
            )
        )  # fmt: skip
    return parts if has_times else [_forget_times(part) for part in parts]


def _forget_times(part: Evaluation) -> Evaluation:
    one = np.ones(len(part))
    return replace(part, time_segment_1=one, time_exit_1=one, time_segment_2=one, time_exit_2=one)


def use_all_rows(files: Sequence[Path], seed: int, *, all_test: bool) -> CertifyingRows:
    """Return the rows of evaluation CSVs: a random share proposes and the others test or, if ``all_test``, all test.

    Raises:
        ResultFileError: a file is missing, damaged, or not an evaluation CSV.
        InfeasibleError: there is only one row to divide.
    """
    parts = [read_evaluation([path]) for path in files]
    evaluation, starts = join_evaluations(parts), _find_starts(parts)
    if all_test:
        return CertifyingRows(evaluation, starts, np.empty(0, dtype=np.intp), np.arange(len(evaluation)))
    return CertifyingRows(evaluation, starts, *split_rows(len(evaluation), seed))


def use_labelled_rows(
    files: Sequence[Path], label_files: Sequence[Path], seed: int, *, all_test: bool
) -> CertifyingRows:
    """Return the rows that label lists name, with their labels; records without a class are left out.

    Args:
        files: evaluation CSVs or verdicts, with answers of both exits; a list names them without folder and ending.
        label_files: label lists.
        seed: of the thinning and the division.
        all_test: whether all random records test, because other rows propose; the informative ones are left out then.

    Raises:
        ResultFileError: a file is missing, damaged or of another kind; a list names a file or row that is not there, or
            a record twice; no random record has a class; or exit 2 did not answer a record with a class.
        InfeasibleError: only one random record has a class.
    """
    lists, parts = read_label_lists(label_files), read_answers(files)
    starts = _find_starts(parts)
    rows = np.concatenate([_find_rows(one, files, starts) for one in lists])
    labels = np.concatenate([one.labels for one in lists])
    weights = np.concatenate([_share_out(one) for one in lists])
    is_known = labels != UNKNOWN
    missing_random, missing = int((~is_known & (weights > 0)).sum()), int((~is_known).sum())
    rows, labels, weights = rows[is_known], labels[is_known], weights[is_known]
    evaluation = join_evaluations(parts)
    _check_answered(evaluation, rows, files, starts)
    if not (weights > 0).any():
        raise ResultFileError(
            f"{lists[0].path}: no random record has a class, and only random ones can test thresholds; fill in the "
            "class of records with a weight above 0"
        )
    all_labels = np.full(len(evaluation), UNKNOWN)
    all_labels[rows] = labels
    proposing, testing = divide(weights, seed, all_test=all_test)
    notes = _describe(weights, proposing, testing, missing, missing_random)
    return CertifyingRows(replace(evaluation, labels=all_labels), starts, rows[proposing], rows[testing], notes)


def _find_starts(parts: Sequence[Evaluation]) -> NDArray[np.int64]:
    return np.cumsum([0, *map(len, parts)])


def _find_rows(one: LabelList, files: Sequence[Path], starts: NDArray[np.int64]) -> RowArray:
    """Return the numbers (n,) of the records of a list among the rows of all files."""
    numbers = dict[str, int]()
    for number, path in enumerate(files):
        if name_file(path) in numbers:
            raise ResultFileError(
                f"{path}: has the name of another --eval-file, {files[numbers[name_file(path)]]}, so that a label list "
                "could mean either; rename one of them"
            )
        numbers[name_file(path)] = number
    found = np.array([numbers.get(name, -1) for name in one.files])
    if (found < 0).any():
        raise ResultFileError(
            f"{one.path}: {one.describe(int(np.argmin(found)))}, but no --eval-file has this name (folder and ending "
            "do not matter); give it, or give your file this name"
        )
    sizes = np.diff(starts)
    beyond = one.rows >= sizes[found]
    if beyond.any():
        index = int(np.argmax(beyond))
        raise ResultFileError(
            f"{one.path}: {one.describe(index)}, but {files[found[index]]} has {sizes[found[index]]} rows; give the "
            "answers to the rows that the records were chosen from"
        )
    rows: RowArray = starts[found] + one.rows
    return rows


def _share_out(one: LabelList) -> FloatArray:
    """Return the weights (n,) of a list so that its labelled random records stand for those without a class, too."""
    weights = one.weights.copy()
    for weight in np.unique(one.weights[one.weights > 0]):
        same = one.weights == weight
        weights[same] *= same.sum() / max((same & one.is_labelled).sum(), 1)
    return weights


def _check_answered(evaluation: Evaluation, rows: RowArray, files: Sequence[Path], starts: NDArray[np.int64]) -> None:
    unanswered = rows[evaluation.prediction_2[rows] < 0]
    if len(unanswered):
        number = int(np.searchsorted(starts, unanswered[0], side="right")) - 1
        raise ResultFileError(
            f"{files[number]}: row {unanswered[0] - starts[number] + 1} has no answer of exit 2, which the client asks "
            "about uncertain events only; give the answers of both exits to all rows, from dnn/inference.py"
        )


def divide(weights: FloatArray, seed: int, *, all_test: bool = False) -> tuple[RowArray, RowArray]:
    """Return which labelled records (n,) propose thresholds, and which test them, as indices.

    Args:
        weights: (n,) number of rows that each random record stands for; 0 for the others; at least one is above 0.
        seed: of the thinning and the division.
        all_test: whether all random records that thinning keeps test, and none proposes.

    Raises:
        InfeasibleError: only one random record is left.
    """
    is_kept = np.random.default_rng(seed).random(len(weights)) < weights / weights.max()
    kept, others = np.flatnonzero(is_kept), np.flatnonzero(~is_kept)
    if all_test:
        return np.empty(0, dtype=np.intp), kept
    proposing, testing = split_rows(len(kept), seed)
    return np.sort(np.concatenate((others, kept[proposing]))), kept[testing]


def _describe(
    weights: FloatArray, proposing: RowArray, testing: RowArray, missing: int, missing_random: int
) -> tuple[str, ...]:
    randoms = int((weights[proposing] > 0).sum())
    notes = [
        f"labels: {len(testing)} random records test; "
        + (
            f"{randoms} random and {len(proposing) - randoms} informative ones propose"
            if len(proposing)
            else f"other rows propose, so that {len(weights) - len(testing)} records are not used"
        )
    ]
    if missing:
        notes.append(
            f"left out: {missing} records without a class, {missing_random} of them random; the certificate holds if "
            "these are like the others"
        )
    return tuple(notes)
