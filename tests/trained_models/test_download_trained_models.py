import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.download_server import DownloadServer, Served, run_script, running_server
from tests.trained_models.test_fetch import checkpoint
from trained_models.catalog import CATALOG, find

SCRIPT = "trained_models/download-trained-models.py"
PLAIN, CALIBRATED = "MobileNetV2WithExits", "MobileNetV2WithExits_calibrated"


@pytest.fixture
def server() -> Iterator[DownloadServer]:
    with running_server() as running:
        running.drive[find(PLAIN).drive_id] = Served(checkpoint()), "form"
        running.drive[find(CALIBRATED).drive_id] = Served(checkpoint(with_temperatures=True)), "none"
        yield running


def download(server: DownloadServer, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_script(SCRIPT, "--base-url", server.url, *arguments, cwd=cwd)


@pytest.mark.slow
def test_the_models_asked_for_are_fetched_once_and_counted(server: DownloadServer, tmp_path: Path) -> None:
    names = ("--model", PLAIN, "--model", f"{CALIBRATED.lower()}.PTH", "--model", PLAIN)
    first = download(server, tmp_path, *names)
    assert (first.returncode, first.stderr) == (0, "")
    assert sorted(path.name for path in (tmp_path / "trained_models").iterdir()) == [
        f"{PLAIN}.pth",
        f"{CALIBRATED}.pth",
    ]
    assert first.stdout.splitlines()[-1] == "2 fetched (17.9 MB), 0 already there"

    server.requests.clear()
    second = download(server, tmp_path, *names)
    assert f"trained_models/{PLAIN}.pth: already there" in second.stdout
    assert second.stdout.splitlines()[-1] == "0 fetched (0.0 MB), 2 already there"
    assert server.requests == []


@pytest.mark.slow
def test_all_seven_are_fetched_by_default_and_those_missing_are_named(server: DownloadServer, tmp_path: Path) -> None:
    ended = download(server, tmp_path, "--output-folder", "here", "--force")
    assert ended.returncode == 3
    (line,) = ended.stderr.splitlines()
    assert line.startswith("download-trained-models.py: error: 5 files failed, 2 fetched (17.9 MB), 0 already there: ")
    assert all(entry.file_name in line for entry in CATALOG if entry.name not in (PLAIN, CALIBRATED))
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
        f"{PLAIN}.pth",
        f"{CALIBRATED}.pth",
    ]


def test_a_used_up_quota_is_one_line_and_leaves_nothing(server: DownloadServer, tmp_path: Path) -> None:
    server.drive[find(PLAIN).drive_id] = Served(checkpoint()), "quota"
    ended = download(server, tmp_path, "--model", PLAIN)
    assert ended.returncode == 3
    (line,) = ended.stderr.splitlines()
    assert "quota for MobileNetV2WithExits.pth is used up" in line
    assert list((tmp_path / "trained_models").iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_one_line(server: DownloadServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = download(server, tmp_path, "--output-folder", "file", "--model", PLAIN)
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "download-trained-models.py: error: file: cannot be written to: File exists; choose another folder"
    ]


def test_an_unknown_model_is_answered_with_the_names_there_are(tmp_path: Path) -> None:
    ended = run_script(SCRIPT, "--model", "ResNet", cwd=tmp_path)
    assert ended.returncode == 2
    assert "'ResNet' is not published; choose from" in ended.stderr
    assert all(entry.name in ended.stderr for entry in CATALOG)


def test_an_address_that_is_none_is_one_line(tmp_path: Path) -> None:
    ended = run_script(SCRIPT, "--base-url", "drive.google.com", cwd=tmp_path)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "--base-url 'drive.google.com' is not an address" in ended.stderr
