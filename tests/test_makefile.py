"""What the Makefile would run, and what ``make clean`` removes: what make made, and nothing of the user's."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.scripts import ROOT

MADE = (".venv", "demo-output", "figures-output", "offload/__pycache__")
USERS = ("saves/MobileNetV2WithExits_1.pth", "venv/lib/__pycache__/module.pyc", "trained_models/mine.pth", "notes.txt")
ALONE = {"PATH": os.environ["PATH"]}
"""The environment without the variables of the make that runs this test."""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed (on Debian: make)")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the Makefile, and a virtual environment that was made with one of two Pythons."""
    for source in (ROOT / "Makefile", *ROOT.glob("requirements*")):
        shutil.copy(source, tmp_path)
    for path, identity in (("one", "one"), ("other", "other"), (".venv/bin/python", "one")):
        program = tmp_path / path
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\necho {identity}\n")
        program.chmod(0o755)
    return tmp_path


def would_run(clone: Path, *arguments: str) -> str:
    command = ["make", "--dry-run", "--always-make", *arguments]
    return subprocess.run(command, cwd=clone, env=ALONE, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("python", "anew"), [("PYTHON=./one", False), ("PYTHON=./other", True), ("WORKERS=2", False)])
def test_only_another_python_that_is_named_makes_the_environment_anew(clone: Path, python: str, *, anew: bool) -> None:
    assert ("rm -rf .venv .venv-edge" in would_run(clone, "test", python)) is anew


def test_the_tests_run_as_on_the_clone_alone_and_then_on_published_data(clone: Path) -> None:
    first, second = [line for line in would_run(clone, "test").splitlines() if " -m pytest " in line]
    assert first.startswith("IDS_SHARED=/nonexistent ") and first.endswith('-m "not published"')
    assert "-m published" in second


@pytest.mark.parametrize(("folder", "left_out"), [("", True), ("absent", False)])
def test_without_published_data_its_tests_are_left_out_unless_a_folder_is_named(
    clone: Path, folder: str, *, left_out: bool
) -> None:
    (last,) = [part for part in would_run(clone, "test").split("\nif ")[1:] if "-m published" in part]
    (clone / "inside").mkdir()
    environment = {"PATH": "/usr/bin:/bin", "IDS_SHARED": folder}
    done = subprocess.run(
        ["sh", "-c", f"if {last}"], cwd=clone / "inside", env=environment, capture_output=True, text=True, check=False
    )
    assert ("were left out" in done.stdout, "-m published" in done.stderr) == (left_out, not left_out)


@pytest.fixture
def used_clone(tmp_path: Path) -> Path:
    """A folder with the Makefile, the project's folders, and files that make made and others."""
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


def test_clean_removes_what_make_made_and_leaves_trained_networks(used_clone: Path) -> None:
    done = subprocess.run(["make", "clean"], cwd=used_clone, env=ALONE, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name in MADE if (used_clone / name).exists()] == []
    assert [name for name in USERS if not (used_clone / name).exists()] == []
