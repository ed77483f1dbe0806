"""Datasets read in chunks, as CSV and as Parquet, and kept in a temporary file if they are too large for memory."""

import bz2
import decimal
import gzip
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import utils.dataset_chunks
import utils.feature_buffer
from utils.dataset import Dataset, describe_spooling, find_datasets, read_all_labelled, read_dataset, read_labelled
from utils.errors import DatasetError
from utils.schema import CLASS, FEATURES, IDENTITY

ROWS = 23
VALUES = np.random.default_rng(1).uniform(-0.5, 3, (ROWS, len(FEATURES))).astype(np.float32)
LABELS = np.arange(ROWS) % 3 % 2
ROW_BYTES = 600
"""Bytes of a row as CSV, about."""
COLUMN = FEATURES[40]

Change = Callable[[pd.DataFrame], object]


def table() -> pd.DataFrame:
    return pd.DataFrame(VALUES, columns=list(FEATURES)).assign(**{CLASS: LABELS})


def to_parquet(frame: pd.DataFrame, path: Path) -> None:
    frame.to_parquet(path, index=False, row_group_size=9)


def to_csv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False)


WRITERS: Mapping[str, Callable[[pd.DataFrame, Path], None]] = {
    ".csv": to_csv,
    ".csv.bz2": to_csv,
    ".csv.gz": to_csv,
    ".parquet": to_parquet,
}
every_format = pytest.mark.parametrize("ending", WRITERS)
both_formats = pytest.mark.parametrize("ending", [".csv", ".parquet"])


def written(folder: Path, ending: str, frame: pd.DataFrame | None = None, name: str = "2016_01") -> Path:
    path = folder / f"{name}{ending}"
    WRITERS[ending](table() if frame is None else frame, path)
    return path


def assert_is_the_table(dataset: Dataset) -> None:
    np.testing.assert_array_equal(dataset.features, VALUES)
    assert dataset.features.dtype == np.float32
    assert dataset.labels is not None and dataset.labels.tolist() == LABELS.tolist()
    assert dataset.labels.dtype == np.int64


def refusal(path: Path, *, labelled: bool = False) -> str:
    with pytest.raises(DatasetError) as caught:
        (read_labelled if labelled else read_dataset)(path)
    name, colon, reason = str(caught.value).partition(": ")
    assert (name, colon) == (str(path), ": ")
    return reason


@pytest.fixture
def chunks_of_5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils.dataset_chunks, "CHUNK_ROWS", 5)
    monkeypatch.setattr(utils.dataset_chunks, "BLOCK_BYTES", 5 * ROW_BYTES)


@pytest.fixture
def kept_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chunks_of_5: None) -> Path:  # noqa: ARG001
    """Keep datasets of more than seven rows in a temporary file; return its folder."""
    monkeypatch.setattr(utils.feature_buffer, "MOST_IN_MEMORY", 7 * VALUES[0].nbytes)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


# Chunks


@every_format
@pytest.mark.parametrize("rows", [1, 4, ROWS, ROWS + 1])
def test_a_file_read_in_chunks_gives_the_same_dataset(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ending: str, rows: int
) -> None:
    monkeypatch.setattr(utils.dataset_chunks, "CHUNK_ROWS", rows)
    monkeypatch.setattr(utils.dataset_chunks, "BLOCK_BYTES", rows * ROW_BYTES)
    dataset = read_dataset(written(tmp_path, ending))
    assert_is_the_table(dataset)
    assert dataset.spooled is None


@pytest.mark.usefixtures("chunks_of_5")
@pytest.mark.parametrize(
    ("ending", "place"), [(".csv", "row 13 (line 14)"), (".csv.gz", "row 13 (line 14)"), (".parquet", "row 13")]
)
def test_the_message_about_a_bad_cell_in_a_later_chunk_names_its_row_in_the_file(
    tmp_path: Path, ending: str, place: str
) -> None:
    for column, value, words in (
        (COLUMN, np.inf, "holds 'inf'; a finite number is needed"),
        (COLUMN, np.nan, "is empty or NaN; a finite number"),
        (CLASS, 2, "holds '2'; the classes are 0 or normal, 1 or attack"),
    ):
        frame = table()
        frame.loc[12, column] = value
        reason = refusal(written(tmp_path, ending, frame))
        assert reason.startswith(f"{place}, column {column!r} {words}")


@pytest.mark.usefixtures("chunks_of_5")
def test_the_message_about_a_long_or_blank_row_in_a_later_chunk_names_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, ".csv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:17], lines[17] + ",5", *lines[18:]]))
    assert "line 18" in refusal(path)
    path.write_text("\n".join([*lines[:17], "", *lines[17:]]))
    assert refusal(path).startswith(f"row 17 (line 18), column {FEATURES[0]!r} is empty")


@pytest.mark.parametrize(("ending", "compress"), [(".csv.bz2", bz2.compress), (".csv.gz", gzip.compress)])
def test_a_compressed_file_that_is_truncated_after_good_chunks_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(utils.dataset_chunks, "BLOCK_BYTES", 1000 * ROW_BYTES)
    body = written(tmp_path, ".csv").read_bytes()
    header, _, rows = body.partition(b"\n")
    path = tmp_path / f"2016_02{ending}"
    path.write_bytes(compress(header + b"\n" + rows * 300)[:-30])
    assert refusal(path).startswith("is not a well-formed CSV")


@every_format
@pytest.mark.usefixtures("chunks_of_5")
def test_the_progress_ends_at_all_bytes_of_all_files(tmp_path: Path, ending: str) -> None:
    paths = [written(tmp_path, ending), written(tmp_path, ".csv", name="2016_02")]
    told = list[tuple[int, int | None]]()
    read_all_labelled(paths, lambda done, total: told.append((done, total)))
    total = sum(path.stat().st_size for path in paths)
    done = [count for count, _ in told]
    assert len(done) == 10
    assert done == sorted(done) and done[-1] == total
    assert {of for _, of in told} == {total}


# In a temporary file


@every_format
def test_features_too_large_for_memory_are_kept_in_an_unnamed_file(
    kept_in_a_file: Path, tmp_path: Path, ending: str
) -> None:
    dataset, labels = read_labelled(written(tmp_path, ending))
    assert_is_the_table(dataset)
    assert dataset.labels is labels
    assert dataset.spooled == kept_in_a_file
    assert list(kept_in_a_file.iterdir()) == []
    assert describe_spooling(dataset).startswith(
        f"2016_01{ending}: 23 rows, too large for memory: their 5,336 bytes are in an unnamed file in "
    )
    with pytest.raises(ValueError, match="read-only"):
        dataset.features[0, 0] = 1


def test_files_that_are_too_large_together_share_one_temporary_file(kept_in_a_file: Path, tmp_path: Path) -> None:
    halves = [table()[:6], table()[6:12], table()[12:]]
    paths = [written(tmp_path, ".parquet" if n == 1 else ".csv", half, f"m{n}") for n, half in enumerate(halves)]
    assert read_dataset(paths[0]).spooled is None
    dataset, _ = read_all_labelled(paths)
    assert_is_the_table(dataset)
    assert (dataset.source, dataset.spooled) == ("m0.csv m1.parquet m2.csv", kept_in_a_file)


@both_formats
def test_a_folder_without_space_is_reported_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, kept_in_a_file: Path, tmp_path: Path, ending: str
) -> None:
    path = written(tmp_path, ending)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=1000))
    with pytest.raises(DatasetError, match=r"too large for memory: 0 MB are free.* or set TMPDIR to another") as caught:
        read_dataset(path)
    assert str(caught.value).startswith(f"{kept_in_a_file}: ")
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=5_336 * 2))
    assert_is_the_table(read_dataset(path))


@pytest.mark.usefixtures("kept_in_a_file")
def test_a_full_disk_is_reported_in_one_clear_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = written(tmp_path, ".csv")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # bytes; a longer file fails as on a full disk
    try:
        with pytest.raises(
            DatasetError, match=r"cannot hold the features.*File too large; free disk space, or set TMPDIR"
        ):
            read_dataset(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    with pytest.raises(DatasetError, match=r"^/proc: cannot hold the features"):
        read_dataset(path)


# Parquet


def as_words(frame: pd.DataFrame) -> None:
    frame[CLASS] = frame[CLASS].map({0: "normal", 1: "attack"})


def as_text(frame: pd.DataFrame) -> None:
    frame[COLUMN] = frame[COLUMN].astype(str)


def as_decimals(frame: pd.DataFrame) -> None:
    frame[COLUMN] = np.array([decimal.Decimal(str(value)) for value in frame[COLUMN]], dtype=object)


def as_doubles(frame: pd.DataFrame) -> None:
    frame[COLUMN] = frame[COLUMN].astype(np.float64)


def in_another_order(frame: pd.DataFrame) -> None:
    frame.insert(0, CLASS, frame.pop(CLASS))


def with_identity(frame: pd.DataFrame) -> None:
    for name in IDENTITY:
        frame[name] = "x"


@pytest.mark.parametrize("change", [as_words, as_text, as_decimals, as_doubles, in_another_order, with_identity])
def test_a_parquet_file_may_have_other_types_and_another_column_order(tmp_path: Path, change: Change) -> None:
    frame = table()
    change(frame)
    assert_is_the_table(read_dataset(written(tmp_path, ".parquet", frame)))


def test_a_parquet_file_without_classes_is_unlabelled(tmp_path: Path) -> None:
    path = written(tmp_path, ".parquet", table()[list(FEATURES)])
    assert read_dataset(path).labels is None
    assert refusal(path, labelled=True).startswith("has no 'class' column")


def replaced(column: str, value: Any) -> Change:
    def change(frame: pd.DataFrame) -> None:
        frame[column] = [value if row == 2 else old for row, old in enumerate(frame[column].tolist())]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.pop(COLUMN), f"row 0: missing column {COLUMN!r}; the header must hold"),
        (lambda frame: frame.insert(0, "port", 80), "row 0: unknown column 'port'"),
        (replaced(COLUMN, None), f"row 3, column {COLUMN!r} is empty or NaN; a finite number"),
        (replaced(COLUMN, 1e300), f"row 3, column {COLUMN!r} holds '1e+300'; a finite number"),
        (lambda frame: frame.insert(0, COLUMN, frame.pop(COLUMN) > 99), f"row 1, column {COLUMN!r} holds 'False'"),
        (
            lambda frame: frame.insert(0, COLUMN, pd.to_datetime(frame.pop(COLUMN))),
            f"row 1, column {COLUMN!r} holds '1970-01-01",
        ),
        (replaced(CLASS, None), "row 3, column 'class' is empty"),
        (replaced(CLASS, 0.5), "row 3, column 'class' holds '0.5'; the classes are"),
    ],
)
def test_a_parquet_file_that_breaks_the_contract_is_refused_like_a_csv(
    tmp_path: Path, change: Change, words: str
) -> None:
    frame = table()
    change(frame)
    assert refusal(written(tmp_path, ".parquet", frame)).startswith(words)


def test_a_parquet_file_without_rows_is_refused(tmp_path: Path) -> None:
    assert refusal(written(tmp_path, ".parquet", table()[:0])).startswith("has a header but no rows")


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, ".parquet")
    whole = path.read_bytes()
    for content in (b"PAR1", b"PAR1" * 9, whole[:-9], whole[9:], written(tmp_path, ".csv").read_bytes()):
        path.write_bytes(content)
        assert refusal(path).startswith("is not a well-formed Parquet file")
    path.write_bytes(b"")
    assert refusal(path).startswith("is empty")


def test_without_pyarrow_a_csv_is_read_and_the_message_about_parquet_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = written(tmp_path, ".parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refusal(path) == (
        "reading Parquet needs pyarrow, which is not installed; pip install pyarrow==26.0.1, or convert the file to CSV"
    )
    assert_is_the_table(read_dataset(written(tmp_path, ".csv")))


# Which files


def test_a_month_is_found_as_parquet_too(tmp_path: Path) -> None:
    paths = [written(tmp_path, ".parquet"), written(tmp_path, ".csv", name="2016_02")]
    assert find_datasets(tmp_path, "2016_*") == paths
    assert find_datasets(tmp_path, "2016_01") == paths[:1]


@pytest.mark.parametrize("endings", [(".csv", ".csv.bz2"), (".csv", ".parquet"), (".csv.gz", ".parquet")])
def test_a_month_that_exists_twice_is_refused_unless_one_file_is_named(
    tmp_path: Path, endings: tuple[str, str]
) -> None:
    paths = sorted(written(tmp_path, ending) for ending in endings)
    written(tmp_path, ".csv", name="2016_02")
    for pattern in ("2016_01", "2016_*", "*"):
        with pytest.raises(DatasetError) as caught:
            find_datasets(tmp_path, pattern)
        assert f"holds {paths[0].name} and {paths[1].name}, the same month twice" in str(caught.value)
    assert find_datasets(tmp_path, paths[1].name) == paths[1:]
    assert [path.name for path in find_datasets(tmp_path, "2016_02")] == ["2016_02.csv"]


@pytest.mark.parametrize(
    "cells", [[b"\xff\xfe"] * ROWS, [[1.0, 2.0]] * ROWS, [{"a": 1}] * ROWS], ids=["bytes", "lists", "structs"]
)
@pytest.mark.parametrize("column", [COLUMN, CLASS])
def test_a_column_that_does_not_hold_single_values_is_named(tmp_path: Path, column: str, cells: list[Any]) -> None:
    path = written(tmp_path, ".parquet", table().drop(columns=column).assign(**{column: cells}))
    with pytest.raises(DatasetError, match=f"column '{column}' holds .*; numbers are needed"):
        read_dataset(path)


def test_small_datasets_need_no_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, ".csv")

    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    assert_is_the_table(read_dataset(path))
    monkeypatch.setattr(utils.feature_buffer, "MOST_IN_MEMORY", 100)
    with pytest.raises(DatasetError, match=r"TMPDIR: cannot hold the features.*No usable temporary directory"):
        read_dataset(path)
