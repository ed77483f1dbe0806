from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from evaluations.months import (
    ALL_ROWS,
    DISTINCT,
    UNSEEN,
    find_constant_columns,
    find_equal_columns,
    find_training_files,
    make_calendar,
    make_month,
    read_month,
    subsets,
)
from tests.captures import SHARED, needs_shared
from tests.evaluations.small_months import month, rows_of
from utils.dataset import strip_ending
from utils.decision import Decisions
from utils.errors import DatasetError
from utils.schema import FEATURES

FEATURE_ROWS, LABELS = rows_of(2)


def vectors(*kinds: int) -> np.ndarray:
    """Return rows whose vectors are equal where the numbers are."""
    return np.array(kinds, dtype=np.float32)[:, np.newaxis].repeat(58, axis=1)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


def test_a_month_does_not_depend_on_the_order_of_its_rows() -> None:
    generator = np.random.default_rng(0)
    features, labels = FEATURE_ROWS[generator.integers(30, size=200)], generator.integers(2, size=200)
    order = generator.permutation(200)
    one, other = make_month("m", features, labels), make_month("m", features[order], labels[order])
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)
    assert sorted(zip(map(bytes, one.features), one.labels, strict=True)) == sorted(
        zip(map(bytes, features), labels, strict=True)
    )


def test_a_row_is_seen_if_its_vector_stands_among_the_training_rows() -> None:
    training, evaluated = month(1, rows=400), month(2, month(1, rows=400), rows=400)
    known = {bytes(row) for row in training.features}
    assert evaluated.seen.tolist() == [bytes(row) in known for row in evaluated.features]
    assert 0 < evaluated.seen.sum() < len(evaluated)
    assert month(1).seen.all()


def test_a_distinct_vector_has_the_label_of_its_majority_and_of_a_tie_attack() -> None:
    found = make_month("m", vectors(1, 1, 1, 2, 2, 3, 3, 3, 4), np.array([0, 1, 0, 0, 1, 1, 0, 1, 0]))
    by_vector = dict(zip(found.features[found.first, 0].tolist(), found.majority.tolist(), strict=True))
    assert by_vector == {1: 0, 2: 1, 3: 1, 4: 0}


def test_the_subsets_are_all_rows_those_of_unseen_vectors_and_each_vector_once() -> None:
    found = make_month("m", vectors(1, 1, 1, 2, 5, 5), np.array([0, 0, 1, 1, 1, 0]), vectors(1, 7))
    by_name = {subset.name: subset for subset in subsets(found)}
    assert list(by_name) == [ALL_ROWS, UNSEEN, DISTINCT]
    kinds = {name: sorted(found.features[subset.rows, 0].tolist()) for name, subset in by_name.items()}
    assert kinds == {ALL_ROWS: [1, 1, 1, 2, 5, 5], UNSEEN: [2, 5, 5], DISTINCT: [1, 2, 5]}
    distinct = by_name[DISTINCT]
    labels = dict(zip(found.features[distinct.rows, 0].tolist(), distinct.labels.tolist(), strict=True))
    assert labels == {1: 0, 2: 1, 5: 1}
    assert by_name[UNSEEN].labels.tolist() == found.labels[by_name[UNSEEN].rows].tolist()


def test_decisions_about_a_subset_are_those_about_its_rows() -> None:
    found = make_month("m", vectors(3, 1, 2), np.array([0, 1, 0]), vectors(1))
    at_1 = found.features[:, 0] == 2
    unseen = subsets(found)[1]
    decided = unseen.of(Decisions(found.labels, at_1, ~at_1, np.array([1, 1, 1])))
    assert decided.at_1.tolist() == at_1[unseen.rows].tolist()
    assert decided.at_2.tolist() == (~at_1)[unseen.rows].tolist()
    assert (len(decided.labels), sorted(decided.at_1.tolist())) == (2, [False, True])


@pytest.mark.parametrize(
    ("file", "name"),
    [("2016_03.csv", "2016_03"), ("2016_03.csv.bz2", "2016_03"), ("a.CSV.GZ", "a"), ("a.Pq", "a"), ("a", "a")],
)
def test_a_month_has_the_name_of_its_file_without_the_ending(file: str, name: str) -> None:
    assert strip_ending(file) == name


def test_only_months_after_the_choice_are_evaluated(tmp_path: Path) -> None:
    touch(tmp_path, "2016_01.csv", "2016_03.csv", "2016_02.csv.gz", "2015_12.csv", "2016_10.csv", "notes.txt")
    plan = make_calendar(tmp_path, [tmp_path / "2016_01.csv"], "2016_02")
    assert plan.choice.name == "2016_02.csv.gz"
    assert [path.name for path in plan.later] == ["2016_03.csv", "2016_10.csv"]


@pytest.mark.parametrize(
    ("files", "training", "choose", "says"),
    [
        (("01", "02", "03"), ("01",), "2016_01", "--choose-month 2016_01 is not after 2016_01.csv"),
        (("01", "02", "03"), ("01", "03"), "2016_02", "after 2016_03.csv, which the networks were trained on; name a"),
        (("01", "02"), ("01",), "2016_02", "no month after --choose-month 2016_02 to evaluate on; add one"),
        (("01", "02", "03"), ("01",), "2016_0[23]", "matches 2016_02.csv, 2016_03.csv; name one"),
        (("01", "03"), ("01",), "2016_02", "no dataset matches '2016_02'"),
    ],
)
def test_months_in_the_wrong_order_are_refused_with_the_remedy(
    tmp_path: Path, files: Sequence[str], training: Sequence[str], choose: str, says: str
) -> None:
    touch(tmp_path, *(f"2016_{number}.csv" for number in files))
    with pytest.raises(DatasetError) as refused:
        make_calendar(tmp_path, [tmp_path / f"2016_{number}.csv" for number in training], choose)
    assert says in str(refused.value)


def test_one_month_in_two_files_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "2016_01.csv", "2016_02.csv", "2016_03.csv", "2016_03.csv.gz")
    with pytest.raises(DatasetError, match=r"2016_03\.csv and 2016_03\.csv\.gz, the same month twice"):
        make_calendar(tmp_path, [tmp_path / "2016_01.csv"], "2016_02")


def test_a_network_that_was_trained_or_calibrated_on_what_it_is_evaluated_on_is_refused(tmp_path: Path) -> None:
    plan = make_calendar(touch(tmp_path, "2016_01.csv", "2016_02.csv", "2016_03.csv"), [], "2016_02")
    plan.check_unused(("2016_01",), ("2016_02",))
    for trained, calibrated, says in (
        (("2016_01", "2016_03"), (), "trained on 2016_03, so it cannot be evaluated with --choose-month 2016_02"),
        (("2016_02",), (), "name a month after 2016_02"),
        (("2016_01",), ("2016_03",), "calibrated on 2016_03"),
    ):
        with pytest.raises(DatasetError) as refused:
            plan.check_unused(trained, calibrated)
        assert says in str(refused.value)


def test_the_training_months_are_given_or_named_by_the_networks(tmp_path: Path) -> None:
    touch(tmp_path, "2016_01.csv", "2016_02.csv", "2016_03.csv")
    given = find_training_files(tmp_path, "2016_0[12]", ("2016_03",))
    assert [path.name for path in given] == ["2016_01.csv", "2016_02.csv"]
    assert [path.name for path in find_training_files(tmp_path, None, ("2016_03",))] == ["2016_03.csv"]
    with pytest.raises(DatasetError, match=r"trained on none.*--train-month"):
        find_training_files(tmp_path, None, ("none",))


def test_several_files_are_one_month_of_all_their_rows(sample: Path) -> None:
    both = read_month([sample / "2016_01.csv", sample / "2016_02.csv"])
    assert (both.name, len(both)) == ("2016_01 2016_02", 1400)


def test_constant_and_equal_columns_are_named() -> None:
    features = np.random.default_rng(0).random((9, 58)).astype(np.float32)
    assert (find_constant_columns(features), find_equal_columns(features)) == ([], [])
    features[:, [4, 9]] = 0.5
    features[:, 20] = features[:, 3] = features[:, 40]
    features[:, 7] = features[:, 6]
    assert find_constant_columns(features) == [FEATURES[4], FEATURES[9]]
    assert find_equal_columns(features) == [[FEATURES[at] for at in (3, 20, 40)], [FEATURES[6], FEATURES[7]]]


@needs_shared
def test_four_columns_of_january_are_constant_and_two_pairs_equal() -> None:
    features = read_month([SHARED / "data" / "dataset" / "2016_01.csv"]).features
    directions = ("a_b", "b_a")
    assert find_constant_columns(features) == [
        f"MOORE_{counter}_{way}" for counter in ("pure_acks_sent", "urgent_pkts_sent") for way in directions
    ]
    assert find_equal_columns(features) == [
        ["MOORE_quartileFirstDataWire_b_a", "MOORE_quartileThirdDataWire_b_a"],
        ["MOORE_throughput_a_b", "MOORE_throughput_b_a"],
    ]
