from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from evaluations import measurement
from evaluations.measurement import measure_single_exit, measure_two_exits
from models.calibrated import CalibratedNetwork
from models.prediction import predict
from tests.models import small
from tests.networks import SAMPLE, calibrated_network
from utils.classification_metrics import certainty
from utils.dataset import read_labelled, to_images
from utils.schema import EVALUATION_COLUMNS, SINGLE_EXIT_EVALUATION_COLUMNS
from utils.timing import CLOCKS

CPU = torch.device("cpu")
dataset, all_labels = read_labelled(SAMPLE)
FEATURES, LABELS = dataset.features[:47], all_labels[:47]
IMAGES = torch.from_numpy(to_images(FEATURES))


@pytest.fixture(scope="module")
def network() -> CalibratedNetwork:
    return calibrated_network("MobileNetV2WithExits")


def small_network() -> Any:
    return small.with_two_exits().eval().requires_grad_(False)


def test_the_table_is_what_the_whole_network_answers_row_by_row_and_in_order(network: CalibratedNetwork) -> None:
    table = measure_two_exits(network, FEATURES, LABELS, 20, CPU)
    assert tuple(table) == EVALUATION_COLUMNS
    assert table["y"].tolist() == LABELS.tolist()
    for number, logits in enumerate(predict(network, FEATURES, 20), 1):
        prediction, certain = certainty(logits)
        assert set(prediction) == {0, 1}  # or the order would not show
        assert table[f"y_exit_{number}"].tolist() == prediction.tolist()
        np.testing.assert_allclose(table[f"cnf_exit_{number}"], certain, rtol=0, atol=5e-5)


@pytest.mark.parametrize(("batch_size", "batches"), [(10, 5), (47, 1), (1000, 1)])
def test_every_part_runs_once_a_batch_after_one_batch_of_warm_up(batch_size: int, batches: int) -> None:
    network, runs = small_network(), dict[str, int]()

    def count(name: str, part: nn.Module) -> None:
        def hook(*_arguments: object) -> None:
            runs[name] = runs.get(name, 0) + 1

        part.register_forward_hook(hook)

    for name, part in network.named_children():
        if isinstance(part, nn.ModuleList):
            for index, child in enumerate(part):
                count(f"{name}.{index}", child)
        else:
            count(name, part)
    measure_two_exits(network, FEATURES, LABELS, batch_size, CPU)
    names = ("transform", "backbone.0", "backbone.1", "exits.0", "exits.1")
    assert runs == dict.fromkeys(names, batches + 1)


@pytest.mark.parametrize("clock", CLOCKS)
def test_times_are_positive_seconds_per_event_equal_within_a_batch(network: CalibratedNetwork, clock: str) -> None:
    table = measure_two_exits(network, FEATURES, LABELS, 20, CPU, clock)
    times = table[[name for name in EVALUATION_COLUMNS if "time" in name]]
    assert (times > 0).all().all()
    assert (times < 1).all().all()
    assert (times.groupby(np.arange(47) // 20).nunique() == 1).all().all()


class Clock:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, *_arguments: object) -> None:
        self.now += 4.7


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The wall clock, in the test's hands."""
    clock = Clock()
    monkeypatch.setitem(CLOCKS, "wall", clock)
    return clock


def times_of(table: pd.DataFrame) -> dict[str, list[float]]:
    """Return the times of an evaluation table by their columns, to a microsecond."""
    return {str(name): table[name].round(6).tolist() for name in table if "time" in str(name)}


@pytest.mark.parametrize(
    ("part", "column"),
    [
        ("backbone.0", "bb_time_exit_1"),
        ("exits.0", "exit_time_exit_1"),
        ("backbone.1", "bb_time_exit_2"),
        ("exits.1", "exit_time_exit_2"),
    ],
)
def test_the_time_of_each_part_stands_in_its_own_column_divided_by_the_rows(
    clock: Clock, part: str, column: str
) -> None:
    network = small_network()
    network.get_submodule(part).register_forward_hook(clock.advance)
    times = times_of(measure_two_exits(network, FEATURES, LABELS, 1000, CPU, "wall"))
    assert times.pop(column) == [0.1] * 47
    assert list(times.values()) == [[0.0] * 47] * 3


def test_progress_is_told_the_rows_of_every_batch() -> None:
    told = list[int]()
    measure_two_exits(small_network(), FEATURES, LABELS, 20, CPU, progress=told.append)
    measure_single_exit(small.SingleExit().eval(), FEATURES, LABELS, 20, CPU, progress=told.append)
    assert told == [20, 20, 7] * 2


def test_a_single_exits_table_is_what_the_network_answers_row_by_row_and_in_order() -> None:
    torch.manual_seed(0)
    network = small.SingleExit().eval().requires_grad_(False)
    network.get_parameter("exit.bias").sub_(network(IMAGES).median(dim=0).values)
    table = measure_single_exit(network, FEATURES, LABELS, 20, CPU)
    assert tuple(table) == SINGLE_EXIT_EVALUATION_COLUMNS
    prediction, certain = certainty(network(IMAGES).numpy())
    assert set(prediction) == {0, 1}
    assert table["y"].tolist() == LABELS.tolist()
    assert table["y_pred"].tolist() == prediction.tolist()
    np.testing.assert_allclose(table["cnf"], certain, atol=1e-6)
    assert (table["avg_time"] > 0).all()


def test_a_single_exits_time_is_the_networks_alone_as_with_two_exits(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_certainty(logits: Any) -> Any:
        clock.advance()
        return certainty(logits)

    monkeypatch.setattr(measurement, "certainty", slow_certainty)
    single = small.SingleExit().eval()
    single.exit.register_forward_hook(clock.advance)
    assert times_of(measure_single_exit(single, FEATURES, LABELS, 1000, CPU, "wall")) == {"avg_time": [0.1] * 47}
    times = times_of(measure_two_exits(small_network(), FEATURES, LABELS, 1000, CPU, "wall"))
    assert list(times.values()) == [[0.0] * 47] * 4
