from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nsga2.certifying_rows import UNKNOWN, CertifyingRows
from nsga2.watched_traffic import find_changed_vectors, read_features, refer
from tests.nsga2.test_certification import draw_events
from utils.errors import InputFileError
from utils.labelled_rows import LabelledRows
from utils.schema import CLASS, FEATURE_COUNT, FEATURES

ROWS = 1000
FREQUENT = np.arange(ROWS) % 2 == 0
GENERATOR = np.random.default_rng(1)


def make_features() -> np.ndarray:
    """Return features (N, 58): every other row has one vector, and the others have one each."""
    features = GENERATOR.random((ROWS, FEATURE_COUNT), dtype=np.float32)
    features[FREQUENT] = 0.5
    return features


EVALUATION = draw_events(ROWS, seed=1)
MONTH = make_features()
BEFORE = LabelledRows("2016_02", MONTH, np.where(FREQUENT, 1, EVALUATION.labels))


def make_rows(labels: np.ndarray) -> CertifyingRows:
    """Return rows with labels (N,) of which the first half proposes, and the second half tests."""
    starts = np.array([0, 400, ROWS])
    return CertifyingRows(replace(EVALUATION, labels=labels), starts, np.arange(500), np.arange(500, ROWS))


def test_a_vector_is_found_by_the_labels_of_the_rows_that_propose_and_not_by_those_of_the_tests() -> None:
    is_proposing = np.arange(ROWS) < 500
    in_proposing, in_tests = (np.where(FREQUENT & chosen, 0, BEFORE.labels) for chosen in (is_proposing, ~is_proposing))
    found = find_changed_vectors(BEFORE, MONTH, make_rows(in_proposing))
    assert (found == 0.5).all() and len(found) == 1
    assert len(find_changed_vectors(BEFORE, MONTH, make_rows(in_tests))) == 0


def test_the_rows_of_a_vector_that_is_not_trusted_are_known() -> None:
    reference, is_distrusted = refer(MONTH, make_rows(EVALUATION.labels), 0.06, MONTH[:1])
    assert reference.distrusted == (0,) and (is_distrusted == FREQUENT).all()
    reference, is_distrusted = refer(MONTH, make_rows(EVALUATION.labels), 0.06, MONTH[1:2])
    assert reference.distrusted == () and not is_distrusted.any(), "a rare vector is accepted by clients"
    assert refer(MONTH, make_rows(EVALUATION.labels), 0.06, None)[0].rows == ROWS


def write_datasets(folder: Path, labels: np.ndarray | None) -> list[Path]:
    paths = [folder / "1.csv", folder / "2.csv"]
    table = pd.DataFrame(MONTH, columns=list(FEATURES))
    if labels is not None:
        table[CLASS] = labels
    for path, part in zip(paths, (table[:400], table[400:]), strict=True):
        part.to_csv(path, index=False)
    return paths


FILES = [Path("e1.csv"), Path("e2.csv")]


def test_features_are_those_of_all_files_in_order(tmp_path: Path) -> None:
    for labels in (None, EVALUATION.labels):
        datasets = write_datasets(tmp_path, labels)
        assert (read_features(datasets, FILES, make_rows(EVALUATION.labels)) == MONTH).all()


def test_a_dataset_of_other_rows_is_refused(tmp_path: Path) -> None:
    rows = make_rows(EVALUATION.labels)
    first, second = write_datasets(tmp_path, 1 - EVALUATION.labels)
    with pytest.raises(InputFileError, match=r"1\.csv: holds other rows than e1\.csv; give the dataset that it"):
        read_features([first, second], FILES, rows)
    with pytest.raises(InputFileError, match=r"2\.csv: holds other rows than e1\.csv"):
        read_features([second, first], FILES, rows)
    with pytest.raises(InputFileError, match="1 --dataset for 2 --eval-file; give one for each, in order"):
        read_features([first], FILES, rows)
    few = EVALUATION.labels.copy()
    few[5:] = UNKNOWN
    assert len(read_features([first, second], FILES, make_rows(few))) == ROWS, "a person may see a class otherwise"
