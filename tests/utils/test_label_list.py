from pathlib import Path

import pytest

from utils.errors import ResultFileError
from utils.label_list import read_label_lists

HEADER = "file,row,chosen,weight,prediction,certainty,class\n"


def write(path: Path, *lines: str) -> Path:
    path.write_text(HEADER + "".join(f"{line}\n" for line in lines))
    return path


def test_a_class_is_a_number_or_a_word_or_is_missing(tmp_path: Path) -> None:
    lines = [
        f"2016_03.csv.gz,{row},random,25.5,0,0.9,{cell}"
        for row, cell in enumerate((0, "attack", "", "Normal", "1.0"), 1)
    ]
    (found,) = read_label_lists([write(tmp_path / "labels.csv", *lines)])
    assert found.labels.tolist() == [0, 1, -1, 0, 1]
    assert found.is_labelled.tolist() == [True, True, False, True, True]
    assert found.rows.tolist() == [0, 1, 2, 3, 4]
    assert set(found.files) == {"2016_03"} and set(found.weights) == {25.5}


def test_a_person_may_move_and_remove_columns(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("class,weight,row,file,note\nattack,0,7,a.csv,why\n")
    (found,) = read_label_lists([tmp_path / "labels.csv"])
    assert (found.labels[0], found.weights[0], found.rows[0], found.files[0]) == (1, 0, 6, "a")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a.csv,0,random,5,0,0.9,1", "column 'row' holds '0'; it must be a whole number from 1"),
        ("a.csv,1.5,random,5,0,0.9,1", "holds '1.5'"),
        ("a.csv,nan,random,5,0,0.9,1", "is empty or NaN"),
        ("a.csv,1,random,-5,0,0.9,1", "column 'weight' holds '-5'"),
        ("a.csv,1,random,inf,0,0.9,1", "column 'weight' holds 'inf'"),
        (
            "a.csv,1,random,5,0,0.9,benign",
            "column 'class' holds 'benign'; it must be 0 or normal, 1 or attack, or empty",
        ),
        ("a.csv,1,random,5,0,0.9,2", "column 'class' holds '2'"),
        (
            "a.csv,2,random,5,0,0.9,1",
            r"row 2 \(line 3\) names row 2 of a, as row 1 \(line 2\) does; remove one of them",
        ),
    ],
)
def test_a_value_that_no_list_has_is_named_with_its_place(line: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ResultFileError, match=says):
        read_label_lists([write(tmp_path / "labels.csv", "a.csv,2,random,5,0,0.9,0", line)])


def test_a_record_in_two_lists_is_refused_even_if_one_has_no_class(tmp_path: Path) -> None:
    lists = [write(tmp_path / name, f"a.csv,2,random,5,0,0.9,{cell}") for name, cell in (("1.csv", ""), ("2.csv", 1))]
    with pytest.raises(ResultFileError, match=r"2\.csv: row 1 .* names row 2 of a, as .*1\.csv: row 1"):
        read_label_lists(lists)


def test_a_list_that_nobody_filled_in_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.csv", "a.csv,2,random,5,0,0.9,")
    with pytest.raises(ResultFileError, match="no record has a class; fill in the column 'class'"):
        read_label_lists([path])


@pytest.mark.parametrize(
    ("content", "says"), [("y,row\n1,2\n", "is not a label list, it lacks file, weight, class"), (HEADER, "no rows")]
)
def test_a_file_of_another_kind_is_refused(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(ResultFileError, match=says):
        read_label_lists([tmp_path / "labels.csv"])
