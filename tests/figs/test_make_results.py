"""Filling a results folder: the last steps and the timing; ``test_results_plan.py`` runs a training."""

import shutil
from pathlib import Path

import pytest

from figs.provenance import read_provenance
from figs.results_folder import TIMING_COLUMNS, find_results
from figs.results_plan import Plan
from offload.link.private_broker import PrivateBroker
from tests.figs.folders import TIMINGS, write_single_exit, write_two_exits
from tests.scripts import call, load_script

pytestmark = pytest.mark.slow

SCRIPT = "figs/make-results.py"
MONTHS = ("2016_01", "2016_02", "2016_03")


@pytest.fixture
def data(tmp_path: Path, sample: Path) -> Path:
    """Three short months of the sample."""
    folder = tmp_path / "short"
    folder.mkdir()
    for month in MONTHS:
        lines = (sample / f"{month}.csv").read_text().splitlines(keepends=True)
        (folder / f"{month}.csv").write_text("".join(lines[:61]))
    return folder


def almost_full(output: Path, data: Path, checkpoint: Path) -> Plan:
    """Make a results folder that lacks one evaluation and the front."""
    plan = Plan({month: data / f"{month}.csv" for month in MONTHS}, output, "lab", 8, 64, 1)
    (output / "networks").mkdir(parents=True)
    for kind in ("", "single", "uncalibrated"):
        shutil.copy(checkpoint, plan.get_checkpoint("mobilenet", kind))
    for kind, month in plan.list_evaluations():
        write = write_single_exit if kind == "single" else write_two_exits
        write(plan.get_evaluation("mobilenet", kind, month))
    plan.get_evaluation("mobilenet", "", "2016_02").unlink()
    (output / "evaluations" / "lab_offload_timings.tsv").write_text(TIMINGS.replace("AlexNet", "MobileNet"))
    return plan


def test_only_missing_files_are_made_and_the_folder_says_that_it_is_synthetic(
    capfd: pytest.CaptureFixture[str], data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results"
    almost_full(output, data, checkpoint)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    arguments = ("--dataset-folder", data, "--output", output, "--networks", "mobilenet", "--device-name", "lab")
    ended = call(capfd, SCRIPT, *arguments)
    assert (ended.code, ended.err) == (0, "")
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    assert before.items() <= after.items()
    assert {path.relative_to(output).as_posix() for path in after.keys() - before.keys()} == {
        "about.json", "evaluations/mobilenet_lab_2016_02.csv", "nsga2/mobilenet_x_f_0.9_2016_02.sav",
    }  # fmt: skip
    provenance = read_provenance(output)
    assert provenance is not None and provenance.synthetic and provenance.dataset == "short"
    results = find_results(output)
    assert results.ignored == ()
    assert set(results.fronts) == {"mobilenet"} and set(results.timings) == {"lab"}

    again = call(capfd, SCRIPT, *arguments)
    assert (again.code, "11 of 11 steps are done already" in again.out) == (0, True)
    other = call(capfd, SCRIPT, *arguments, "--epochs", 3)
    assert other.code == 2
    assert "holds results with epochs 8, not 3; choose another --output" in other.err


def test_without_rabbitmq_the_timings_are_left_out_with_a_note(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    data: Path,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    output = tmp_path / "results"
    plan = almost_full(output, data, checkpoint)
    for path in (plan.get_evaluation("mobilenet", "", "2016_02"), plan.get_front("mobilenet")):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (output / "evaluations" / "lab_offload_timings.tsv").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ("--dataset-folder", data, "--output", output, "--networks", "mobilenet", "--device-name", "lab")
    ended = call(capsys, SCRIPT, *arguments)
    assert (ended.code, ended.err) == (0, "")
    assert "no RabbitMQ, so lab_offload_timings.tsv is left out: RabbitMQ is not installed" in ended.out
    assert not (output / "evaluations" / "lab_offload_timings.tsv").exists()


def test_a_folder_without_the_months_to_train_and_calibrate_on_is_refused(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path
) -> None:
    (data / "2016_02.csv").unlink()
    ended = call(capsys, SCRIPT, "--dataset-folder", data, "--output", tmp_path / "results")
    assert ended.code == 2
    assert "no dataset matches '2016_02'; it holds 2016_01.csv, 2016_03.csv" in ended.err


@pytest.mark.parametrize("word", ["a_b", "single", ""])
def test_a_device_named_as_a_kind_of_evaluation_is_refused(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path, word: str
) -> None:
    ended = call(capsys, SCRIPT, "--dataset-folder", data, "--output", tmp_path / "r", "--device-name", word)
    assert (ended.code, f"--device-name {word!r} is no word" in ended.err) == (2, True)


def test_other_data_are_not_recognised_as_the_sample(data: Path) -> None:
    is_sample = load_script(SCRIPT)._is_sample
    month = data / "2016_01.csv"
    assert is_sample(month)
    lines = month.read_text().splitlines(keepends=True)
    month.write_text("".join([lines[0], *lines[4:]]))
    assert not is_sample(month)


def test_exit_2_is_timed_here_and_at_a_worker(
    broker: PrivateBroker, data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    plan = almost_full(tmp_path / "results", data, checkpoint)
    rows = load_script(SCRIPT)._measure_timings(plan, "mobilenet", broker, repeats=3)
    assert [row["batch_size"] for row in rows] == [1, 5, 10]
    for row in rows:
        assert tuple(row) == TIMING_COLUMNS
        times = [name for name in TIMING_COLUMNS if name.endswith("_time") and name != "network_time"]
        assert all(float(str(row[name])) > 0 for name in times)
        features = 232 * int(str(row["batch_size"]))
        assert features < float(str(row["data_size"])) < features + 1000
