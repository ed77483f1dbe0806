import time

import numpy as np
import pytest

from figs.offload_timing import EdgeFunctions, FloatArray, make_request_batches, measure_requests, measure_time
from figs.results_folder import TIMING_COLUMNS


def busy(seconds: float) -> None:
    """Keep the processor busy for this long."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_elapsed_and_processor_time_are_distinguished() -> None:
    batches = [np.zeros((1, 58), dtype=np.float32)] * 4
    wall, processor = measure_time(lambda _batch: time.sleep(0.02), batches)
    assert wall >= 20
    assert processor < 10
    wall, processor = measure_time(lambda _batch: busy(0.02), batches)
    assert 20 <= processor <= 1.05 * wall + 1


def test_the_first_batch_is_also_the_unmeasured_warm_up() -> None:
    seen: list[int] = []
    batches = [np.full((1, 58), number, dtype=np.float32) for number in range(3)]
    measure_time(lambda batch: seen.append(int(batch[0, 0])), batches)
    assert seen == [0, 0, 1, 2]


def test_requests_use_the_rows_in_order() -> None:
    features = np.arange(5, dtype=np.float32)[:, np.newaxis]
    assert [batch.ravel().tolist() for batch in make_request_batches(features, 3, repeats=3)] == [
        [0, 1, 2], [3, 4, 0], [1, 2, 3]
    ]  # fmt: skip


def test_a_row_tells_which_part_took_what() -> None:
    sent = 0

    def exit_1(batch: FloatArray) -> FloatArray:
        busy(0.004)
        return batch + 1

    def exit_2(activations: FloatArray) -> None:
        assert activations[0, 0] == 1
        busy(0.012)

    def ask(batch: FloatArray) -> float:
        nonlocal sent
        assert batch[0, 0] == 0
        sent += 300
        time.sleep(0.02)
        return 7.0

    batches = [np.zeros((2, 58), dtype=np.float32)] * 3
    row = measure_requests("alexnet", EdgeFunctions(exit_1, exit_2, ask, lambda: sent), batches)
    assert tuple(row) == TIMING_COLUMNS
    assert (row["network"], row["datacenter"], row["batch_size"], row["data_size"]) == ("alexnet", "loopback", 2, 300)
    numbers = {name: float(str(row[name])) for name in TIMING_COLUMNS[2:]}
    assert 4 <= numbers["e1_process_time"] < 12 <= numbers["e2_process_time"]
    assert numbers["request_process_time"] < 5 < 20 <= numbers["request_local_time"]
    assert numbers["e2_remote_time"] == 7
    assert numbers["network_time"] == pytest.approx(numbers["request_local_time"] - 7)
