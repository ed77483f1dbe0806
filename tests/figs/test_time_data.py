from pathlib import Path

import pytest

from figs.time_data import collect_inference_rates, collect_offload_times
from tests.captures import SHARED, needs_shared
from tests.figs.folders import HEAD_1, HEAD_2, SEGMENT_1, SEGMENT_2, WHOLE, fill, make_inputs


def test_a_rate_is_one_over_the_time_of_its_path(tmp_path: Path) -> None:
    table = collect_inference_rates(make_inputs(fill(tmp_path))).table
    rates = dict(zip(table["path"], table["events_per_second"], strict=True))
    assert rates == {
        "single exit": pytest.approx(1 / WHOLE),
        "exit 1": pytest.approx(1 / (SEGMENT_1 + HEAD_1)),
        "exit 2": pytest.approx(1 / (SEGMENT_1 + SEGMENT_2 + HEAD_2)),
    }
    assert set(table["events"]) == {10}


def test_the_smallest_input_counts_and_local_times_are_means_over_the_data_centres(tmp_path: Path) -> None:
    table = collect_offload_times(make_inputs(fill(tmp_path))).table
    columns = ["exit_2", "datacenter", "batch_size", "wall_milliseconds", "processor_milliseconds"]
    assert table.sort_values(columns[:3])[columns].to_numpy().tolist() == [
        ["local", "", 1, 110, 420],
        ["local", "", 10, 300, 900],
        ["offloaded", "far", 1, 90, 3],
        ["offloaded", "near", 1, 30, 1],
        ["offloaded", "near", 10, 60, 2],
    ]  # fmt: skip


def test_a_worker_on_the_same_machine_is_said_to_be_without_a_network(tmp_path: Path) -> None:
    path = fill(tmp_path) / "evaluations" / "pi_offload_timings.tsv"
    assert "same machine" not in collect_offload_times(make_inputs(tmp_path)).shows
    path.write_text(path.read_text().replace("near", "loopback"))
    caption = collect_offload_times(make_inputs(tmp_path)).shows
    assert "loopback is a worker on the same machine, without a network" in caption


@needs_shared
def test_the_published_paths_take_the_milliseconds_that_the_paper_states() -> None:
    table = collect_inference_rates(make_inputs(SHARED / "data", point=0)).table
    rows = table[table["device"] == "rpi"].set_index(["network", "path"])["seconds_per_event"]
    stated = {"alexnet": (2.67, 135.7), "mobilenet": (53.7, 125.7)}
    for network, (exit_1, whole) in stated.items():
        assert 1000 * rows[network, "exit 1"] == pytest.approx(exit_1, abs=0.06)
        assert 1000 * rows[network, "exit 2"] == pytest.approx(whole, abs=0.07)
