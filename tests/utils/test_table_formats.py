"""Tables from spreadsheets, compressors and other programs are read if that is safe, else refused with the reason."""

import bz2
import gzip
import lzma
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import utils.table_formats
from tests.captures import SHARED, needs_shared
from tests.utils.test_dataset import COLUMN, COMPRESS, HEADER, LABELS, ROWS, VALUES, text_of
from utils.cost_models import read_cost_per_offload
from utils.dataset import find_datasets, read_dataset
from utils.errors import DatasetError, InputFileError, ResultFileError
from utils.results import read_evaluation
from utils.schema import CLASS, EVALUATION_COLUMNS, FEATURES

FIELD = SHARED / "data" / "field"


def assert_is_the_table(path: Path) -> None:
    dataset = read_dataset(path)
    np.testing.assert_array_equal(dataset.features, VALUES.astype(np.float32))
    assert dataset.labels is not None and dataset.labels.tolist() == LABELS


def refusal(path: Path, content: str | bytes | None = None) -> str:
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError) as caught:
        read_dataset(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


# Headers


@pytest.mark.parametrize(
    "header",
    [
        [f" {name}" for name in HEADER],
        [f"{name} " for name in HEADER],
        [f'"{name}"' for name in HEADER],
        [f' "{name}"' for name in HEADER],
        [name.upper() for name in HEADER],
        [name.lower() for name in HEADER],
        [*FEATURES, "Class"],
    ],
    ids=["space before", "space behind", "quoted", "space and quotes", "upper case", "lower case", "Class"],
)
def test_spaces_and_case_of_a_header_do_not_matter(tmp_path: Path, header: list[str]) -> None:
    (tmp_path / "a.csv").write_text(text_of(header))
    assert_is_the_table(tmp_path / "a.csv")


def test_a_space_after_each_comma_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text_of().replace(",", ", "))
    assert_is_the_table(tmp_path / "a.csv")
    quoted = text_of(rows=[[f'"{cell}"' for cell in row] for row in ROWS])
    (tmp_path / "a.csv").write_text(quoted.replace(",", ", "))
    assert_is_the_table(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("delimiter", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars"), ("; ", "semicolons")]
)
@pytest.mark.parametrize("decimal", [".", ","])
def test_another_delimiter_is_named_and_decimal_commas_too(
    tmp_path: Path, delimiter: str, name: str, decimal: str
) -> None:
    content = text_of().replace(",", delimiter).replace(".", decimal)
    reason = refusal(tmp_path / "a.csv", content)
    commas = " and its numbers have decimal commas" if decimal == "," else ""
    assert reason == (
        f"row 0: its columns are separated by {name}{commas}; "
        "export it with commas between columns and points in numbers"
    )


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("\n", "line 2, below a blank line"),
        ("# made by a tool\n# on a day\n", "line 3, below a comment"),
        ("sep=,\n", "line 2, below 'sep=,'"),
        ('A title, "quoted"\n\n', "line 3, below a blank line"),
    ],
)
def test_lines_before_the_header_are_named(tmp_path: Path, lines: str, found: str) -> None:
    reason = refusal(tmp_path / "a.csv", lines + text_of())
    assert reason == f"row 0: the header is in {found}; remove the lines before it"


def test_two_faults_of_a_header_are_in_one_message(tmp_path: Path) -> None:
    reason = refusal(tmp_path / "a.csv", "sep=;\n" + text_of().replace(",", ";"))
    assert reason == (
        "row 0: the header is in line 2, below 'sep=;' and its columns are separated by semicolons; remove the "
        "lines before it and export it with commas between columns and points in numbers"
    )


@pytest.mark.parametrize("cell", ["0,5", "-12,25", "1,5e-06"])
def test_a_decimal_comma_in_a_cell_is_named(tmp_path: Path, cell: str) -> None:
    rows = [list(row) for row in ROWS]
    rows[2][HEADER.index(COLUMN)] = f'"{cell}"'
    reason = refusal(tmp_path / "a.csv", text_of(rows=rows))
    assert reason.startswith(f"row 3 (line 4), column {COLUMN!r} holds {cell!r}, with a decimal comma; a finite number")


def test_decimal_commas_between_commas_are_named(tmp_path: Path) -> None:
    rows = [[cell.replace(".", ",") for cell in row] for row in ROWS]
    reason = refusal(tmp_path / "a.csv", text_of(rows=rows))
    assert reason.startswith("row 1 (line 2) has more cells than the header, or numbers with decimal commas")


def evaluation_text() -> str:
    return pd.DataFrame({name: [0.0, 1.0] for name in EVALUATION_COLUMNS}).to_csv(index=False)


def test_an_evaluation_and_a_table_of_timings_are_checked_alike(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text(evaluation_text().upper().replace(",", " , "))
    assert len(read_evaluation([path])) == 2
    path.write_bytes(gzip.compress(evaluation_text().encode()))
    assert len(read_evaluation([path])) == 2
    for content, words in (
        (evaluation_text().replace(",", ";"), "its columns are separated by semicolons"),
        ("\n" + evaluation_text(), "the header is in line 2, below a blank line"),
        ("# note\n" + evaluation_text(), "the header is in line 2, below a comment"),
    ):
        path.write_text(content)
        with pytest.raises(ResultFileError, match=words):
            read_evaluation([path])
    path.write_bytes(lzma.compress(evaluation_text().encode()))
    with pytest.raises(ResultFileError, match="is xz-compressed; unpack it with xz -dc"):
        read_evaluation([path])
    (tmp_path / "t.tsv").write_text("batch_size,request_process_time\n1,9.0\n")
    with pytest.raises(InputFileError, match="its columns are separated by commas; export it with tabs"):
        read_cost_per_offload(tmp_path / "t.tsv", {})


# Compression


@pytest.mark.parametrize("name", ["a", "a.csv", "a.txt", "a.csv.gz", "a.CSV.GZ", "a.csv.bz2", "a.csv.xz"])
@pytest.mark.parametrize("compress", [*COMPRESS.values(), bytes], ids=[*COMPRESS, "plain"])
def test_a_table_is_read_by_its_content_whatever_its_name(
    tmp_path: Path, name: str, compress: Callable[[bytes], bytes]
) -> None:
    (tmp_path / name).write_bytes(compress(text_of().encode()))
    assert_is_the_table(tmp_path / name)


@pytest.mark.parametrize("name", ["a.parquet", "a.pq", "a.PARQUET", "a", "a.csv", "a.csv.gz"])
def test_parquet_is_read_whatever_its_name(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame(VALUES.astype(np.float32), columns=list(FEATURES)).assign(**{CLASS: LABELS})
    table.to_parquet(tmp_path / "whole", index=False)
    (tmp_path / "whole").rename(tmp_path / name)
    assert_is_the_table(tmp_path / name)


def zipped(content: bytes, member: str = "a.csv") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, content)

    return write


def by_command(*command: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not installed")
        ended = subprocess.run(command, input=text_of().encode(), capture_output=True, check=True)
        path.write_bytes(ended.stdout)

    return write


@pytest.mark.parametrize(
    ("write", "kind", "command"),
    [
        (lambda path: path.write_bytes(lzma.compress(text_of().encode())), "xz-compressed", "xz -dc"),
        (by_command("zstd", "-c"), "zstd-compressed", "zstd -dc"),
        (zipped(text_of().encode()), "a zip archive", "unzip -p"),
    ],
    ids=["xz", "zstd", "zip"],
)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.xz", "a b"])
def test_another_compression_is_named_with_a_command_that_unpacks_it(
    tmp_path: Path, name: str, write: Callable[[Path], None], kind: str, command: str
) -> None:
    write(tmp_path / name)
    reason = refusal(tmp_path / name)
    assert reason.startswith(f"is {kind}; unpack it with {command} ")
    if shutil.which(command.split()[0]) is None:
        return
    subprocess.run(reason.partition("unpack it with ")[2], shell=True, check=True, cwd=tmp_path)
    assert_is_the_table(tmp_path / "table.csv")


def test_workbooks_and_other_encodings_are_named(tmp_path: Path) -> None:
    zipped(b"<Types/>", "[Content_Types].xml")(tmp_path / "a.csv")
    assert refusal(tmp_path / "a.csv").startswith("is an Excel workbook; export the sheet as CSV")
    assert refusal(tmp_path / "a.csv", text_of().encode("utf-16")).startswith("is UTF-16 text; save it as UTF-8")


def test_a_month_is_found_with_an_ending_in_any_case(tmp_path: Path) -> None:
    names = ["2016_01.CSV", "2016_02.Csv.GZ", "2016_03.PARQUET", "2016_04.pq"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in find_datasets(tmp_path, "2016_*")] == names
    assert [path.name for path in find_datasets(tmp_path, "2016_02")] == names[1:2]
    (tmp_path / "2016_01.csv").write_bytes(b"x")
    with pytest.raises(DatasetError, match="the same month twice"):
        find_datasets(tmp_path, "2016_01")


def test_a_month_that_is_compressed_in_another_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "2016_01.csv.xz").write_bytes(lzma.compress(text_of().encode()))
    (path,) = find_datasets(tmp_path, "2016_01")
    assert refusal(path).startswith("is xz-compressed")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_a_file_that_unpacks_to_far_more_than_a_table_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(utils.table_formats, "_LEAST_LIMIT", 2**18)
    rows = text_of().partition("\n")[2]
    bomb = compress((text_of() + rows * 1_000).encode())
    assert refusal(tmp_path / "a.csv", bomb).startswith("unpacks to over 0 MiB and 100 times its size")
    lines = evaluation_text().splitlines(keepends=True)
    (tmp_path / "e.csv").write_bytes(compress(("".join(lines) + lines[1] * 20_000).encode()))
    with pytest.raises(ResultFileError, match="unpacks to over"):
        read_evaluation([tmp_path / "e.csv"])


def test_a_parquet_file_with_far_more_rows_than_its_size_allows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utils.table_formats, "_LEAST_LIMIT", 2**18)
    table = pd.DataFrame(np.zeros((40_000, len(FEATURES)), np.float32), columns=list(FEATURES))
    table.to_parquet(tmp_path / "a.parquet", index=False)
    assert refusal(tmp_path / "a.parquet").startswith("unpacks to over")
    table[:1_000].to_parquet(tmp_path / "a.parquet", index=False)
    assert len(read_dataset(tmp_path / "a.parquet")) == 1_000


# Tables from the field


@needs_shared
def test_tables_from_the_field_are_read_or_refused_with_the_reason() -> None:
    for name in (
        "csv-header/hdr-space.csv",
        "csv-header/upper.csv",
        "csv-compressed/gz-noext.csv",
        "csv-compressed/f64.pq",
    ):
        assert len(read_dataset(FIELD / name))
    assert "separated by semicolons" in refusal(FIELD / "csv-header/semicolon.csv")
    assert "is xz-compressed; unpack it with xz -d" in refusal(FIELD / "csv-compressed/x.csv.xz")
