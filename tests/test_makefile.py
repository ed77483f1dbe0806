"""What ``make clean`` removes: what make made, and nothing of the user's."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.scripts import ROOT

MADE = (".venv", "demo-output", "figures-output", "offload/__pycache__")
USERS = ("saves/MobileNetV2WithExits_1.pth", "venv/lib/__pycache__/module.pyc", "trained_models/mine.pth", "notes.txt")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the Makefile, the project's folders, and files of both kinds."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in ROOT.iterdir():
        if folder.is_dir() and (folder / "__init__.py").exists():
            (tmp_path / folder.name).mkdir()
    for name in MADE:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    for name in USERS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_clean_removes_what_make_made_and_leaves_trained_networks(clone: Path) -> None:
    done = subprocess.run(["make", "clean"], cwd=clone, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name in MADE if (clone / name).exists()] == []
    assert [name for name in USERS if not (clone / name).exists()] == []
