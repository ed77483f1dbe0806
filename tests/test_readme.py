"""The README says what the scripts say, and its commands run as printed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
USAGES = re.findall(r"```\n(usage: .*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^python (.+)$", README, re.MULTILINE)
PLAIN_BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def in_one_line(text: str) -> str:
    return " ".join(text.split())


def script_named(name: str) -> Path:
    return next(path for path in ROOT.glob("*/*.py") if path.name == name)


@pytest.mark.parametrize("usage", USAGES, ids=[usage.split()[1] for usage in USAGES])
def test_a_usage_text_is_what_the_script_prints(usage: str) -> None:
    script = script_named(usage.split()[1])
    printed = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True).stdout
    assert in_one_line(usage) == in_one_line(printed.split("\n\n")[0])


def test_every_script_but_the_demo_has_its_usage_in_the_readme() -> None:
    scripts = {
        path.name for path in ROOT.glob("*/*.py") if "__main__" in path.read_text() and path.parent.name != "tests"
    }
    assert scripts - {"demo.py"} == {usage.split()[1] for usage in USAGES}


def test_every_command_names_a_script_that_is_there() -> None:
    assert len(COMMANDS) >= 10
    assert [command for command in COMMANDS if not (ROOT / shlex.split(command)[0]).is_file()] == []


def link_dataset(folder: Path) -> None:
    """Make a folder that has all of ``dataset``, but months of 200 rows, on which everything takes a third as long."""
    months = folder / "sample"
    months.mkdir(parents=True)
    for path in (*(ROOT / "dataset").iterdir(), *(ROOT / "dataset" / "sample").iterdir()):
        if path.suffix == ".csv" and path.parent.name == "sample":
            lines = path.read_text().splitlines(keepends=True)
            (months / path.name).write_text("".join(lines[:201]))
        elif path.name != "sample":
            (folder / path.relative_to(ROOT / "dataset")).symlink_to(path)


@pytest.mark.slow
def test_the_commands_that_need_neither_broker_nor_internet_run_as_printed(tmp_path: Path) -> None:
    for folder in (path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if folder.name not in {"saves", "demo-output", "acceptance-output", "dataset"}:
            (tmp_path / folder.name).symlink_to(folder)
    link_dataset(tmp_path / "dataset")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    commands = [line for block in PLAIN_BLOCKS for line in block.splitlines() if line.startswith("python ")]
    for command in commands:
        done = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1200
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert {"calibrated.pth", "evaluation.csv", "front.sav", "front.png", "inference.csv", "verdicts.csv"} <= {
        path.name for path in (tmp_path / "saves").iterdir()
    }
