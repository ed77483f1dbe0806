from pathlib import Path

import pytest

from figs.certainty_data import collect_fronts, collect_reliability, find_reliability_files
from figs.results_folder import TWO_EXITS, UNCALIBRATED
from tests.captures import SHARED, needs_shared
from tests.figs.folders import FRONT, fill, make_inputs
from utils.classification_metrics import compute_calibration_error
from utils.results import read_evaluation


def test_bins_hold_what_lies_in_them(tmp_path: Path) -> None:
    table = collect_reliability(make_inputs(fill(tmp_path))).table
    rows = table[(table["exit"] == 1) & (table["certainties"] == "calibrated")]
    # Certainties 0.5, 0.6, 0.7, 0.8, 0.9 lie in five of 15 bins; right are those of 0.5, 0.7, 0.9.
    assert rows["events"].tolist() == [1] * 5
    assert rows["mean_certainty"].tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert rows["accuracy"].tolist() == [1, 0, 1, 0, 1]
    assert rows["ece"].tolist() == pytest.approx([(0.5 + 0.6 + 0.3 + 0.8 + 0.1) / 5] * 5)
    assert ((rows["least"] < rows["mean_certainty"]) & (rows["mean_certainty"] <= rows["most"] + 1e-9)).all()


def test_both_exits_are_there_with_and_without_calibration_on_the_same_month(tmp_path: Path) -> None:
    numbers = collect_reliability(make_inputs(fill(tmp_path)))
    groups = {tuple(key) for key, _ in numbers.table.groupby(["exit", "certainties", "month"])}
    assert groups == {(n, kind, "2016_03") for n in (1, 2) for kind in ("calibrated", "uncalibrated")}
    assert numbers.missing == ["evaluations of two exits of MobileNetV2"]


def test_the_month_is_the_first_after_calibration_with_most_kinds(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    evaluations = folder / "evaluations"
    first = (evaluations / "alexnet_pi_2016_02.csv").read_text()
    for name in ("alexnet_pi_2016_04", "alexnet_uncalibrated_pi_2016_04", "alexnet_uncalibrated_pi_2016_02"):
        (evaluations / f"{name}.csv").write_text(first)
    assert {file.month for file in find_reliability_files(make_inputs(folder), "alexnet").values()} == {"2016_03"}
    (evaluations / "alexnet_uncalibrated_pi_2016_03.csv").unlink()
    chosen = find_reliability_files(make_inputs(folder), "alexnet")
    assert {kind: file.month for kind, file in chosen.items()} == {TWO_EXITS: "2016_04", UNCALIBRATED: "2016_04"}
    assert find_reliability_files(make_inputs(folder), "mobilenet") == {}


def test_the_front_has_all_its_points_and_one_operating_point(tmp_path: Path) -> None:
    table = collect_fronts(make_inputs(fill(tmp_path))).table
    assert table[["error", "time"]].to_numpy().tolist() == FRONT.objectives[::-1].tolist()
    assert table["operating_point"].tolist() == [False, True]
    assert table["normal_exit_2"].tolist() == [0.5, 0.8]


@needs_shared
def test_the_published_networks_have_the_calibration_error_that_their_rows_give() -> None:
    table = collect_reliability(make_inputs(SHARED / "data", point=0)).table
    evaluation = read_evaluation([SHARED / "data" / "evaluations" / "mobilenet_rpi_2016_03.csv"])
    expected = compute_calibration_error(evaluation.certainty_2, evaluation.prediction_2 == evaluation.labels)
    rows = table[(table["network"] == "mobilenet") & (table["exit"] == 2)]
    assert set(rows["ece"]) == {expected}
    assert rows["events"].sum() == 5000
