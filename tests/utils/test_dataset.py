import bz2
import csv
import gzip
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.captures import SHARED, needs_shared
from tests.scripts import ROOT
from utils.dataset import Dataset, find_datasets, read_all_labelled, read_dataset, read_labelled, to_images
from utils.errors import DatasetError, InputFileError
from utils.schema import CLASS, FEATURES, IDENTITY

COMPRESS: dict[str, Callable[[bytes], bytes]] = {".bz2": bz2.compress, ".gz": gzip.compress}

HEADER = (*FEATURES, CLASS)
LABELS = [0, 1, 1, 0]
VALUES = np.random.default_rng(1).uniform(-0.5, 3, (len(LABELS), len(FEATURES))).round(6)
ROWS = [[*map(str, values), str(label)] for values, label in zip(VALUES.tolist(), LABELS, strict=True)]

COLUMN, ROW = FEATURES[40], 2
PLACE = f"row {ROW + 1} (line {ROW + 2}), column {COLUMN!r}"
"""How messages name the cell that ``with_cell`` changes; row 1 is the first below the header."""


def text_of(header: Sequence[str] = HEADER, rows: Sequence[Sequence[str]] = ROWS) -> str:
    return "".join(",".join(line) + "\n" for line in [header, *rows])


def with_cell(cell: str, column: str = COLUMN) -> str:
    rows = [list(row) for row in ROWS]
    rows[ROW][HEADER.index(column)] = cell
    return text_of(rows=rows)


def refusal(path: Path, content: str | bytes, *, labelled: bool = False) -> str:
    """Return the message that refuses a file with this content, without the file name."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError) as caught:
        (read_labelled if labelled else read_dataset)(path)
    name, colon, reason = str(caught.value).partition(": ")
    assert (name, colon) == (str(path), ": ")
    return reason


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "month.csv"


# What is read


def test_identity_columns_beside_the_features_are_ignored(path: Path) -> None:
    rows = [["1600000005", "10.0.0.1", "10.0.0.2", *row] for row in ROWS]
    path.write_text(text_of([*IDENTITY, *HEADER], rows))
    beside = read_dataset(path)
    path.write_text(text_of())
    alone = read_dataset(path)
    np.testing.assert_array_equal(beside.features, alone.features)
    assert beside.labels is not None and alone.labels is not None
    np.testing.assert_array_equal(beside.labels, alone.labels)


def test_features_labels_and_source_come_from_the_file(path: Path) -> None:
    path.write_text(text_of())
    dataset, labels = read_labelled(path)
    np.testing.assert_array_equal(dataset.features, VALUES.astype(np.float32))
    assert dataset.features.dtype == np.float32
    assert labels.tolist() == LABELS
    assert labels.dtype == np.int64
    assert (dataset.source, len(dataset)) == ("month.csv", 4)


@needs_shared
@pytest.mark.parametrize("month", range(1, 9))
def test_a_published_month_is_read_to_the_last_digit(month: int) -> None:
    path = SHARED / "data" / "dataset" / f"2016_{month:02d}.csv"
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    dataset, labels = read_labelled(path)
    expected = np.array([[float(row[name]) for name in FEATURES] for row in rows]).astype(np.float32)
    np.testing.assert_array_equal(dataset.features, expected)
    assert labels.tolist() == [int(row[CLASS]) for row in rows]


def test_columns_in_any_order_give_the_same_dataset(path: Path) -> None:
    order = np.random.default_rng(2).permutation(len(HEADER))
    path.write_text(text_of([HEADER[i] for i in order], [[row[i] for i in order] for row in ROWS]))
    dataset, labels = read_labelled(path)
    np.testing.assert_array_equal(dataset.features, VALUES.astype(np.float32))
    assert labels.tolist() == LABELS


@pytest.mark.parametrize(
    "words", [("normal", "attack"), ("0", "attack"), ("0.0", "1.0"), (" normal", "1 "), ("Normal", "ATTACK")]
)
def test_classes_may_be_words_or_numbers(path: Path, words: tuple[str, str]) -> None:
    path.write_text(text_of(rows=[[*row[:-1], words[int(row[-1])]] for row in ROWS]))
    assert read_labelled(path)[1].tolist() == LABELS


def test_a_file_without_the_class_column_is_read_as_unlabelled(path: Path) -> None:
    path.write_text(text_of(FEATURES, [row[:-1] for row in ROWS]))
    dataset = read_dataset(path)
    assert dataset.labels is None
    np.testing.assert_array_equal(dataset.features, VALUES.astype(np.float32))


@pytest.mark.parametrize("ending", COMPRESS)
def test_a_compressed_file_is_read_like_a_plain_one(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"month.csv{ending}"
    path.write_bytes(COMPRESS[ending](text_of().encode()))
    np.testing.assert_array_equal(read_dataset(path).features, VALUES.astype(np.float32))


@pytest.mark.parametrize("change", [("\n", "\r\n"), ("MOORE_min", "\ufeffMOORE_min")], ids=["crlf", "byte order mark"])
def test_line_ends_and_byte_order_mark_of_spreadsheets_do_not_matter(path: Path, change: tuple[str, str]) -> None:
    old, new = change
    path.write_bytes(text_of().replace(old, new, -1 if old == "\n" else 1).encode())
    np.testing.assert_array_equal(read_dataset(path).features, VALUES.astype(np.float32))


def test_cells_may_be_quoted_or_have_spaces_around_them(path: Path) -> None:
    rows = [[f'"{cell}"' if number % 2 else f" {cell}  " for number, cell in enumerate(row)] for row in ROWS]
    path.write_text(text_of([f'"{name}"' for name in HEADER], rows))
    dataset, labels = read_labelled(path)
    np.testing.assert_array_equal(dataset.features, VALUES.astype(np.float32))
    assert labels.tolist() == LABELS


@pytest.mark.parametrize(
    "cell",
    [
        "-0",
        "-0.0",
        "9007199254740993",
        "18446744073709551617",
        "0.1000000000000000055511151231257827021181583404541015625",
        "1.00000005960464477539062500001",
        "7.038531e-26",
        "1e-46",
        "3.4028235e38",
    ],
)
def test_a_number_is_rounded_to_the_nearest_float64_and_then_to_the_nearest_float32(path: Path, cell: str) -> None:
    path.write_text(text_of(rows=[[cell] * len(FEATURES) + ["1"]] * 2))
    expected = np.full((2, len(FEATURES)), float(cell)).astype(np.float32)
    assert read_dataset(path).features.tobytes() == expected.tobytes()


def test_a_small_file_is_read_without_importing_pandas_and_a_large_one_with_it(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from utils.dataset import read_dataset\n"
        "path = Path(sys.argv[1]); small = read_dataset(path).features; assert 'pandas' not in sys.modules\n"
        "header, *rows = path.read_text().splitlines(); path.write_text('\\n'.join([header, *rows * 1000]))\n"
        "large = read_dataset(path).features; assert 'pandas' in sys.modules\n"
        "assert large.tobytes() == small.tobytes() * 1000\n"
    )
    path.write_text(text_of())
    subprocess.run([sys.executable, "-c", program, path], cwd=ROOT, check=True)


@pytest.mark.parametrize("end", ["", "\n"])
def test_the_last_line_may_lack_its_line_end(path: Path, end: str) -> None:
    path.write_text(text_of().rstrip("\n") + end)
    assert len(read_dataset(path)) == len(ROWS)


def test_repeated_rows_are_read_in_order(path: Path) -> None:
    order = np.random.default_rng(3).integers(0, len(ROWS), 50)
    rows = [ROWS[at] for at in order]
    path.write_text(text_of(rows=rows))
    dataset, labels = read_labelled(path)
    np.testing.assert_array_equal(dataset.features, VALUES.astype(np.float32)[order])
    assert labels.tolist() == [LABELS[at] for at in order]
    bad = list(ROWS[2])
    bad[HEADER.index(COLUMN)] = "text"
    reason = refusal(path, text_of(rows=[*rows, bad, *rows, bad]))
    assert reason.startswith(f"row 51 (line 52), column {COLUMN!r} holds 'text'")


@pytest.mark.parametrize("name", ["month.zip", "month.xz", "month.zst", "month"])
def test_plain_text_is_read_whatever_the_file_name_says(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(text_of())
    assert len(read_dataset(tmp_path / name)) == 4


# What is refused: the file as a whole


def test_a_missing_file_is_refused(path: Path) -> None:
    with pytest.raises(DatasetError, match=f"^{re.escape(str(path))}: no such file"):
        read_dataset(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"^{re.escape(str(tmp_path))}: is a folder"):
        read_dataset(tmp_path)


def test_an_empty_file_is_refused(path: Path) -> None:
    assert refusal(path, "").startswith("is empty")


def test_a_header_without_rows_is_refused(path: Path) -> None:
    assert refusal(path, text_of(rows=[])).startswith("has a header but no rows")


@pytest.mark.parametrize(
    "content",
    [
        np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes(),
        b"\x89PNG\r\n\x1a\n" + bytes(5000),
        bytes(5000),
        text_of().encode("utf-16"),
        b"\n\n\n",
        b'"' + text_of().encode(),
        "".join(text_of().splitlines(keepends=True)[1:]).encode(),
        b"{}",
        text_of().replace("\n", "\r").encode(),
        b"1" * 70_000,
        text_of().encode() + b"0," * 50_000,
        text_of().encode() + text_of(rows=ROWS[:1]).replace("\n", "\r").encode(),
    ],
    ids=[
        *("noise", "picture", "zeros", "utf-16", "only blank lines"),
        *("open quote", "no header", "json"),
        *("carriage returns", "long header", "long line", "carriage returns in a row"),
    ],
)
def test_a_file_that_is_not_a_csv_with_the_58_features_is_refused(path: Path, content: bytes) -> None:
    reasons = "is not a well-formed CSV|row 0: the header has none of the 58 feature|is UTF-16 text; save it as UTF-8"
    assert re.match(reasons, refusal(path, content))


@pytest.mark.parametrize("ending", COMPRESS)
def test_a_damaged_compressed_file_is_refused(tmp_path: Path, ending: str) -> None:
    whole = COMPRESS[ending](text_of().encode())
    middle = len(whole) // 2
    for content in (whole[:-20], whole[:middle] + b"\xff" * 20 + whole[middle + 20 :]):
        assert refusal(tmp_path / f"month.csv{ending}", content).startswith("is not a well-formed CSV")


# What is refused: a column


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ([name for name in HEADER if name != COLUMN], f"missing column {COLUMN!r}"),
        ([*HEADER, "port"], "unknown column 'port'"),
        ([COLUMN if name == FEATURES[3] else name for name in HEADER], f"missing column {FEATURES[3]!r}"),
        ([*HEADER, COLUMN], f"repeated column {COLUMN!r}"),
        ([*HEADER, CLASS], f"repeated column {CLASS!r}"),
        ([name.lower() if name == COLUMN else name for name in [*HEADER, COLUMN]], f"repeated column {COLUMN!r}"),
        (["" if name == CLASS else name for name in HEADER], "unknown column ''"),
        ([*FEATURES[5:], CLASS], f"missing column {FEATURES[0]!r}, {FEATURES[1]!r}, {FEATURES[2]!r} and 2 more;"),
    ],
)
def test_missing_unknown_and_repeated_columns_are_named(path: Path, header: list[str], named: str) -> None:
    rows = [["0"] * len(header)] * 3
    assert refusal(path, text_of(header, rows)).startswith(f"row 0: {named}")


def test_a_file_without_classes_is_refused_where_they_are_needed(path: Path) -> None:
    reason = refusal(path, text_of(FEATURES, [row[:-1] for row in ROWS]), labelled=True)
    assert reason.startswith("has no 'class' column")


# What is refused: a cell


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("text", "holds 'text'"),
        ("1;5", "holds '1;5'"),
        ("0x10", "holds '0x10'"),
        ("1_0", "holds '1_0'"),
        ("1+2j", "holds '1+2j'"),
        ("\u0661", "holds '\u0661'"),
        ("True", "holds 'True'"),
        ("inf", "holds 'inf'"),
        ("-inf", "holds '-inf'"),
        ("1e300", "holds '1e300'"),
        ("-1e39", "holds '-1e39'"),
        ("9" * 400, f"holds '{'9' * 40}'"),
        ("x" * 400, f"holds '{'x' * 40}'"),
        ("\0", r"holds '\x00'"),
        ("nan", "is empty or NaN"),
        (" NaN ", "is empty or NaN"),
        ("NA", "holds 'NA'"),
        ("", "is empty or NaN"),
    ],
)
def test_a_cell_without_a_finite_number_is_refused_with_its_row_and_column(path: Path, cell: str, found: str) -> None:
    assert refusal(path, with_cell(cell)).startswith(f"{PLACE} {found}; a finite number is needed")


@pytest.mark.parametrize("cell", ["True", "false", '"TRUE"'])
def test_a_column_of_truth_values_is_refused(path: Path, cell: str) -> None:
    rows = [[cell if name == COLUMN else value for name, value in zip(HEADER, row, strict=True)] for row in ROWS]
    reason = refusal(path, text_of(rows=rows))
    assert reason.startswith(f"row 1 (line 2), column {COLUMN!r} holds {cell.strip(chr(34))!r}; a finite number")


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("2", "holds '2'"),
        ("-1", "holds '-1'"),
        ("0.5", "holds '0.5'"),
        ("evil", "holds 'evil'"),
        ("Normal!", "holds 'Normal!'"),
        ("True", "holds 'True'"),
        ("inf", "holds 'inf'"),
        ("", "is empty or NaN"),
    ],
)
def test_an_unknown_class_is_refused_with_its_row(path: Path, cell: str, found: str) -> None:
    reason = refusal(path, with_cell(cell, CLASS))
    assert reason.startswith(f"row {ROW + 1} (line {ROW + 2}), column 'class' {found}; the classes are 0 or normal")


@pytest.mark.parametrize(("column", "cell"), [(COLUMN, "1é"), (CLASS, "attaqué")])
def test_a_byte_of_another_encoding_is_refused_with_its_row_and_column(path: Path, column: str, cell: str) -> None:
    reason = refusal(path, with_cell(cell, column).encode("latin-1"))
    found = repr(cell.replace("é", r"\xe9"))
    assert reason.startswith(f"row {ROW + 1} (line {ROW + 2}), column {column!r} holds {found}")


def test_a_blank_line_in_the_middle_is_refused_with_its_line(path: Path) -> None:
    lines = text_of().splitlines(keepends=True)
    lines.insert(ROW + 1, "\n")
    assert refusal(path, "".join(lines)).startswith(f"row {ROW + 1} (line {ROW + 2}), column {FEATURES[0]!r} is empty")


def test_a_row_that_is_too_short_is_refused_with_its_first_missing_column(path: Path) -> None:
    rows = [row[: HEADER.index(COLUMN)] if number == ROW else row for number, row in enumerate(ROWS)]
    assert refusal(path, text_of(rows=rows)).startswith(f"{PLACE} is empty")


@pytest.mark.parametrize("cell", ['"1', '"1"2', '"1\n"'], ids=["no end", "text behind it", "a line break in it"])
def test_a_quote_that_does_not_end_with_its_cell_is_refused_with_its_line(path: Path, cell: str) -> None:
    assert refusal(path, with_cell(cell)).startswith(f"row {ROW + 1} (line {ROW + 2}) is not a line of a CSV: ")


@pytest.mark.parametrize("cell", [b"\xa01", b"1\xa0", b"\x851", "\u00a01".encode()])
@pytest.mark.parametrize("other", ["", '"'])
def test_a_cell_with_a_space_of_another_encoding_is_refused(path: Path, cell: bytes, other: str) -> None:
    content = with_cell("HERE").encode().replace(b"HERE", cell)
    first = ROWS[0][0]
    content = content.replace(first.encode(), f"{other}{first}{other}".encode(), 1)
    assert refusal(path, content).startswith(f"{PLACE} holds ")


@pytest.mark.parametrize(("cell", "column"), [("1,5", COLUMN), ("1,", COLUMN), (",1", COLUMN), ("1,", CLASS)])
def test_a_quoted_comma_belongs_to_its_cell(path: Path, cell: str, column: str) -> None:
    place = PLACE.replace(COLUMN, column)
    assert refusal(path, with_cell(f'"{cell}"', column)).startswith(f"{place} holds {cell!r}")


@pytest.mark.parametrize("cell", ["1\0", "1\1", "\0011", "1#2"])
def test_a_cell_with_other_characters_is_refused(path: Path, cell: str) -> None:
    assert refusal(path, with_cell(cell)).startswith(f"{PLACE} holds ")


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_a_row_that_is_too_long_is_refused_with_its_line(path: Path, number: int) -> None:
    rows = [[*row, "5"] if number == index else row for index, row in enumerate(ROWS)]
    assert f"line {number + 2}" in refusal(path, text_of(rows=rows))


def test_cells_beyond_the_header_in_every_row_are_refused(path: Path) -> None:
    assert refusal(path, text_of(rows=[[*row, "5", ""] for row in ROWS])).startswith("row 1 (line 2) has more cells")


# Several files


@pytest.fixture
def months(tmp_path: Path) -> Path:
    """A folder of months and other files; all labels of a month are the parity of its number."""
    folder = tmp_path / "months"
    (folder / "2016_09.csv").mkdir(parents=True)
    for name in ("2016_01.csv", "2016_02.csv", "2016_03.csv.bz2", "2016_10.csv.gz", "2017_01.csv"):
        content = text_of(rows=[[*row[:-1], str(int(name[6]) % 2)] for row in ROWS]).encode()
        (folder / name).write_bytes(COMPRESS.get(Path(name).suffix, bytes)(content))
    (folder / "2016_01.txt").write_text("notes")
    return folder


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("2016_01", ["2016_01.csv"]),
        ("2016_01.csv", ["2016_01.csv"]),
        ("2016_03", ["2016_03.csv.bz2"]),
        ("2016_0[1-3]", ["2016_01.csv", "2016_02.csv", "2016_03.csv.bz2"]),
        ("2016_*", ["2016_01.csv", "2016_02.csv", "2016_03.csv.bz2", "2016_10.csv.gz"]),
        ("*_01", ["2016_01.csv", "2017_01.csv"]),
        ("*.csv", ["2016_01.csv", "2016_02.csv", "2017_01.csv"]),
        ("201?_01", ["2016_01.csv", "2017_01.csv"]),
    ],
)
def test_a_pattern_finds_the_datasets_that_it_names_sorted(months: Path, pattern: str, names: list[str]) -> None:
    assert [path.name for path in find_datasets(months, pattern)] == names


@pytest.mark.parametrize("pattern", ["2018_*", "2016_09", "2016_01.txt", "2016"])
def test_a_pattern_that_matches_no_dataset_is_refused_with_a_list_of_datasets(months: Path, pattern: str) -> None:
    with pytest.raises(DatasetError, match=r"no dataset matches .*; it holds 2016_01\.csv, 2016_02\.csv"):
        find_datasets(months, pattern)


def test_a_folder_without_datasets_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="it holds no dataset CSV"):
        find_datasets(tmp_path, "2016_01")


@pytest.mark.parametrize("pattern", ["", "/etc/passwd", "**x"])
def test_an_invalid_pattern_is_refused(months: Path, pattern: str) -> None:
    with pytest.raises(DatasetError):
        find_datasets(months, pattern)


def test_a_missing_dataset_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="none: no such folder"):
        find_datasets(tmp_path / "none", "2016_01")


def test_several_files_are_read_as_one_in_the_order_given(months: Path) -> None:
    dataset, labels = read_all_labelled([months / "2016_02.csv", months / "2016_03.csv.bz2"])
    np.testing.assert_array_equal(dataset.features, np.tile(VALUES.astype(np.float32), (2, 1)))
    assert labels.tolist() == [0] * 4 + [1] * 4
    assert dataset.source == "2016_02.csv 2016_03.csv.bz2"
    assert dataset.labels is not None
    assert dataset.labels.tolist() == labels.tolist()


# Network input


def plain_images(features: NDArray[np.float32]) -> list[list[list[list[float]]]]:
    """Return the images by the definition: 58 values and six zeros, row by row."""
    padded = [[*row, *[0.0] * 6] for row in features.tolist()]
    return [[[row[start : start + 8] for start in range(0, 64, 8)]] for row in padded]


def test_images_are_the_features_padded_with_zeros_row_by_row() -> None:
    features = VALUES.astype(np.float32)
    images = to_images(features)
    assert images.shape == (4, 1, 8, 8)
    assert images.dtype == np.float32
    assert images.tolist() == plain_images(features)


def test_no_features_give_no_images() -> None:
    assert to_images(np.empty((0, 58), np.float32)).shape == (0, 1, 8, 8)


def test_a_dataset_is_as_long_as_its_rows() -> None:
    assert len(Dataset(np.zeros((7, 58), np.float32), None, "x")) == 7
