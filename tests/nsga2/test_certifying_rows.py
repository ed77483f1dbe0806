from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nsga2.certification import compute_p_values, split_rows
from nsga2.certifying_rows import CertifyingRows, divide, read_answers, use_all_rows, use_labelled_rows
from tests.nsga2.plain_objectives import plain_table
from tests.nsga2.test_certification import draw_events
from utils.errors import InfeasibleError, ResultFileError
from utils.schema import INFERENCE_COLUMNS, NOT_ASKED, OFFLOAD_COLUMNS

EVENTS = {name: draw_events(rows, seed) for name, rows, seed in (("2016_03", 300, 1), ("2016_04", 200, 2))}


def write_answers(folder: Path, name: str, kind: str = "inference") -> Path:
    """Write what the exits answered about a month: an evaluation CSV, or what ``dnn/inference.py`` would write."""
    events, path = EVENTS[name], folder / f"{name}.csv"
    columns = (events.certainty_1, events.prediction_1, events.certainty_2, events.prediction_2)
    table = pd.DataFrame(dict(zip(INFERENCE_COLUMNS, columns, strict=True)))
    (plain_table(events) if kind == "evaluation" else table).to_csv(path, index=False)
    return path


def write_list(path: Path, records: Sequence[tuple[str, int, float, object]]) -> Path:
    """Write a label list of records (file, row from 1, weight, class)."""
    pd.DataFrame(records, columns=["file", "row", "weight", "class"]).to_csv(path, index=False)
    return path


def label(name: str, rows: Sequence[int], weight: float) -> list[tuple[str, int, float, object]]:
    """Return records with their true classes; rows count from 1."""
    return [(f"{name}.csv", row, weight, int(EVENTS[name].labels[row - 1])) for row in rows]


@pytest.mark.parametrize("kind", ["inference", "evaluation"])
def test_labels_belong_to_the_rows_that_they_name_in_files_of_both_kinds(kind: str, tmp_path: Path) -> None:
    files = [write_answers(tmp_path, name, kind) for name in EVENTS]
    random, informative = label("2016_04", range(1, 41), 5), label("2016_03", [300, 7], 0)
    found = use_labelled_rows(files, [write_list(tmp_path / "l.csv", [*random, *informative])], 1, all_test=False)
    assert found.starts.tolist() == [0, 300, 500]
    proposing, testing = set(found.proposing.tolist()), set(found.testing.tolist())
    assert not proposing & testing
    assert proposing | testing == {299, 6, *range(300, 340)}
    assert {299, 6} <= proposing, "informative records test nothing"
    assert len(testing) == len(split_rows(40, 1)[1])
    for row in proposing | testing:
        month, index = ("2016_03", row) if row < 300 else ("2016_04", row - 300)
        answers = found.evaluation.take(np.array([row]))
        assert answers.labels[0] == EVENTS[month].labels[index]
        assert answers.certainty_2[0] == pytest.approx(EVENTS[month].certainty_2[index])
    assert (found.evaluation.labels == -1).sum() == 500 - 42, "labels of evaluation CSVs are not used"
    assert found.notes == (f"labels: {len(testing)} random records test; 14 random and 2 informative ones propose",)


def test_if_others_propose_all_random_records_test(tmp_path: Path) -> None:
    file = write_answers(tmp_path, "2016_03")
    records = [*label("2016_03", range(1, 31), 10), *label("2016_03", range(100, 120), 0)]
    found = use_labelled_rows([file], [write_list(tmp_path / "l.csv", records)], 1, all_test=True)
    assert (found.testing.tolist(), found.proposing.tolist()) == (list(range(30)), [])
    assert found.notes == ("labels: 30 random records test; other rows propose, so that 20 records are not used",)
    assert found.evaluation.time_segment_2.tolist() == [1.0] * 300, "times are not known"


def test_records_without_a_class_are_left_out_and_the_others_stand_for_them(tmp_path: Path) -> None:
    files = [write_answers(tmp_path, name) for name in EVENTS]
    march, april = label("2016_03", range(1, 101), 3), label("2016_04", range(1, 101), 3)
    empty = [(file, row, weight, "") for file, row, weight, _ in march[50:]]
    lists = [write_list(tmp_path / "3.csv", [*march[:50], *empty]), write_list(tmp_path / "4.csv", april)]
    found = use_labelled_rows(files, lists, 1, all_test=True)
    assert found.notes[-1] == (
        "left out: 50 records without a class, 50 of them random; the certificate holds if these are like the others"
    )
    tested = found.testing < 300
    assert tested.sum() == 50, "each of these stands for two"
    assert 30 < (~tested).sum() < 70


def test_records_that_stand_for_fewer_rows_are_thinned_so_that_each_row_counts_as_much() -> None:
    weights = np.repeat([10.0, 40.0, 0.0], [4000, 1000, 500])
    proposing, testing = divide(weights, seed=1)
    assert sorted([*proposing, *testing]) == list(range(5500))
    counts = np.bincount(np.searchsorted([4000, 5000], testing, side="right"), minlength=3)
    assert counts[0] == pytest.approx(counts[1], rel=0.15) and counts[2] == 0
    assert 5499 in proposing, "an informative record proposes"
    _, testing = divide(weights, seed=1, all_test=True)
    assert (testing >= 4000).sum() == 1000 and (testing < 4000).sum() == pytest.approx(1000, rel=0.15)


def test_the_tests_stay_exact_if_months_with_other_errors_have_other_weights() -> None:
    # Of 30,000 rows of a month 20 % are wrong, and 4 % of 10,000 of the next: 16 % of all. 200 of each are labelled.
    weights, is_rare = np.repeat([150.0, 50.0], 200), np.arange(400) >= 200
    generator, runs, limit = np.random.default_rng(3), 1000, 0.16
    passed = {"thinned": 0, "pooled": 0}
    for seed in range(runs):
        wrong = generator.random(400) < np.where(is_rare, 0.04, 0.20)
        _, testing = divide(weights, seed, all_test=True)
        for name, rows in (("thinned", testing), ("pooled", np.arange(400))):
            p_value = compute_p_values(np.array([len(rows)]), np.array([wrong[rows].sum()]), limit)[0]
            passed[name] += int(p_value <= 0.05)
    assert passed["thinned"] <= stats.binom.ppf(0.999, runs, 0.05)
    assert passed["pooled"] > 0.2 * runs, "without thinning, the limit is certified too often"


def test_all_rows_of_evaluation_csvs_propose_or_test(tmp_path: Path) -> None:
    files = [write_answers(tmp_path, name, "evaluation") for name in EVENTS]
    found = use_all_rows(files, seed=4, all_test=False)
    proposing, testing = split_rows(500, 4)
    assert (found.proposing == proposing).all() and (found.testing == testing).all()
    assert use_all_rows(files, seed=4, all_test=True).testing.tolist() == list(range(500))


def test_times_count_only_if_all_files_have_them(tmp_path: Path) -> None:
    march, april = write_answers(tmp_path, "2016_03", "evaluation"), write_answers(tmp_path, "2016_04")
    assert [part.time_exit_1[0] for part in read_answers([march])] == [EVENTS["2016_03"].time_exit_1[0]]
    assert [part.time_exit_1[0] for part in read_answers([march, april])] == [1.0, 1.0]


def test_rows_that_are_not_trusted_neither_propose_nor_test() -> None:
    rows = CertifyingRows(EVENTS["2016_04"], np.array([0, 200]), np.arange(5), np.arange(5, 10))
    left_out = np.zeros(200, dtype=np.bool_)
    left_out[[0, 7]] = True
    found = rows.leave_out(left_out)
    assert (found.proposing.tolist(), found.testing.tolist()) == ([1, 2, 3, 4], [5, 6, 8, 9])
    left_out[:5] = True
    with pytest.raises(InfeasibleError, match="4 rows are left to test thresholds, and 0 to propose them"):
        rows.leave_out(left_out)


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (
            label("2016_04", [1], 5),
            r"l\.csv: row 1 \(line 2\) names row 1 of 2016_04, but no --eval-file has this name",
        ),
        ([("2016_03.csv", 301, 5, 1)], r"names row 301 of 2016_03, but .*2016_03\.csv has 300 rows"),
        (
            [*label("2016_03", [9], 5), *label("2016_03", [9], 0)],
            r"row 2 \(line 3\) names row 9 .* as row 1 \(line 2\)",
        ),
        (label("2016_03", [9, 10], 0), "no random record has a class, and only random ones can test thresholds"),
        ([("2016_03.csv", 9, 5, "")], "no record has a class"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(
    records: list[tuple[str, int, float, object]], says: str, tmp_path: Path
) -> None:
    file = write_answers(tmp_path, "2016_03")
    with pytest.raises(ResultFileError, match=says):
        use_labelled_rows([file], [write_list(tmp_path / "l.csv", records)], 1, all_test=False)


def test_one_random_record_certifies_nothing(tmp_path: Path) -> None:
    file = write_answers(tmp_path, "2016_03")
    with pytest.raises(InfeasibleError, match="too few rows to certify any error: 1"):
        use_labelled_rows([file], [write_list(tmp_path / "l.csv", label("2016_03", [4], 5))], 1, all_test=False)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    files = [write_answers(folder, "2016_03") for folder in (tmp_path, tmp_path / "old")]
    with pytest.raises(ResultFileError, match="has the name of another --eval-file"):
        use_labelled_rows(files, [write_list(tmp_path / "l.csv", label("2016_03", [4], 5))], 1, all_test=False)


def test_verdicts_in_which_exit_2_was_asked_about_some_events_only_are_refused_where_a_label_needs_it(
    tmp_path: Path,
) -> None:
    rows: list[list[object]] = [[0.6, 1, 0.9, 0, 0.9, 0, NOT_ASKED]] * 3 + [
        [0.99, 1, *[NOT_ASKED] * 2, 0.99, 1, NOT_ASKED]
    ]
    pd.DataFrame(rows, columns=list(OFFLOAD_COLUMNS)).to_csv(tmp_path / "2016_03.csv", index=False)
    asked = [("2016_03", row, 2.0, 1) for row in (1, 2, 3)]
    found = use_labelled_rows([tmp_path / "2016_03.csv"], [write_list(tmp_path / "l.csv", asked)], 1, all_test=True)
    assert found.testing.tolist() == [0, 1, 2]
    every = write_list(tmp_path / "l.csv", [*asked, ("2016_03", 4, 2.0, 1)])
    with pytest.raises(ResultFileError, match=r"row 4 has no answer of exit 2, .*from dnn/inference\.py"):
        use_labelled_rows([tmp_path / "2016_03.csv"], [every], 1, all_test=True)
