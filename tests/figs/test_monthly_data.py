import math
from pathlib import Path

import pytest

from figs.monthly_data import collect_operating_point, collect_rejection, collect_single_exit
from tests.captures import SHARED, needs_shared
from tests.figs.folders import fill, make_inputs


def test_the_rates_of_a_single_exit_are_those_counted_by_hand(tmp_path: Path) -> None:
    numbers = collect_single_exit(make_inputs(fill(tmp_path)))
    # 2 of 3 attacks and 1 of 2 normal events are right, 2 of 5 wrong.
    rates = pytest.approx([2 / 3, 1 / 2, 2 / 5])
    assert numbers.table["month"].tolist() == ["2016_02", "2016_03"]
    for row in numbers.table.to_dict("records"):
        assert (row["network"], row["events"]) == ("alexnet", 5)
        assert [row[name] for name in ("true_positive_rate", "true_negative_rate", "error")] == rates
    assert numbers.missing == [
        "evaluations of the single exit of AlexNet in 2016_{01,04..12}",
        "evaluations of the single exit of MobileNetV2",
    ]


def test_rates_at_the_operating_point_are_those_counted_by_hand(tmp_path: Path) -> None:
    table = collect_operating_point(make_inputs(fill(tmp_path))).table
    two, single = table[table["month"] == "2016_03"].to_dict("records")
    assert (two["system"], single["system"]) == ("two exits", "single exit")
    # Accepted: right, wrong (an alarm), right, wrong (a missed attack): of 2 attacks and 2 alarms 1 is caught.
    assert (two["accepted"], two["accuracy"], two["f1"]) == (4, 1 / 2, 1 / 2)
    assert (single["accepted"], single["accuracy"]) == (5, pytest.approx(3 / 5))
    assert single["f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert len(table) == 4


def test_rejected_and_offloaded_are_shares_of_all_events(tmp_path: Path) -> None:
    table = collect_rejection(make_inputs(fill(tmp_path))).table
    assert table["rejected_share"].tolist() == [0.2, 0.2]
    assert table["offloaded_share"].tolist() == [0.6, 0.6]


def test_another_operating_point_gives_other_rates(tmp_path: Path) -> None:
    table = collect_rejection(make_inputs(fill(tmp_path), point=0)).table
    assert table[["rejected_share", "offloaded_share"]].to_numpy().tolist() == [[0, 0], [0, 0]]


def test_the_caption_remarks_if_no_month_reaches_the_acceptance_in_the_fronts_name(tmp_path: Path) -> None:
    fill(tmp_path)
    for figure in (collect_rejection, collect_operating_point):
        assert "promises (0.9 of AlexNet, at most 0.80 here)" in figure(make_inputs(tmp_path)).shows
        assert "promises" not in figure(make_inputs(tmp_path, point=0)).shows


def test_without_a_front_there_is_nothing_at_an_operating_point(tmp_path: Path) -> None:
    (fill(tmp_path) / "nsga2" / "alexnet_x_f_0.9_2016_02.sav").unlink()
    for numbers in (collect_operating_point(make_inputs(tmp_path)), collect_rejection(make_inputs(tmp_path))):
        assert numbers.table.empty
        assert "the front of AlexNet and MobileNetV2" in numbers.missing


def test_a_month_of_normal_events_alone_has_no_true_positive_rate(tmp_path: Path) -> None:
    path = fill(tmp_path) / "evaluations" / "alexnet_single_pi_2016_02.csv"
    path.write_text("y,y_pred,cnf,avg_time\n0,0,0.9,0.1\n0,1,0.9,0.1\n")
    row, _ = collect_single_exit(make_inputs(tmp_path)).table.to_dict("records")
    assert math.isnan(row["true_positive_rate"])
    assert (row["true_negative_rate"], row["error"]) == (0.5, 0.5)


@needs_shared
def test_the_published_single_exit_has_the_published_error() -> None:
    table = collect_single_exit(make_inputs(SHARED / "data", point=0)).table
    assert table["month"].tolist() == ["2016_02", "2016_03"]
    assert table["error"].tolist() == pytest.approx([0.1082, 0.0896])
