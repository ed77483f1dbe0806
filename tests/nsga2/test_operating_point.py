import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from nsga2.exact_front import find_exact_front
from nsga2.objectives import Objectives
from nsga2.operating_point import (
    COLUMNS,
    CostModel,
    Limits,
    build_front_table,
    choose_within,
    compute_nearness,
    compute_quality,
    evaluate_point,
    find_point,
    format_client_command,
    get_thresholds,
    has_number,
    label_point,
    marks,
)
from tests.captures import SHARED, needs_shared
from tests.nsga2.plain_objectives import plain_table
from tests.nsga2.test_objectives import random_evaluation
from tests.scripts import CHART, CLIENT, call, load_script
from utils.errors import InfeasibleError, InputFileError
from utils.results import (
    Evaluation,
    Front,
    SingleExitEvaluation,
    read_evaluation,
    read_front,
    read_single_exit_evaluation,
    write_front,
)
from utils.schema import SINGLE_EXIT_EVALUATION_COLUMNS, Thresholds

PUBLISHED = SHARED / "data" / "evaluations"


def front_of(*points: tuple[float, float], thresholds: NDArray[np.float64] | None = None) -> Front:
    """Return a front with these errors and times."""
    if thresholds is None:
        thresholds = np.random.default_rng(0).uniform(0.5, 1.0, (len(points), 4))
    return Front(thresholds, np.array(points, dtype=np.float64), 100.0, 1000.0, 0.8, 1.0, 0.9, 1.0)


FRONT = front_of((0.02, 0.9), (0.1, 0.0), (0.05, 0.2), (0.03, 0.5))


def single_exit(evaluation: Evaluation, seconds: float, *, right: bool = True) -> SingleExitEvaluation:
    """Return the answers of a single-exit network that is always or never right, on the same rows."""
    labels, count = evaluation.labels, len(evaluation)
    return SingleExitEvaluation(labels, labels if right else 1 - labels, np.full(count, 0.9), np.full(count, seconds))


def test_the_table_holds_each_points_error_time_and_thresholds_fastest_first() -> None:
    table = build_front_table(FRONT)
    assert tuple(table.columns) == COLUMNS == ("point", "quality", "error", "time", "n_1", "a_1", "n_2", "a_2")
    assert table["time"].tolist() == [0.0, 0.2, 0.5, 0.9]
    order = [1, 2, 3, 0]
    assert table[["error", "time"]].to_numpy().tolist() == FRONT.objectives[order].tolist()
    assert table[["n_1", "a_1", "n_2", "a_2"]].to_numpy().tolist() == FRONT.thresholds[order].tolist()


def test_equal_points_become_one_row() -> None:
    table = build_front_table(front_of((0.1, 0.0), (0.05, 0.2), (0.1, 0.0), (0.05, 0.2), (0.05, 0.2)))
    assert table[["error", "time"]].to_numpy().tolist() == [[0.1, 0.0], [0.05, 0.2]]


def test_quality_is_the_published_one() -> None:
    objectives = np.array([[0.0, 0.0], [0.074244, 0.074349], [1.0, 1.0]])
    assert compute_quality(objectives).tolist() == pytest.approx([100, 92.57035, 0])


def test_nearness_is_1_at_the_ideal_and_0_at_its_opposite() -> None:
    assert compute_nearness(np.array([[0.1, 0.0], [0.3, 0.8]])).tolist() == pytest.approx([1.0, 0.0])
    assert compute_nearness(np.array([[0.1, 0.8], [0.3, 0.0]])).tolist() == pytest.approx([1 - np.sqrt(0.5)] * 2)


def test_the_nearness_of_a_front_that_is_a_single_point_is_1() -> None:
    assert compute_nearness(np.array([[0.1, 0.4]])).tolist() == [1.0]


def plainly_has_number(objectives: NDArray[np.float64]) -> list[bool]:
    """Return which points neither share both objectives with another nor are dominated, by comparing all pairs."""
    answers = []
    for at, one in enumerate(objectives):
        others = np.delete(objectives, at, axis=0)
        answers.append(not ((others <= one).all(axis=1)).any())
    return answers


def test_dominated_and_equal_points_have_no_number_whatever_their_order() -> None:
    generator = np.random.default_rng(5)
    for _ in range(200):
        objectives = generator.integers(0, 6, (generator.integers(1, 12), 2)) / 10
        assert has_number(objectives).tolist() == plainly_has_number(objectives)


def test_points_without_a_number_stay_in_the_table_and_can_be_chosen_by_name() -> None:
    # The fastest is there twice, and the slowest is dominated: only the two in the middle are numbered.
    front = front_of((0.1, 0.0), (0.1, 0.0), (0.05, 0.2), (0.03, 0.5), (0.04, 0.9))
    table = build_front_table(front)
    assert table["point"].isna().tolist() == [True, False, False, True]
    assert table["point"].dropna().tolist() == [0, 1]
    assert [label_point(table, row) for row in range(4)] == ["least-cost", "0", "1", "without a number"]
    assert find_point(table, "least-cost", Path("f.sav")) == 0
    assert find_point(table, 1, Path("f.sav")) == 2
    assert find_point(table, None, Path("f.sav")) == 2
    with pytest.raises(InputFileError, match=r"f\.sav: has no operation point 2; its front has the points 0 to 1$"):
        find_point(table, 2, Path("f.sav"))


def test_a_front_of_equal_points_alone_has_no_number_and_defaults_to_its_knee() -> None:
    table = build_front_table(front_of((0.1, 0.0), (0.1, 0.0)))
    assert find_point(table, None, Path("f.sav")) == 0
    with pytest.raises(InputFileError, match="no point of its front has a number"):
        find_point(table, 0, Path("f.sav"))


@needs_shared
def test_point_55_of_the_published_front_is_the_published_one() -> None:
    table = build_front_table(read_front(SHARED / "data" / "nsga2" / "alexnet_x_f_0.9_2016_23.sav"))
    row = table.loc[find_point(table, 55, Path("published"))]
    printed = {
        "quality": "92.57036", "error": "0.074244", "time": "0.074349", "n_1": "0.913411", "a_1": "0.732164",
        "n_2": "0.926571", "a_2": "0.90211",
    }  # fmt: skip
    for name, text in printed.items():
        assert round(row[name], 6 if name != "quality" else 5) == float(text)


def test_with_its_evaluation_the_table_holds_acceptance_and_offloaded_share_of_each_point() -> None:
    evaluation = random_evaluation(200)
    table = build_front_table(find_exact_front(Objectives(evaluation), 0.5).front, evaluation)
    for point in range(len(table)):
        outcome = evaluation.decide(get_thresholds(table, point)).outcome()
        assert table["acceptance"][point] == outcome.acceptance >= 0.5
        assert table["offloaded"][point] == outcome.offloaded_share
        assert table["error"][point] == pytest.approx(outcome.error)


def test_the_marks_are_the_knee_and_the_ends() -> None:
    table = build_front_table(FRONT)
    best = int(compute_nearness(table[["error", "time"]].to_numpy()).argmax())
    assert marks(table) == {"knee": best, "least-error": 3, "least-cost": 0}


@pytest.mark.parametrize(
    ("limits", "point"),
    [
        (Limits(error=0.05), 1),  # the fastest within it
        (Limits(error=0.049), 2),
        (Limits(error=1.0), 0),
        (Limits(time=0.5), 2),  # the one of least error within it
        (Limits(time=0.49), 1),
        (Limits(error=0.06, time=0.9), 1),
        (Limits(offloaded=0.3), 2),
        (Limits(offloaded=0.25, time=0.4), 1),
    ],
)
def test_limits_choose_the_fastest_point_if_they_limit_the_error_else_the_best(limits: Limits, point: int) -> None:
    table = build_front_table(FRONT).assign(offloaded=[0.0, 0.1, 0.3, 0.6])
    assert choose_within(table, limits) == point


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(error=0.01), "has an error of at most 0.01; the lowest values of any point: error 0.0200"),
        (
            Limits(error=0.03, time=0.1),
            "error of at most 0.03 and time of at most 0.1; the lowest values of any",
        ),
    ],
)
def test_limits_that_no_point_meets_are_refused_with_the_lowest_values(limits: Limits, message: str) -> None:
    with pytest.raises(InfeasibleError, match=message):
        choose_within(build_front_table(FRONT), limits)


def test_a_limit_on_offloaded_events_needs_the_evaluation() -> None:
    with pytest.raises(InputFileError, match="--eval-file"):
        choose_within(build_front_table(FRONT), Limits(offloaded=0.3))


def test_a_point_is_evaluated_by_rates_and_cost_on_other_rows() -> None:
    evaluation, thresholds = random_evaluation(300, 7), Thresholds(0.8, 0.7, 0.6, 0.75)
    outcome = evaluation.decide(thresholds).outcome()
    (row,) = evaluate_point(["x"], [evaluation], [], thresholds, CostModel("full")).to_dict("records")
    path_1 = evaluation.time_segment_1 + evaluation.time_exit_1
    path_2 = evaluation.time_segment_1 + evaluation.time_segment_2 + evaluation.time_exit_2
    offloaded = ~evaluation.decide(thresholds).at_1
    cost = np.where(offloaded, path_2 + evaluation.time_exit_1, path_1).mean()
    assert (row["rows"], row["acceptance"], row["error"]) == (300, outcome.acceptance, outcome.error)
    assert (row["true_positive_rate"], row["f1"]) == (outcome.true_positive_rate, outcome.f1)
    assert row["cost"] == pytest.approx(1e6 * cost)
    assert row["of_whole_path"] == pytest.approx(cost / path_2.mean())
    assert "of_single_exit" not in row


def test_a_point_is_evaluated_beside_the_single_exit_network() -> None:
    evaluation, thresholds = random_evaluation(300, 7), Thresholds(0.8, 0.7, 0.6, 0.75)
    single = single_exit(evaluation, 0.5, right=False)
    (row,) = evaluate_point(["x"], [evaluation], [single], thresholds, CostModel()).to_dict("records")
    assert row["single_exit_error"] == 1.0
    assert row["of_single_exit"] == pytest.approx(1e-6 * row["cost"] / 0.5)


@pytest.mark.parametrize(
    "thresholds",
    [
        Thresholds(0.7809917642575541, 0.5000557706241202, 0.976443298420323, 0.7070060197581168),
        Thresholds(0.0, 1.0, 5e-324, 1 - 2**-53),
        Thresholds(0.1 + 0.2, 1 / 3, 1e-7, 0.5),
    ],
)
def test_the_client_reads_exactly_the_thresholds_of_the_printed_command(thresholds: Thresholds) -> None:
    python, script, *arguments = shlex.split(format_client_command(thresholds).replace("NETWORK", "mobilenet"))
    assert (python, script) == ("python", CLIENT)
    args = load_script(script).make_parser().parse_args(arguments)
    exits = (args.normal_exit1_min_certainty, args.attack_exit1_min_certainty)
    assert Thresholds(*exits, args.normal_exit2_min_certainty, args.attack_exit2_min_certainty) == thresholds


class Files:
    """A front, the evaluation it was found on, and another month with its single-exit network."""

    def __init__(self, folder: Path) -> None:
        self.found, self.other, self.single = (folder / f"{name}.csv" for name in ("found", "other", "single"))
        self.front, self.picture = folder / "front.sav", folder / "front.svg"
        evaluations = random_evaluation(300, 1), random_evaluation(300, 2)
        for path, evaluation in zip((self.found, self.other), evaluations, strict=True):
            plain_table(evaluation).to_csv(path, index=False)
        write_front(find_exact_front(Objectives(evaluations[0]), 0.8).front, self.front)
        single = single_exit(evaluations[1], 0.01)
        columns = dict(zip(SINGLE_EXIT_EVALUATION_COLUMNS, vars(single).values(), strict=True))
        pd.DataFrame(columns).to_csv(self.single, index=False)

    def arguments(self, *more: object) -> list[object]:
        return ["--datafile", self.front, "--savefile", self.picture, *more]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_the_script_chooses_within_limits(capsys: pytest.CaptureFixture[str], files: Files) -> None:
    table = build_front_table(read_front_of(files), read_evaluation([files.found]))
    for option, limits in (
        ("--max-error", Limits(error=float(table["error"].iloc[-2]) + 1e-6)),
        ("--max-time", Limits(time=float(table["time"].iloc[2]) + 1e-6)),
        ("--max-offload", Limits(offloaded=float(table["offloaded"].iloc[2]) + 1e-6)),
    ):
        (limit,) = limits.list_given().values()
        ended = call(capsys, CHART, *files.arguments(option, limit, "--eval-file", files.found))
        assert (ended.code, ended.err) == (0, "")
        assert f"operation point {choose_within(table, limits)}:" in ended.out


def read_front_of(files: Files) -> Front:
    return read_front(files.front)


def test_the_script_prints_and_writes_the_rates_of_the_point_on_another_month(
    capsys: pytest.CaptureFixture[str], files: Files, tmp_path: Path
) -> None:
    written = tmp_path / "other-months.csv"
    judging = ("--evaluate", files.other, "--single-exit", files.single, "--evaluation-savefile", written)
    ended = call(capsys, CHART, *files.arguments("--operation-point", "knee", *judging))
    assert (ended.code, ended.err) == (0, "")
    table = build_front_table(read_front_of(files))
    other, single = read_evaluation([files.other]), read_single_exit_evaluation(files.single)
    thresholds = get_thresholds(table, marks(table)["knee"])
    expected = evaluate_point(["other"], [other], [single], thresholds, CostModel())
    pd.testing.assert_frame_equal(pd.read_csv(written), expected)
    (line,) = [line for line in ended.out.splitlines() if line.startswith("  other: 300 rows, ")]
    assert f"error {100 * expected['error'][0]:.2f} %" in line
    assert "single exit error 0.00 %" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--operation-point", 1, "--max-error", 0.5], "leave it out, or leave out the --max"),
        (["--max-offload", 0.5], "--eval-file"),
        (["--max-error", 0], "no point of the front has an error of at most 0"),
        (["--evaluation-savefile", "x.csv"], "needs --evaluate"),
        (["--evaluate", "{other}", "--single-exit", "{single}", "--single-exit", "{single}"], "2 --single-exit for 1"),
        (["--evaluate", "{found}", "--single-exit", "{single}"], "holds other rows than its --evaluate"),
        (["--evaluate", "{other}", "--evaluation-savefile", "{other}"], "is an input, too"),
        (["--evaluate", "{single}"], "is not an evaluation CSV of two exits"),
        (["--evaluate", "{other}", "--single-exit", "{other}"], "is not an evaluation CSV of a single exit"),
        (["--evaluate", "{other}", "--cost-model", "edge"], "needs either --cost-per-offload or --offload-timings"),
    ],
)
def test_contradicting_options_are_one_line_and_no_picture(
    capsys: pytest.CaptureFixture[str], files: Files, options: list[object], message: str
) -> None:
    given = [str(option).format(**{name: str(path) for name, path in vars(files).items()}) for option in options]
    ended = call(capsys, CHART, *files.arguments(*given))
    (line,) = ended.err.splitlines()
    assert ended.code == 2
    assert message in line
    assert not files.picture.exists()


@needs_shared
def test_the_published_alexnet_is_compared_with_its_published_single_exit() -> None:
    evaluation = read_evaluation([PUBLISHED / "alexnet_rpi_2016_02.csv"])
    single = read_single_exit_evaluation(PUBLISHED / "alexnet_single_rpi_2016_02.csv")
    front = find_exact_front(Objectives(evaluation), 0.9).front
    table = build_front_table(front)
    least = marks(table)["least-error"]
    (row,) = evaluate_point(["02"], [evaluation], [single], get_thresholds(table, least), CostModel()).to_dict(
        "records"
    )
    assert row["error"] == pytest.approx(table["error"][least])
    assert 0.9 <= row["acceptance"] < 1
    assert 0 < row["of_single_exit"] < 1
