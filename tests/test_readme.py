"""The documents lead to what they name, and the commands of the READMEs run as printed, one after the other."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts import ROOT, SCRIPTS

STAGES = ("dnn", "calibration", "evaluations", "nsga2", "dataset", "offload", "figs", "trained_models")
"""In the order in which their commands run."""
DOCUMENTS = tuple(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "*/README.md", "*/*/README.md", "*/*/*/README.md")
    for path in sorted(ROOT.glob(pattern))
    if not path.relative_to(ROOT).parts[0].startswith(".")
)
LARGEST_FRONT_PAGE = 8 * 1024  # bytes


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def commands(label: str) -> list[str]:
    """Return the commands of the shell blocks with a label, stage by stage; "" stands for no label."""
    texts = "".join(text_of(f"{stage}/README.md") for stage in STAGES)
    blocks = re.findall(rf"```sh{label}\n(.*?)```", texts, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("python ")]


def anchors(document: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= LARGEST_FRONT_PAGE


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading(document: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text_of(document)):
        name, _, anchor = target.partition("#")
        there = (ROOT / document).parent / name if name else ROOT / document
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(str(there.resolve().relative_to(ROOT))), target


@pytest.mark.parametrize(
    "script", [script for script in SCRIPTS if Path(script).stem not in {"demo", "demo-live", "demo-year"}]
)
def test_every_script_is_named_in_the_readme_of_its_stage(script: str) -> None:
    assert Path(script).name in text_of(f"{Path(script).parent}/README.md")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_names_a_script_that_is_there(document: str) -> None:
    named = [shlex.split(line)[1] for line in re.findall(r"^python .+$", text_of(document), re.MULTILINE)]
    assert [name for name in named if name != "-m" and not (ROOT / name).is_file()] == []


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
    for command in (*commands(""), *commands(" calibrated"), *commands(" exported")):
        done = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1200
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    made = {path.name for path in (tmp_path / "saves").iterdir()}
    assert {
        "calibrated.pth",
        "evaluation.csv",
        "front.sav",
        "front.png",
        "edge.onnx",
        "inference.csv",
        "verdicts.csv",
    } <= made
    for command in commands(" renew"):
        done = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1200
        )
        assert done.returncode in {0, 1}, done.stderr  # on months of 200 rows, a challenger may be no better
        assert (tmp_path / "saves" / "releases" / "current" / "manifest.json").is_file()
