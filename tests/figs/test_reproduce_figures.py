import time
from pathlib import Path

import pandas as pd
import pytest

from figs.recipes import RECIPES
from tests.captures import SHARED, needs_shared
from tests.figs.folders import fill
from tests.scripts import call, load_script

SCRIPT = "figs/reproduce-figures.py"
SIGNATURES = {"png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-", "svg": b"<?xml"}
MOST_SECONDS = 60  # of the processor


def test_the_script_knows_every_figure_by_name() -> None:
    assert tuple(RECIPES) == load_script(SCRIPT).NAMES


@needs_shared
def test_all_figures_are_drawn_from_the_published_data_in_time(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    start = time.process_time()
    ended = call(capsys, SCRIPT, "--results", SHARED / "data", "--output", tmp_path)
    assert time.process_time() - start < MOST_SECONDS
    assert ended.code == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{end}" for name in RECIPES for end in ("png", "csv", "txt")
    }
    for name in RECIPES:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(SIGNATURES["png"])
        text = (tmp_path / f"{name}.txt").read_text().strip()
        assert f"{name}: {text} -> {tmp_path / f'{name}.png'}" in ended.out.splitlines()
        assert len(pd.read_csv(tmp_path / f"{name}.csv")) > 0
    assert "not there: evaluations of the single exit of AlexNet in 2016_{01,04..12}" in ended.out
    assert ended.out.splitlines()[-1] == f"8 of 8 figures -> {tmp_path}"


@pytest.mark.parametrize("ending", SIGNATURES)
def test_a_picture_has_the_format_asked_for(capsys: pytest.CaptureFixture[str], tmp_path: Path, ending: str) -> None:
    figures = tmp_path / "figures"
    arguments = ("--results", fill(tmp_path), "--output", figures, "--only", "energy", "--format", ending)
    assert call(capsys, SCRIPT, *arguments).code == 0
    assert (figures / f"energy.{ending}").read_bytes().startswith(SIGNATURES[ending])
    assert {path.suffix for path in figures.iterdir()} == {f".{ending}", ".csv", ".txt"}


def test_a_figure_without_files_is_named_with_the_missing_files_and_the_rest_is_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (fill(tmp_path) / "evaluations" / "pi_offload_timings.tsv").unlink()
    ended = call(capsys, SCRIPT, "--results", tmp_path, "--output", tmp_path / "figures")
    assert (ended.code, ended.err) == (0, "")
    (line,) = [line for line in ended.out.splitlines() if "not drawn" in line]
    assert line == (f"offload-time: not drawn: there is no evaluations/{{device}}_offload_timings.tsv in {tmp_path}")
    assert f"7 of 8 figures -> {tmp_path / 'figures'}" in ended.out


def test_a_requested_figure_without_files_is_an_error_after_the_rest_is_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (fill(tmp_path) / "evaluations" / "pi_offload_timings.tsv").unlink()
    figures = tmp_path / "figures"
    arguments = ("--results", tmp_path, "--output", figures, "--only", "offload-time", "pareto-front")
    ended = call(capsys, SCRIPT, *arguments)
    assert ended.code == 2
    assert "lacks the files for offload-time" in ended.err
    assert {path.stem for path in figures.iterdir()} == {"pareto-front"}


def test_a_folder_from_which_nothing_can_be_drawn_is_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "nsga2").mkdir()
    ended = call(capsys, SCRIPT, "--results", tmp_path, "--output", tmp_path / "figures")
    assert ended.code == 2
    assert ended.out.count("not drawn") == 8


def test_the_operating_point_is_the_knee_or_the_one_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ("--results", fill(tmp_path), "--output", tmp_path / "f", "--only", "rejection-by-month")
    for options, point in (((), 0), (("--operation-point", "1"), 1), (("--operation-point", "least-error"), 1)):
        assert f"(AlexNet point {point}, " in call(capsys, SCRIPT, *arguments, *options).out
    ended = call(capsys, SCRIPT, *arguments, "--operation-point", 2)
    assert ended.code == 2
    assert "has no operation point 2; its front has the points 0 to 1" in ended.err


def test_the_axis_of_the_energy_names_the_watts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ("--results", fill(tmp_path), "--output", tmp_path / "f", "--only", "energy", "--watts", 3.7)
    assert call(capsys, SCRIPT, *arguments).code == 0
    assert "mJ an event at 3.7 W" in set(pd.read_csv(tmp_path / "f" / "energy.csv")["unit"])


def test_a_file_that_does_not_match_its_name_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = fill(tmp_path) / "evaluations" / "alexnet_single_pi_2016_03.csv"
    path.write_text("a,b\n1,2\n")
    ended = call(capsys, SCRIPT, "--results", tmp_path, "--output", tmp_path / "f")
    (line,) = ended.err.splitlines()
    assert ended.code == 2
    assert f"{path}: is not an evaluation CSV of a single exit" in line


def test_a_file_with_an_unknown_name_is_reported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (fill(tmp_path) / "evaluations" / "alexnet-pi-2016-03.csv").touch()
    ended = call(capsys, SCRIPT, "--results", tmp_path, "--output", tmp_path / "f", "--only", "energy")
    assert f"ignored: {tmp_path / 'evaluations' / 'alexnet-pi-2016-03.csv'} does not have the name" in ended.out
