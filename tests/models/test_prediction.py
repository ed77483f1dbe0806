import numpy as np
import pytest
import torch

from models.calibrated import CalibratedNetwork
from models.prediction import ONNX, TORCH, choose_runtime, describe_device, iterate_batches, predict, select_device
from tests.networks import SAMPLE, calibrated_network
from utils.dataset import read_dataset, to_images
from utils.errors import DeviceError

FEATURES = read_dataset(SAMPLE).features[:23]


@pytest.fixture(scope="module")
def network() -> CalibratedNetwork:
    return calibrated_network("MobileNetV2WithExits")


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 23), (10, [10, 10, 3]), (23, [23]), (1000, [23])])
def test_batches_hold_all_rows_in_order_as_images(batch_size: int, sizes: list[int]) -> None:
    parts = list(iterate_batches(FEATURES, batch_size))
    assert [len(part) for part in parts] == sizes
    np.testing.assert_array_equal(torch.cat(parts).numpy(), to_images(FEATURES))


def test_the_logits_are_those_of_the_whole_network_in_order_whatever_the_batch_size(network: CalibratedNetwork) -> None:
    with torch.inference_mode():
        expected = network(torch.from_numpy(to_images(FEATURES)))
    for batch_size in (1, 10, 1000):
        for found, logits in zip(predict(network, FEATURES, batch_size), expected, strict=True):
            assert found.shape == (23, 2)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, logits.numpy(), rtol=1e-4, atol=1e-5)


def test_progress_gets_the_rows_that_every_batch_was_for(network: CalibratedNetwork) -> None:
    told = list[int]()
    predict(network, FEATURES, 5, progress=told.append)
    distinct = len(np.unique(FEATURES, axis=0))
    assert distinct < len(FEATURES)
    assert len(told) == -(-distinct // 5) and sum(told) == len(FEATURES)


def test_rows_that_repeat_are_computed_once(network: CalibratedNetwork) -> None:
    computed = list[int]()
    handle = network.model.exits[1].register_forward_pre_hook(lambda _layer, given: computed.append(len(given[0])))
    logits = predict(network, np.concatenate([FEATURES, FEATURES[::-1]]), 1000)
    handle.remove()
    assert sum(computed) == len(np.unique(FEATURES, axis=0))
    for exit_logits in logits:
        np.testing.assert_array_equal(exit_logits[: len(FEATURES)], exit_logits[: len(FEATURES) - 1 : -1])


def test_an_existing_device_is_selected() -> None:
    assert select_device("cpu") == torch.device("cpu")
    assert select_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "cpu:1", "mps", "meta", "cuda:-1", "cuda:x", "cuda:999999999999"])
def test_an_unknown_device_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(DeviceError, match=f"--device '{name}' is unknown. Use auto, cpu, cuda or cuda:N"):
        select_device(name)


def test_a_missing_gpu_is_refused() -> None:
    with pytest.raises(DeviceError, match=r"--device cuda:99: this machine shows .* Use --device cpu"):
        select_device("cuda:99")


def test_onnx_runtime_computes_on_the_cpu_and_pytorch_on_gpus_unless_the_other_is_named() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda:1")
    assert [choose_runtime(name, cpu) for name in (None, ONNX, TORCH)] == [ONNX, ONNX, TORCH]
    assert [choose_runtime(name, gpu) for name in (None, TORCH)] == [TORCH, TORCH]
    with pytest.raises(
        DeviceError, match=r"^--runtime onnx: .*not on cuda:1\. Use --runtime torch, or --device cpu\.$"
    ):
        choose_runtime(ONNX, gpu)


def test_a_device_is_described_with_the_runtime_and_its_threads() -> None:
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    assert describe_device(cpu) == f"cpu (threads: {threads})"
    assert describe_device(cpu, ONNX) == f"cpu (ONNX Runtime, threads: {threads})"
    assert describe_device(cpu, TORCH) == f"cpu (PyTorch, threads: {threads})"
