import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.download_server import Answer, DownloadServer, run_script, running_server
from tests.scripts import FETCH_RESULTS

NAMES = ["alexnet_x_f_0.9_2016_23.sav", "mobilenet_x_f_0.9_2016_23.sav"]
FRONT = pickle.dumps([np.full((3, 4), 0.9), np.full((3, 2), 0.1), 100.0, 1000.0, 0.88, 1.0, 0.89, 1.0])


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('canary', 'w')",)


@pytest.fixture
def server() -> Iterator[DownloadServer]:
    with running_server() as running:
        for name in NAMES:
            running.files[f"/evaluations/saved/{name}"] = [Answer(FRONT)]
        yield running


def download(server: DownloadServer, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_script(server, FETCH_RESULTS, "--base-url", server.url, cwd=cwd)


def test_the_published_fronts_come_to_the_folder_where_the_published_readme_names_them(
    server: DownloadServer, tmp_path: Path
) -> None:
    ended = download(server, tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(path.name for path in (tmp_path / "evaluations" / "saved").iterdir()) == NAMES
    assert download(server, tmp_path).stdout.splitlines()[-1] == "0 downloaded (0.0 MB), 2 already there"


def test_a_hostile_file_is_discarded_and_the_other_comes(server: DownloadServer, tmp_path: Path) -> None:
    server.files[f"/evaluations/saved/{NAMES[0]}"] = [Answer(pickle.dumps(Hostile()))]
    ended = download(server, tmp_path)
    assert ended.returncode != 0
    assert NAMES[0] in ended.stderr
    assert [path.name for path in (tmp_path / "evaluations" / "saved").iterdir()] == NAMES[1:]
    assert not (tmp_path / "canary").exists()
