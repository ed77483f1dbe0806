from pathlib import Path

import numpy as np
import pytest

from utils.errors import DatasetError
from utils.labelled_rows import LabelledRows, draw_rows, hold_back, join_rows, leave_out, read_rows, split_in_half
from utils.schema import FEATURE_COUNT


def make_rows(name: str, count: int, start: int = 0) -> LabelledRows:
    """Return rows whose first feature is their number, from ``start``, and whose label is its last bit."""
    numbers = np.arange(start, start + count)
    features = np.zeros((count, FEATURE_COUNT), dtype=np.float32)
    features[:, 0] = numbers
    return LabelledRows(name, features, numbers % 2)


def numbers_of(rows: LabelledRows) -> list[int]:
    """Return the numbers of rows, after a check that each still has its label."""
    numbers = rows.features[:, 0].astype(int)
    assert (rows.labels == numbers % 2).all()
    return [int(number) for number in numbers]


MONTHS = [make_rows("2016_01", 100), make_rows("2016_02", 60, 1000), make_rows("2016_03", 40, 2000)]


def test_a_labelled_dataset_is_read_with_its_name(sample: Path) -> None:
    rows = read_rows(sample / "2016_03.csv")
    assert rows.name == "2016_03"
    assert rows.features.shape == (len(rows), FEATURE_COUNT) and set(rows.labels.tolist()) == {0, 1}


def test_a_dataset_without_labels_is_refused(sample: Path, tmp_path: Path) -> None:
    lines = (sample / "2016_03.csv").read_text().splitlines()
    (tmp_path / "bare.csv").write_text("".join(line.rpartition(",")[0] + "\n" for line in lines))
    with pytest.raises(DatasetError, match="this stage needs a labelled dataset"):
        read_rows(tmp_path / "bare.csv")


def test_drawn_rows_keep_their_order_and_repeat_with_the_seed() -> None:
    drawn = numbers_of(draw_rows(MONTHS[0], 30, seed=1))
    assert len(set(drawn)) == 30 and drawn == sorted(drawn)
    assert drawn == numbers_of(draw_rows(MONTHS[0], 30, seed=1)) != numbers_of(draw_rows(MONTHS[0], 30, seed=2))
    assert draw_rows(MONTHS[0], 100, seed=1) is MONTHS[0]


def test_the_latest_rows_are_held_back_first_and_at_most_half_of_a_month() -> None:
    training, held = hold_back(MONTHS, 45, seed=1)
    counts = [sum(low <= number < low + 1000 for number in numbers_of(held)) for low in (0, 1000, 2000)]
    assert counts == [0, 25, 20]
    assert held.name == "2016_02 2016_03"
    for month, rest in zip(MONTHS, training, strict=True):
        kept, taken = numbers_of(rest), set(numbers_of(held)) & set(numbers_of(month))
        assert kept == sorted(kept) and sorted([*kept, *taken]) == numbers_of(month)


def test_no_more_than_half_of_all_months_is_held_back() -> None:
    training, held = hold_back(MONTHS, 10_000, seed=1)
    assert len(held) == 100 and [len(month) for month in training] == [50, 30, 20]


def test_more_rows_that_are_held_back_include_those_of_fewer() -> None:
    few, many = (set(numbers_of(hold_back(MONTHS, wanted, seed=3)[1])) for wanted in (10, 15))
    assert few < many


@pytest.mark.parametrize("count", [2, 7, 40])
def test_halves_are_random_and_share_no_row(count: int) -> None:
    rows = make_rows("2016_03", count)
    first, second = (numbers_of(half) for half in split_in_half(rows, seed=1))
    assert sorted([*first, *second]) == numbers_of(rows)
    assert len(first) - len(second) == count % 2
    assert first == sorted(first)
    assert count < 40 or first != numbers_of(split_in_half(rows, seed=2)[0])


def test_rows_of_some_vectors_are_left_out_unless_none_would_be_left() -> None:
    rows = make_rows("2016_03", 5)
    assert numbers_of(leave_out(rows, rows.features[[1, 4]])) == [0, 2, 3]
    assert numbers_of(leave_out(rows, rows.features[:0])) == [0, 1, 2, 3, 4]
    assert leave_out(rows, rows.features) is rows


def test_joined_rows_name_the_parts_that_hold_rows() -> None:
    joined = join_rows([MONTHS[0].take(np.array([3])), MONTHS[1].take(np.empty(0, np.intp)), MONTHS[2]])
    assert joined.name == "2016_01 2016_03"
    assert numbers_of(joined) == [3, *numbers_of(MONTHS[2])]
