from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from evaluations import exit_timing
from evaluations.exit_timing import FloatArray, measure_parts, split_network
from models.calibrated import CalibratedNetwork, CalibratedSingleExit
from models.checkpoint import write_checkpoint
from models.cpu_network import open_halves, open_parts
from models.early_exit import SingleExitNetwork
from models.mobilenet import MobileNetV2WithExits
from models.onnx_runtime import compute_both
from models.prediction import ONNX, RUNTIMES, TORCH, predict
from tests.models import small
from tests.networks import SAMPLE, calibrated_network, new_network
from tests.scripts import EVALUATE, call
from utils.classification_metrics import certainty
from utils.dataset import read_labelled, to_images
from utils.errors import DeviceError
from utils.schema import EVALUATION_COLUMNS, SINGLE_EXIT_EVALUATION_COLUMNS
from utils.timing import CLOCKS, Stopwatch

CPU = torch.device("cpu")
NOISE = 5e-5
"""Of a certainty: rounding differs with the order of additions, and logits of these networks reach 60."""
dataset, all_labels = read_labelled(SAMPLE)
FEATURES, LABELS = dataset.features[:47], all_labels[:47]
IMAGES = torch.from_numpy(to_images(FEATURES))


@pytest.fixture(scope="module", params=["MobileNetV2WithExits", "AlexNetWithExits"])
def network(request: pytest.FixtureRequest) -> CalibratedNetwork:
    return calibrated_network(request.param)


def small_network() -> Any:
    return small.with_two_exits().eval().requires_grad_(False)


def assert_equal_answers(predictions: Any, certainties: Any, expected: FloatArray) -> None:
    """Check the answers of an exit against its logits by eager PyTorch, which may differ by rounding."""
    prediction, certain = certainty(expected)
    assert set(prediction) == {0, 1}  # or the order would not show
    np.testing.assert_allclose(certainties, certain, rtol=0, atol=NOISE)
    clear = certain > 0.5 + NOISE
    assert predictions[clear].tolist() == prediction[clear].tolist() and clear.mean() > 0.5


@pytest.mark.parametrize("runtime", [None, *RUNTIMES])
def test_the_table_holds_the_whole_networks_answers_in_order(network: CalibratedNetwork, runtime: str | None) -> None:
    table = measure_parts(split_network(network, CPU, runtime), FEATURES, LABELS, 20)
    assert tuple(table) == EVALUATION_COLUMNS
    assert table["y"].tolist() == LABELS.tolist()
    for number, logits in enumerate(predict(network, FEATURES, 20), 1):
        assert_equal_answers(table[f"y_exit_{number}"], table[f"cnf_exit_{number}"], logits)


def test_onnx_runtime_computes_on_the_cpu_only(network: CalibratedNetwork) -> None:
    with pytest.raises(DeviceError, match=r"--runtime onnx: .*not on cuda:0"):
        split_network(network, torch.device("cuda:0"), ONNX)


class Counted:
    """A part of a network that ONNX Runtime computes: counts the events of each pass, and takes time if told to."""

    def __init__(self, outputs: int) -> None:
        self.outputs = outputs
        self.passes = list[int]()
        self.then: Callable[[], object] = list

    def __call__(self, events: FloatArray) -> FloatArray:
        self.passes.append(len(events))
        self.then()
        return np.zeros((len(events), self.outputs), np.float32)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[Counted]:
    """The parts that ONNX Runtime computes of any network."""
    parts = [Counted(outputs) for outputs in (64, 2, 64, 2)]
    monkeypatch.setattr(exit_timing, "open_parts", lambda _network: parts)
    return parts


@pytest.mark.parametrize(
    ("batch_size", "passes"), [(1, [1] * 48), (20, [8, 7, 7, 6, 7, 7, 6, 7]), (1000, [8, 8, 8, 8, 8, 8, 7])]
)
def test_onnx_runtime_computes_every_part_in_suitable_passes_after_one_of_warm_up(
    parts: list[Counted], batch_size: int, passes: list[int]
) -> None:
    measure_parts(split_network(MobileNetV2WithExits(), CPU), FEATURES, LABELS, batch_size)
    assert [part.passes for part in parts] == [passes] * 4


@pytest.mark.parametrize(("batch_size", "batches"), [(10, 5), (47, 1), (1000, 1)])
def test_every_part_runs_once_per_batch_after_one_batch_of_warm_up(batch_size: int, batches: int) -> None:
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
    measure_parts(split_network(network, CPU, TORCH), FEATURES, LABELS, batch_size)
    names = ("transform", "backbone.0", "backbone.1", "exits.0", "exits.1")
    assert runs == dict.fromkeys(names, batches + 1)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_times_are_positive_seconds_per_event_equal_within_a_batch(
    network: CalibratedNetwork, clock: str, runtime: str
) -> None:
    table = measure_parts(split_network(network, CPU, runtime), FEATURES, LABELS, 20, clock)
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
def test_each_parts_time_divided_by_the_rows_is_in_its_column(clock: Clock, part: str, column: str) -> None:
    network = small_network()
    network.get_submodule(part).register_forward_hook(clock.advance)
    times = times_of(measure_parts(split_network(network, CPU, TORCH), FEATURES, LABELS, 1000, "wall"))
    assert times.pop(column) == [0.1] * 47
    assert list(times.values()) == [[0.0] * 47] * 3


def test_a_parts_time_is_that_of_all_passes_divided_by_the_rows(clock: Clock, parts: list[Counted]) -> None:
    for number, column in enumerate(name for name in EVALUATION_COLUMNS if "time" in name):
        parts[number].then = clock.advance
        times = times_of(measure_parts(split_network(MobileNetV2WithExits(), CPU), FEATURES, LABELS, 1000, "wall"))
        parts[number].then = list
        assert times.pop(column) == [0.6] * 47  # 6 passes of 4.7 s
        assert list(times.values()) == [[0.0] * 47] * 3


def test_the_parts_take_as_long_as_the_sessions_of_client_and_worker(network: CalibratedNetwork) -> None:
    halves, parts = open_halves(network, threads=1), open_parts(network, threads=1)
    features = dataset.features[: halves[0].chunk]
    seconds: dict[str, list[float]] = {"halves": [], "parts": []}
    for _ in range(12):  # in turns, and the least of each: other programs only add time
        watch = Stopwatch("cpu", CPU)
        compute_both(*halves, features)
        seconds["halves"].append(watch.lap())
        activations = parts[0](features)
        parts[1](activations)
        parts[3](parts[2](activations))
        seconds["parts"].append(watch.lap())
    assert min(seconds["parts"]) == pytest.approx(min(seconds["halves"]), rel=0.25)


def test_progress_gets_the_rows_of_every_batch() -> None:
    told = list[int]()
    measure_parts(split_network(small_network(), CPU, TORCH), FEATURES, LABELS, 20, progress=told.append)
    measure_parts(split_network(small.SingleExit().eval(), CPU, TORCH), FEATURES, LABELS, 20, progress=told.append)
    assert told == [20, 20, 7] * 2


@pytest.mark.parametrize("runtime", [None, *RUNTIMES])
@pytest.mark.parametrize("temperature", [None, 2.0])
def test_a_single_exits_table_holds_its_answers_in_order(temperature: float | None, runtime: str | None) -> None:
    network = new_network("MobileNetV2")
    assert isinstance(network, SingleExitNetwork)
    network.get_parameter("exit.2.1.bias").sub_(network(IMAGES).median(dim=0).values)
    whole: nn.Module = network if temperature is None else CalibratedSingleExit(network, temperature)
    whole.requires_grad_(False)
    table = measure_parts(split_network(whole, CPU, runtime), FEATURES, LABELS, 20)
    assert tuple(table) == SINGLE_EXIT_EVALUATION_COLUMNS
    assert table["y"].tolist() == LABELS.tolist()
    assert_equal_answers(table["y_pred"], table["cnf"], whole(IMAGES).numpy())
    assert (table["avg_time"] > 0).all()


def test_the_time_is_that_of_the_network_only(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_certainty(logits: Any) -> Any:
        clock.advance()
        return certainty(logits)

    monkeypatch.setattr(exit_timing, "certainty", slow_certainty)
    single = small.SingleExit().eval()
    single.exit.register_forward_hook(clock.advance)
    assert times_of(measure_parts(split_network(single, CPU, TORCH), FEATURES, LABELS, 1000, "wall")) == {
        "avg_time": [0.1] * 47
    }
    times = times_of(measure_parts(split_network(small_network(), CPU, TORCH), FEATURES, LABELS, 1000, "wall"))
    assert list(times.values()) == [[0.0] * 47] * 4


@pytest.mark.parametrize(("options", "runtime"), [((), "ONNX Runtime"), (("--runtime", "torch"), "PyTorch")])
def test_the_script_names_device_and_runtime_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], runtime: str
) -> None:
    checkpoint, dataset = tmp_path / "network.pth", tmp_path / "month.csv"
    write_checkpoint(checkpoint, new_network("MobileNetV2WithExits"), {})
    dataset.write_text("".join(SAMPLE.read_text().splitlines(keepends=True)[:30]))
    arguments = ("--trained-model", checkpoint, "--dataset", dataset, "--savefile", tmp_path / "evaluation.csv")
    ended = call(capsys, EVALUATE, *arguments, "--device", "cpu", *options)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"device: cpu ({runtime}, threads: {torch.get_num_threads()})\n")
    assert tuple(pd.read_csv(tmp_path / "evaluation.csv")) == EVALUATION_COLUMNS
