"""The script that finds thresholds, called as from a shell."""

from pathlib import Path

import numpy as np
import pytest

from nsga2.exact_front import find_exact_front
from nsga2.objectives import Objectives
from tests.nsga2.plain_objectives import plain_table
from tests.nsga2.test_objectives import random_evaluation
from tests.scripts import SEARCH, Ended, call
from utils.results import read_evaluation, read_front

pytestmark = pytest.mark.slow


@pytest.fixture
def evaluations(tmp_path: Path) -> list[Path]:
    """Two evaluation CSVs."""
    paths = [tmp_path / f"m_2016_{month:02}_evaluation.csv" for month in (2, 3)]
    for seed, path in enumerate(paths):
        plain_table(random_evaluation(300, seed)).to_csv(path, index=False)
    return paths


def choose(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: object) -> Ended:
    return call(capsys, SEARCH, "--min-acceptance", 0.8, "--savefile", folder / "front.sav", *arguments)


def test_the_exact_solver_writes_the_true_front_and_says_so(
    capsys: pytest.CaptureFixture[str], evaluations: list[Path], tmp_path: Path
) -> None:
    ended = choose(capsys, tmp_path, "--solver", "exact", "--eval-file", evaluations[0])
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("exact: no thresholds are better than these")
    expected = find_exact_front(Objectives(read_evaluation(evaluations[:1])), 0.8).front
    np.testing.assert_array_equal(read_front(tmp_path / "front.sav").objectives, expected.objectives)


def test_a_bounded_front_is_printed_with_its_largest_gap(
    capsys: pytest.CaptureFixture[str], evaluations: list[Path], tmp_path: Path
) -> None:
    ended = choose(capsys, tmp_path, "--solver", "exact", "--choices", 10, "--eval-file", evaluations[0])
    bounded = find_exact_front(Objectives(read_evaluation(evaluations[:1])), 0.8, 10)
    assert f"bounded: no thresholds have an error lower by more than {100 * bounded.gap:.3f} percentage" in ended.out
    assert "increase --choices (now 10) to narrow that" in ended.out


@pytest.mark.parametrize("given", ["each", "pattern", "both ways"])
def test_several_files_are_pooled_however_they_are_named(
    capsys: pytest.CaptureFixture[str], evaluations: list[Path], tmp_path: Path, given: str
) -> None:
    arguments: dict[str, list[object]] = {
        "each": ["--eval-file", evaluations[0], "--eval-file", evaluations[1]],
        "pattern": ["--eval-file", tmp_path / "*_evaluation.csv"],
        "both ways": ["--eval-file", evaluations[0], "--eval-file", tmp_path / "m_2016_03*"],
    }
    ended = choose(capsys, tmp_path, "--solver", "exact", *arguments[given])
    assert "from 600 rows of 2 files" in ended.out
    expected = find_exact_front(Objectives(read_evaluation(evaluations)), 0.8).front
    np.testing.assert_array_equal(read_front(tmp_path / "front.sav").objectives, expected.objectives)


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(
    capsys: pytest.CaptureFixture[str], evaluations: list[Path], tmp_path: Path
) -> None:
    odd = evaluations[0].rename(tmp_path / "m[1].csv")
    assert choose(capsys, tmp_path, "--solver", "exact", "--eval-file", odd).code == 0


def test_a_pattern_that_matches_nothing_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ended = choose(capsys, tmp_path, "--eval-file", tmp_path / "none*.csv")
    (line,) = ended.err.splitlines()
    assert (ended.code, "none*.csv: no such file" in line) == (2, True)


@pytest.mark.parametrize("solver", ["exact", "nsga2"])
def test_the_cost_of_the_edge_is_exit_1_and_sending(
    capsys: pytest.CaptureFixture[str], evaluations: list[Path], tmp_path: Path, solver: str
) -> None:
    timings = tmp_path / "timings.tsv"
    timings.write_text("network\tbatch_size\trequest_process_time\nA\t10\t30\nB\t1\t1\n")
    measured = ("--offload-timings", timings, "--offload-where", "network=A")
    fronts = []
    for cost in (("--cost-per-offload", 3.0), measured):
        edge = ("--solver", solver, "--gen", 5, "--cost-model", "edge", *cost)
        ended = choose(capsys, tmp_path, *edge, "--eval-file", evaluations[0])
        assert (ended.code, ended.err) == (0, "")
        fronts.append(read_front(tmp_path / "front.sav"))
    assert "the edge spends 3.000 ms to send an event" in ended.out
    assert fronts[0].objectives.tolist() == fronts[1].objectives.tolist()
    assert fronts[0].max_time - fronts[0].min_time == pytest.approx(3000)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--cost-model", "edge"), "needs either --cost-per-offload or --offload-timings"),
        (("--cost-model", "edge", "--cost-per-offload", 1, "--offload-timings", "t.tsv"), "needs either"),
        (("--cost-per-offload", 1), "belong to --cost-model edge; add it"),
    ],
)
def test_contradicting_cost_options_are_one_line(
    capsys: pytest.CaptureFixture[str],
    evaluations: list[Path],
    tmp_path: Path,
    arguments: tuple[object, ...],
    says: str,
) -> None:
    ended = choose(capsys, tmp_path, *arguments, "--eval-file", evaluations[0])
    (line,) = ended.err.splitlines()
    assert (ended.code, says in line) == (2, True)
    assert not (tmp_path / "front.sav").exists()


def test_a_search_that_stalls_ends_early(
    capsys: pytest.CaptureFixture[str], evaluations: list[Path], tmp_path: Path
) -> None:
    ended = choose(capsys, tmp_path, "--stall", 3, "--gen", 100_000, "--population", 20, "--eval-file", evaluations[0])
    assert ended.code == 0
