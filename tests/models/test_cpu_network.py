"""What ONNX Runtime computes of a network in memory is what eager PyTorch computes, but for rounding."""

import copy
import os

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from models.calibrated import CalibratedNetwork, CalibratedSingleExit
from models.checkpoint import compute_fingerprint
from models.cpu_network import compute_logits, open_halves, open_single_exit
from models.early_exit import SingleExitNetwork, TwoExits
from models.onnx_graph import Graph, append_int8_linear
from models.onnx_runtime import FirstHalf, SecondHalf, compute_both, get_default_threads, start_session
from models.prediction import predict
from tests.networks import SAMPLE, calibrated_network, new_network
from utils.classification_metrics import classify
from utils.dataset import read_dataset, to_images
from utils.errors import CheckpointError, DeviceError

FloatArray = NDArray[np.float32]
CPU = torch.device("cpu")
TOLERANCE = 1e-5
"""Of logits, relative to the largest: rounding differs with the order in which products are added."""


@pytest.fixture(scope="module")
def features() -> FloatArray:
    """Sample rows, and rows far outside the scaled range."""
    random = np.random.default_rng(0).normal(0, 3, size=(70, 58)).astype(np.float32)
    return np.concatenate([read_dataset(SAMPLE).features[:70], random])


@pytest.fixture(scope="module", params=["AlexNetWithExits", "MobileNetV2WithExits"])
def network(request: pytest.FixtureRequest) -> CalibratedNetwork:
    return calibrated_network(request.param)


@pytest.fixture(scope="module")
def halves(network: CalibratedNetwork) -> tuple[FirstHalf, SecondHalf]:
    return open_halves(network, threads=1)


def eager(network: TwoExits, features: FloatArray) -> tuple[FloatArray, FloatArray]:
    with torch.inference_mode():
        first, second = network(torch.from_numpy(to_images(features)))
    return first.numpy(), second.numpy()


def assert_equal_answers(found: FloatArray, expected: FloatArray) -> None:
    """Check that logits are equal but for rounding, and labels equal but where rounding decides them."""
    apart = TOLERANCE * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=apart)
    clear = np.abs(np.subtract(*expected.T)) > 2 * apart
    assert (found.argmax(axis=1) == expected.argmax(axis=1))[clear].all() and (clear.mean() > 0.5 or len(clear) < 20)


@pytest.mark.parametrize("events", [1, 2, 17, 140])
def test_both_exits_are_eager_pytorchs(
    halves: tuple[FirstHalf, SecondHalf], network: CalibratedNetwork, features: FloatArray, events: int
) -> None:
    for found, expected in zip(
        compute_both(*halves, features[:events]), eager(network, features[:events]), strict=True
    ):
        assert found.dtype == np.float32
        assert_equal_answers(found, expected)


@pytest.mark.parametrize("sizes", [[1] * 40, [7] * 6, [64, 76], [140]])
def test_an_event_is_answered_alike_in_every_batch(
    halves: tuple[FirstHalf, SecondHalf], features: FloatArray, sizes: list[int]
) -> None:
    parts = np.split(features, np.cumsum(sizes))[: len(sizes)]
    together = compute_both(*halves, np.concatenate(parts))
    apart = [np.concatenate(logits) for logits in zip(*(compute_both(*halves, part) for part in parts), strict=True)]
    for one, other in zip(apart, together, strict=True):
        assert_equal_answers(one, other)


def test_activations_alone_equal_those_with_exit_1(halves: tuple[FirstHalf, SecondHalf], features: FloatArray) -> None:
    first, _ = halves
    np.testing.assert_array_equal(first.segment_1(features), first.exit_1(features)[1])
    assert first.segment_1(features[:0]).shape == (0, *first.activation_shape)


def test_halves_name_their_network(halves: tuple[FirstHalf, SecondHalf], network: CalibratedNetwork) -> None:
    for half in halves:
        assert half.fingerprint == compute_fingerprint(network)
        assert half.architecture == type(network.model).__name__
        assert half.activation_shape == network.activation_shape()


def test_an_error_of_onnx_runtime_is_one_line(halves: tuple[FirstHalf, SecondHalf]) -> None:
    with pytest.raises(RuntimeError) as caught:
        halves[1].exit_2(np.zeros((2, 3, 4, 5), np.float32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["AlexNet", "MobileNetV2"])
@pytest.mark.parametrize("temperature", [None, 2.0])
def test_a_single_exit_is_eager_pytorchs(name: str, temperature: float | None, features: FloatArray) -> None:
    network = new_network(name)
    assert isinstance(network, SingleExitNetwork)
    whole: nn.Module = network if temperature is None else CalibratedSingleExit(network, temperature)
    with torch.inference_mode():
        expected = whole(torch.from_numpy(to_images(features))).numpy()
    assert_equal_answers(open_single_exit(whole.requires_grad_(False), 1)(features), expected)


def test_whole_datasets_are_computed_like_by_pytorch(network: CalibratedNetwork, features: FloatArray) -> None:
    rows, told = np.concatenate([features, features[::-1]]), list[int]()
    found = compute_logits(network, rows, 33, CPU, told.append)
    for ours, theirs in zip(found, predict(network, rows, 33), strict=True):
        assert_equal_answers(ours, theirs)
        np.testing.assert_array_equal(ours[: len(features)], ours[: len(features) - 1 : -1])
    assert sum(told) == len(rows)


@pytest.mark.parametrize(("named", "threads"), [("3", 3), ("0", None), ("many", None), ("9999", None), ("", None)])
def test_the_environment_sets_the_threads_else_there_is_one_for_each_core(
    named: str, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", named)
    assert get_default_threads() == (threads or len(os.sched_getaffinity(0)))


# 8-bit integers


def layer(*, bias: bool = True) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(512, 256, bias=bias).requires_grad_(False)


def int8(plain: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
    """Return what the layer gives in 8-bit integers."""
    graph = Graph()
    content = graph.to_bytes({"x": (512,)}, {"y": (append_int8_linear(graph, plain, "x"), 2)}, {})
    return torch.from_numpy(start_session(content, 1).run(None, {"x": inputs.numpy()})[0])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("events", [1, 2, 17, 100])
@pytest.mark.parametrize(("lowest", "highest"), [(0.0, 1.0), (-3.0, 5.0), (1e4, 2e4), (-2e-6, -1e-6)])
def test_8_bit_products_are_within_the_steps_of_their_integers(
    events: int, lowest: float, highest: float, *, bias: bool
) -> None:
    plain = layer(bias=bias)
    inputs = lowest + (highest - lowest) * torch.rand(events, 512)
    # Half a step of each input times the weights, and half a step of each weight times the inputs; 8 standard
    # deviations of such a sum, were all errors independent.
    of_inputs = (highest - lowest) / 127 / 12**0.5 * plain.weight.norm(dim=1)
    of_weights = plain.weight.abs().amax(1) / 127 / 12**0.5 * inputs.norm(dim=1, keepdim=True)
    apart = (int8(plain, inputs) - plain(inputs)).abs()
    assert (apart <= 8 * (of_inputs.square() + of_weights.square()).sqrt() + 1e-6).all()


def test_8_bit_products_of_whole_steps_are_exact() -> None:
    plain = nn.Linear(512, 256).requires_grad_(False)
    plain.weight.copy_(torch.randint(-127, 128, plain.weight.shape))
    plain.weight[:, 0] = 127
    inputs = torch.randint(0, 128, (9, 512)).float()
    inputs[:, 0], inputs[:, 1] = 0, 127
    torch.testing.assert_close(int8(plain, inputs), plain(inputs), rtol=1e-5, atol=1e-2)


def test_no_8_bit_sum_overflows() -> None:
    plain = nn.Linear(512, 256).requires_grad_(False)
    plain.weight.fill_(1.0)
    inputs = torch.ones(3, 512)
    inputs[:, 0] = 0
    torch.testing.assert_close(int8(plain, inputs), plain(inputs), rtol=1e-5, atol=1e-2)


def test_an_event_is_answered_alike_in_8_bits_in_every_batch() -> None:
    inputs = torch.rand(20, 512) * torch.logspace(-4, 4, 20)[:, None]
    together = int8(layer(), inputs)
    for number in range(20):
        torch.testing.assert_close(
            int8(layer(), inputs[number : number + 1])[0], together[number], rtol=1e-6, atol=1e-6
        )


def test_equal_inputs_and_zero_weights_cause_no_division_by_zero() -> None:
    plain = layer()
    plain.weight[5] = 0
    inputs = torch.zeros(3, 512)
    inputs[1:] = torch.tensor([2.0, -1.5])[:, None]
    torch.testing.assert_close(int8(plain, inputs), plain(inputs), rtol=0, atol=0.2)
    torch.testing.assert_close(int8(plain, inputs)[0], plain.bias)
    assert (int8(plain, torch.rand(4, 512))[:, 5] == plain.bias[5]).all()


def test_inputs_that_are_not_finite_give_no_finite_answer() -> None:
    inputs = torch.rand(3, 512)
    inputs[1, 7], inputs[2, 7] = torch.nan, torch.inf
    assert torch.isfinite(int8(layer(), inputs)).all(dim=1).tolist() == [True, False, False]


def test_8_bits_change_alexnets_exit_2_only_and_slightly(features: FloatArray) -> None:
    network = calibrated_network("AlexNetWithExits")
    (plain_1, plain_2), (ours_1, ours_2) = (
        eager(network, features),
        compute_logits(network, features, 50, CPU, int8=True),
    )
    assert_equal_answers(ours_1, plain_1)
    assert 0 < np.linalg.norm(ours_2 - plain_2) < 0.03 * np.linalg.norm(plain_2)
    assert np.abs(classify(ours_2)[1] - classify(plain_2)[1]).mean() < 0.02


def test_8_bits_are_refused_if_they_are_no_faster_or_on_a_gpu(features: FloatArray) -> None:
    network = calibrated_network("MobileNetV2WithExits")
    with pytest.raises(CheckpointError, match=r"no large linear layer\. Leave it out\."):
        open_halves(network, int8=True)
    with pytest.raises(DeviceError, match="--device cpu"):
        compute_logits(copy.deepcopy(network), features, 10, torch.device("cuda"), int8=True)
