from pathlib import Path

import pytest

from figs.results_folder import SINGLE_EXIT, TWO_EXITS, UNCALIBRATED
from figs.results_plan import Plan
from tests.scripts import SCRIPTS, load_script
from utils.errors import ToolkitError
from utils.script_runner import ROOT, format_command

pytestmark = pytest.mark.slow

MONTHS = ("2016_01", "2016_02", "2016_05", "2016_06")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan({month: Path("data") / f"{month}.csv" for month in MONTHS}, tmp_path, "lab", 3, 50, 7)


def test_every_month_is_evaluated_and_the_uncalibrated_network_on_the_first_after_calibration(plan: Plan) -> None:
    pairs = list(plan.list_evaluations())
    assert [pair for pair in pairs if pair[0] == UNCALIBRATED] == [(UNCALIBRATED, "2016_05")]
    for kind in (TWO_EXITS, SINGLE_EXIT):
        assert [month for found, month in pairs if found == kind] == list(MONTHS)


def test_without_a_month_after_calibration_there_is_nothing_to_evaluate_before_it(tmp_path: Path) -> None:
    plan = Plan({month: Path(f"{month}.csv") for month in MONTHS[:2]}, tmp_path, "lab", 3, 50, 7)
    assert {kind for kind, _ in plan.list_evaluations()} == {TWO_EXITS, SINGLE_EXIT}


def test_a_step_needs_only_files_of_earlier_steps(plan: Plan) -> None:
    steps = plan.list_steps("alexnet")
    made: set[str] = set()
    for step in steps:
        inputs = {str(option) for option in step.options if isinstance(option, Path) and option != step.output}
        needed = {path for path in inputs if path.endswith((".pth", ".csv")) and str(plan.output) in path}
        assert needed <= made
        made.add(str(step.output))
    assert len(made) == len(steps) == 3 + 2 * len(MONTHS) + 1 + 1


def test_the_options_of_every_step_are_understood_by_its_script(plan: Plan) -> None:
    for network in ("alexnet", "mobilenet"):
        for step in plan.list_steps(network):
            assert step.script in SCRIPTS
            load_script(step.script).make_parser().parse_args([str(option) for option in step.options])


def test_existing_files_are_not_made_again(plan: Plan) -> None:
    steps = plan.list_steps("mobilenet")
    assert not any(step.is_done() for step in steps)
    steps[-1].output.parent.mkdir(parents=True)
    steps[-1].output.touch()
    assert [step.is_done() for step in steps] == [False] * (len(steps) - 1) + [True]


@pytest.fixture
def short_plan(tmp_path: Path, sample: Path) -> Plan:
    lines = (sample / "2016_01.csv").read_text().splitlines(keepends=True)
    (tmp_path / "2016_01.csv").write_text("".join(lines[:41]))
    return Plan({month: tmp_path / f"{month}.csv" for month in MONTHS}, tmp_path / "results", "lab", 1, 50, 7)


def test_a_training_checkpoint_is_renamed_to_the_output_of_its_step(short_plan: Plan) -> None:
    step = short_plan.list_steps("mobilenet")[1]
    step.run()
    assert step.is_done()
    assert step.folder is not None and list(step.folder.iterdir()) == []


def test_a_training_that_was_interrupted_is_resumed_and_a_step_that_fails_ends_all(
    short_plan: Plan, capfd: pytest.CaptureFixture[str]
) -> None:
    step = short_plan.list_steps("mobilenet")[1]
    assert step.folder is not None
    step.folder.mkdir(parents=True)
    state = step.folder / "MobileNetV2_unfinished.state"
    state.write_text("damaged")
    with pytest.raises(ToolkitError, match=r"network.py ended with exit code 2; see its message above"):
        step.run()
    assert f"{state}: is damaged" in capfd.readouterr().err
    assert not step.is_done()


def test_a_command_is_shown_as_typed_in_the_root_folder() -> None:
    assert format_command("dnn/inference.py", [ROOT / "dataset" / "sample", "--epochs", 3]) == (
        "python dnn/inference.py dataset/sample --epochs 3"
    )
