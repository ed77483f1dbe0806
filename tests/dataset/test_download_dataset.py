import bz2
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.download_server import Answer, DownloadServer, run_script, running_server
from tests.scripts import FETCH_DATASET
from utils.schema import CLASS, FEATURES

MONTHS = [f"2016_{month:02}" for month in range(1, 13)]


def make_csv(header: tuple[str, ...] = (*FEATURES, CLASS), cell: str = "0.5") -> bytes:
    rows = [",".join([*[cell] * (len(header) - 1), str(row % 2)]) for row in range(300)]
    return "\n".join([",".join(header), *rows, ""]).encode()


@pytest.fixture
def server() -> Iterator[DownloadServer]:
    with running_server() as running:
        for month in MONTHS:
            running.files[f"/me/repo/main/dataset/{month}.csv"] = [Answer(make_csv())]
            running.files[f"/me/repo/main/dataset/full/{month}.csv.bz2"] = [Answer(bz2.compress(make_csv()))]
        yield running


def run(server: DownloadServer, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_script(server, FETCH_DATASET, "--base-url", f"{server.url}/me/repo/main/", *arguments, cwd=cwd)


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_months_are_downloaded_by_default_and_only_once(server: DownloadServer, tmp_path: Path) -> None:
    first = run(server, tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.splitlines()[-1].startswith("12 downloaded (")
    assert list_names(tmp_path / "dataset") == [f"{month}.csv" for month in MONTHS]
    assert run(server, tmp_path).stdout.splitlines()[-1] == "0 downloaded (0.0 MB), 12 already there"


def test_whole_months_are_downloaded_compressed(server: DownloadServer, tmp_path: Path) -> None:
    months = ("--full", "--months", "2016_02", "2016_01", "--months", "2016_02")
    ended = run(server, tmp_path, *months, "--output-folder", "here")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert list_names(tmp_path / "here") == ["2016_01.csv.bz2", "2016_02.csv.bz2"]
    assert len(server.requests) == 2


def test_invalid_months_are_discarded_and_the_others_downloaded(server: DownloadServer, tmp_path: Path) -> None:
    wrong = {
        "01": bz2.compress(make_csv())[:-10],
        "02": bz2.compress(make_csv(header=FEATURES)),
        "03": bz2.compress(make_csv(cell="nan")),
        "04": bz2.compress(make_csv()[:-3]),
        "05": bz2.compress(bytes(20_000_000)),  # a line without end must not fill the memory
        "06": b"404: Not Found",
    }
    for month, body in wrong.items():
        server.files[f"/me/repo/main/dataset/full/2016_{month}.csv.bz2"] = [Answer(body)]
    ended = run(server, tmp_path, "--full")
    (line,) = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout.count("discarded")) == (3, len(wrong))
    assert "6 downloaded (" in line
    assert list_names(tmp_path / "dataset") == [f"{month}.csv.bz2" for month in MONTHS if month[-2:] not in wrong]
