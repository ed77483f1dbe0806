from pathlib import Path

import pytest

from figs.energy_data import DERIVED, STATED, collect_energy
from tests.figs.folders import HEAD_1, HEAD_2, SEGMENT_1, SEGMENT_2, WHOLE, fill, make_inputs

AT_EXIT_1 = 1000 * (SEGMENT_1 + HEAD_1)
SENDING = (1 + 3) / 2  # ms of the processor, the mean of both data centres at one event a request


def derived(folder: Path, watts: float | None = None) -> dict[str, float]:
    table = collect_energy(make_inputs(folder, watts=watts)).table
    rows = table[table["source"] == DERIVED]
    return dict(zip(rows["system"], rows["value"], strict=True))


def test_costs_are_those_computed_by_hand_with_3_of_5_events_offloaded(tmp_path: Path) -> None:
    assert derived(fill(tmp_path)) == {
        "single exit": pytest.approx(1000 * WHOLE),
        "two exits, local": pytest.approx(AT_EXIT_1 + 3 / 5 * 1000 * (SEGMENT_2 + HEAD_2)),
        "two exits, offloaded": pytest.approx(AT_EXIT_1 + 3 / 5 * SENDING),
    }


def test_a_power_turns_milliseconds_into_millijoules_and_the_table_says_so(tmp_path: Path) -> None:
    time, joules = derived(fill(tmp_path)), derived(tmp_path, watts=2.5)
    assert joules == {system: pytest.approx(2.5 * value) for system, value in time.items()}
    numbers = collect_energy(make_inputs(tmp_path, watts=2.5))
    assert set(numbers.table["unit"]) == {"mJ an event at 2.5 W", "µAh a request"}
    assert "a model and no reading (processor time times an assumed 2.5 W" in numbers.shows
    assert "no power is assumed" in collect_energy(make_inputs(tmp_path)).shows


def test_the_papers_readings_stand_beside_them_and_are_never_scaled(tmp_path: Path) -> None:
    table = collect_energy(make_inputs(fill(tmp_path), watts=7)).table
    stated = table[table["source"] == STATED]
    assert stated[["network", "system", "value"]].to_numpy().tolist() == [
        ["alexnet", "single exit", 94.3],
        ["alexnet", "two exits, offloaded", 0.83],
    ]
    assert stated["share_of_single_exit"].tolist() == pytest.approx([1, 0.83 / 94.3])


@pytest.mark.parametrize(
    ("name", "lost", "missing"),
    [
        ("evaluations/pi_offload_timings.tsv", {"two exits, offloaded"}, "offload timings of AlexNet on pi"),
        (
            "nsga2/alexnet_x_f_0.9_2016_02.sav",
            {"two exits, local", "two exits, offloaded"},
            "the front of AlexNet and MobileNetV2",
        ),
    ],
)
def test_systems_without_files_are_left_out_and_named(tmp_path: Path, name: str, lost: set[str], missing: str) -> None:
    everything = set(derived(fill(tmp_path)))
    (tmp_path / name).unlink()
    assert set(derived(tmp_path)) == everything - lost
    assert missing in collect_energy(make_inputs(tmp_path)).missing


def test_without_a_single_exit_there_is_no_share_of_it(tmp_path: Path) -> None:
    for path in (fill(tmp_path) / "evaluations").glob("*_single_*"):
        path.unlink()
    table = collect_energy(make_inputs(tmp_path)).table
    assert table[table["source"] == DERIVED]["share_of_single_exit"].isna().all()


def test_timings_of_another_device_are_not_used(tmp_path: Path) -> None:
    path = fill(tmp_path) / "evaluations" / "pi_offload_timings.tsv"
    path.rename(path.with_name("pc_offload_timings.tsv"))
    assert "two exits, offloaded" not in derived(tmp_path)
