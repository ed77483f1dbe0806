import bz2
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dataset.fetch import job_for, verify_month
from tests.download_server import DownloadServer, Fault, Served, run_script, running_server
from utils.download import fetch
from utils.errors import DatasetError, DownloadError
from utils.schema import CLASS, FEATURES
from utils.web import Patience

SCRIPT = "dataset/download-dataset.py"
COLUMNS = (*FEATURES, CLASS)


def csv_text(rows: int = 300, columns: tuple[str, ...] = COLUMNS) -> str:
    header = ",".join(columns)
    cells = {name: str(index / 10) for index, name in enumerate(columns)}
    lines = [",".join((cells | {CLASS: str(row % 2)})[name] for name in columns) for row in range(rows)]
    return "\n".join([header, *lines, ""])


def text_type(text: str) -> Served:
    return Served(text.encode(), content_type="text/plain; charset=utf-8")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DownloadServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_server() as running:
        packed = Served(bz2.compress(csv_text().encode()))
        for month in range(1, 13):
            running.files[f"/me/repo/main/dataset/2016_{month:02}.csv"] = text_type(csv_text())
            running.files[f"/me/repo/main/dataset/full/2016_{month:02}.csv.bz2"] = packed
        yield running


def download(server: DownloadServer, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_script(SCRIPT, "--base-url", f"{server.url}/me/repo/main", *arguments, cwd=cwd)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The script


def test_all_months_are_fetched_by_default_and_a_second_time_none(server: DownloadServer, tmp_path: Path) -> None:
    first = download(server, tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    assert names_in(tmp_path / "dataset") == [f"2016_{month:02}.csv" for month in range(1, 13)]
    assert first.stdout.splitlines()[-1].startswith("12 fetched (")
    second = download(server, tmp_path)
    assert "dataset/2016_07.csv: already there" in second.stdout
    assert second.stdout.splitlines()[-1] == "0 fetched (0.0 MB), 12 already there"


def test_whole_months_come_compressed(server: DownloadServer, tmp_path: Path) -> None:
    arguments = ("--full", "--months", "2016_02", "2016_01", "--months", "2016_02", "--output-folder", "here")
    ended = download(server, tmp_path, *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert names_in(tmp_path / "here") == ["2016_01.csv.bz2", "2016_02.csv.bz2"]
    assert len(server.requests) == 2


def test_a_month_that_is_not_published_is_named_and_the_others_come(server: DownloadServer, tmp_path: Path) -> None:
    del server.files["/me/repo/main/dataset/2016_02.csv"]
    ended = download(server, tmp_path, "--months", "2016_01", "2016_02", "2016_03")
    assert ended.returncode == 3
    (line,) = ended.stderr.splitlines()
    assert "/dataset/2016_02.csv: the server answered 404 Not Found; check --base-url" in line
    assert names_in(tmp_path / "dataset") == ["2016_01.csv", "2016_03.csv"]


@pytest.mark.parametrize("month", ["2016_13", "../2016_01", "2016_01\n", ""])
def test_a_month_that_is_none_is_refused_before_anything_is_asked(
    server: DownloadServer, tmp_path: Path, month: str
) -> None:
    ended = download(server, tmp_path, "--months", month)
    assert ended.returncode == 2
    assert "is not a month from 2016_01 to 2016_12" in ended.stderr
    assert server.requests == []


# What the server sends


@pytest.mark.parametrize("full", [False, True], ids=["sample", "whole month"])
def test_a_broken_connection_is_resumed(server: DownloadServer, tmp_path: Path, full: bool) -> None:
    job = job_for("2016_01", tmp_path, f"{server.url}/me/repo/main", full=full)
    path = job.url.removeprefix(server.url)
    body = bz2.compress(csv_text().encode()) if full else csv_text().encode()
    server.files[path] = Served(body)
    server.fail(path, Fault(drop_after=len(body) - 1))
    assert fetch(replace(job, patience=Patience(waits=(0.0,)))) == len(body)
    assert server.ranges(path)[0] is None
    assert len(server.requests) == 2


LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2143633\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (LFS_POINTER, r"is a Git LFS pointer.*media\.githubusercontent\.com"),
        ("<!DOCTYPE html><title>Sign in</title>", "is a web page"),
        ("", "does not begin with the header of a dataset CSV"),
        ("404: Not Found", "does not begin with the header of a dataset CSV but with '404: Not Found'"),
        (csv_text(rows=0), "has a header but no rows"),
        (csv_text(columns=FEATURES), "lacks 'class'"),
        (csv_text(columns=(*COLUMNS[1:], "label")), f"lacks '{FEATURES[0]}'"),
        (csv_text(columns=(*COLUMNS, "label")), "has 'label' besides or twice"),
        (csv_text(columns=(*COLUMNS, FEATURES[0])), f"has '{FEATURES[0]}' besides or twice"),
        (csv_text().replace("\n0.0,", "\nzero,", 1), f"row 1, column '{FEATURES[0]}' holds 'zero'"),
        (csv_text().replace("\n0.0,", "\nnan,", 1), f"row 1, column '{FEATURES[0]}' holds 'nan'"),
        (csv_text().replace(",1\n", ",2\n", 1), "row 2, column 'class' holds '2'"),
        (csv_text()[:-3], "row 300, column 'class' holds ''|row 300 has 58 cells, not 59"),
        (csv_text() + "0.1,0.2\n" + csv_text(1), "row 301 has 2 cells, not 59"),
        (csv_text(1) + "\0" * 70_000, "a line is longer than"),
    ],
    ids=[
        "LFS pointer",
        "page",
        "empty",
        "other text",
        "no rows",
        "unlabelled",
        "renamed column",
        "extra column",
        "repeated column",
        "word",
        "not a number",
        "third class",
        "cut off",
        "short row",
        "endless line",
    ],
)
def test_what_is_no_dataset_never_takes_its_name(
    server: DownloadServer, tmp_path: Path, text: str, complaint: str
) -> None:
    job = job_for("2016_01", tmp_path, f"{server.url}/me/repo/main", full=False)
    server.files["/me/repo/main/dataset/2016_01.csv"] = text_type(text)
    with pytest.raises(DownloadError, match=rf"2016_01\.csv came, was refused and is removed: .*({complaint})"):
        fetch(job)
    assert names_in(tmp_path) == []


def test_a_web_page_in_place_of_a_month_is_refused(server: DownloadServer, tmp_path: Path) -> None:
    job = job_for("2016_01", tmp_path, f"{server.url}/me/repo/main", full=False)
    server.fail("/me/repo/main/dataset/2016_01.csv", Fault(page="Log in to this network"))
    with pytest.raises(DownloadError, match="with a web page in place of the file"):
        fetch(job)


# Files as such


def cut_off(packed: bytes) -> bytes:
    return packed[:-10]


def damaged(packed: bytes) -> bytes:
    return packed[: len(packed) // 2] + bytes(8) + packed[len(packed) // 2 + 8 :]


def not_packed(_: bytes) -> bytes:
    return csv_text().encode()


@pytest.mark.parametrize("spoil", [cut_off, damaged, not_packed])
def test_a_compressed_month_is_read_to_its_end(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "2016_01.csv.bz2"
    path.write_bytes(spoil(bz2.compress(csv_text().encode())))
    with pytest.raises(DatasetError, match=r"2016_01\.csv\.bz2: is not a whole bz2 file"):
        verify_month(path, compressed=True)


def test_a_compressed_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "2016_01.csv.bz2"
    path.write_bytes(bz2.compress(bytes(20_000_000)))
    with pytest.raises(DatasetError, match="a line is longer than 65536 characters"):
        verify_month(path, compressed=True)


def test_columns_may_stand_in_any_order_and_classes_in_words(tmp_path: Path) -> None:
    path = tmp_path / "2016_01.csv"
    words = csv_text(columns=COLUMNS[::-1]).replace("\n0,", "\nnormal,").replace("\n1,", "\nattack,")
    path.write_text(words)
    verify_month(path, compressed=False)


def test_a_file_of_other_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "2016_01.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="is not a CSV"):
        verify_month(path, compressed=False)
