from pathlib import Path

import numpy as np
import pytest

from tests.captures import SHARED, needs_shared
from tests.nsga2.test_objectives import random_evaluation
from utils.cost_models import compute_event_costs, read_cost_per_offload
from utils.errors import InputFileError

PUBLISHED = SHARED / "data" / "evaluations" / "rpi_offload_timings.tsv"
HEADER = "network\tbatch_size\trequest_process_time\n"


def test_the_edge_model_charges_exit_1_and_the_sending_of_offloaded_events() -> None:
    rows = random_evaluation(20)
    at_1, offloaded = compute_event_costs(rows, "edge", 0.004)
    np.testing.assert_array_equal(at_1, rows.time_segment_1 + rows.time_exit_1)
    np.testing.assert_array_equal(offloaded, at_1 + 0.004)


def test_the_other_models_charge_the_whole_path_and_only_full_adds_the_head_of_exit_1() -> None:
    rows = random_evaluation(20)
    (at_1, paper), (full_at_1, full) = compute_event_costs(rows), compute_event_costs(rows, "full")
    np.testing.assert_array_equal(at_1, full_at_1)
    np.testing.assert_array_equal(paper, rows.time_segment_1 + rows.time_segment_2 + rows.time_exit_2)
    np.testing.assert_array_equal(full, paper + rows.time_exit_1)


@needs_shared
def test_the_published_timings_give_the_processor_time_of_sending_an_event() -> None:
    where = {"network": "AlexNet", "datacenter": "ibm-sp", "input_size": "8", "batch_size": "10"}
    assert read_cost_per_offload(PUBLISHED, where) == pytest.approx(10.210e-3 / 10)
    alone = {**where, "batch_size": "1"}
    assert read_cost_per_offload(PUBLISHED, alone) == pytest.approx(9.360e-3)
    both = {"network": "AlexNet", "datacenter": "ibm-sp", "input_size": "8"}
    assert read_cost_per_offload(PUBLISHED, both) == pytest.approx((9.360 + 9.848 / 5 + 10.210 / 10) / 3 * 1e-3)


@pytest.mark.parametrize(
    ("content", "where", "message"),
    [
        (HEADER + "A\t1\t9\n", {"network": "B"}, "has no row with network = B; choose from A"),
        (HEADER + "A\t1\t9\n", {"color": "B"}, "lacks color and has network, batch_size"),
        ("network\tbatch_size\nA\t1\n", {}, "lacks request_process_time"),
        (HEADER + "A\t0\t9\n", {}, "batch_size under 1"),
        (HEADER + "A\t1\tx\n", {}, "request_process_time that is no number"),
        (HEADER + "A\t1\t-1\n", {}, "request_process_time that is no number"),
        (HEADER + "A\t1\t1e308\n", {}, "request_process_time that is no number"),
        (HEADER, {}, "has a header but no rows"),
    ],
)
def test_a_table_without_the_timings_is_refused(
    tmp_path: Path, content: str, where: dict[str, str], message: str
) -> None:
    path = tmp_path / "timings.tsv"
    path.write_text(content)
    with pytest.raises(InputFileError, match=message):
        read_cost_per_offload(path, where)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="timings"):
        read_cost_per_offload(tmp_path / "timings.tsv", {})
