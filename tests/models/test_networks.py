import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models
from models.calibrated import CalibratedNetwork
from models.checkpoint import read_checkpoint
from models.early_exit import EarlyExitNetwork, SingleExitNetwork, TwoExits, initialise
from models.mobilenet import InvertedResidual
from tests.models import published
from tests.networks import SAMPLE, calibrated_network
from utils.dataset import read_dataset, to_images

ALL = ["AlexNetWithExits", "MobileNetV2WithExits", "AlexNet", "MobileNetV2"]
IMAGES = torch.from_numpy(to_images(read_dataset(SAMPLE).features[:7]))

Published = tuple[str, dict[str, Tensor]]


def on_meta(class_name: str) -> EarlyExitNetwork | SingleExitNetwork:
    """A network without memory for its weights."""
    with torch.device("meta"):
        return models.ARCHITECTURES[class_name].create()


@pytest.fixture(scope="module", params=ALL)
def plain(request: pytest.FixtureRequest) -> Iterator[Published]:
    """A network's class name, and a published state dict of it with random weights."""
    yield request.param, published.state_of(request.param)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """Where a checkpoint of up to 147 MB goes; it is not kept."""
    yield tmp_path / "published.pth"
    (tmp_path / "published.pth").unlink(missing_ok=True)


# What the published files fix


def test_the_registry_holds_the_four_published_networks_each_under_its_class_name() -> None:
    assert list(models.ARCHITECTURES) == ALL
    for name, architecture in models.ARCHITECTURES.items():
        network = on_meta(name)
        assert type(network).__name__ == architecture.name == name
        assert isinstance(network, TwoExits) == (architecture.exits == 2)
        assert models.find(architecture.family, architecture.exits) is architecture
    assert models.FAMILIES == ("alexnet", "mobilenet")


@pytest.mark.parametrize(("class_name", "count"), published.PARAMETERS.items())
def test_the_parameters_are_as_many_as_published(class_name: str, count: int) -> None:
    assert sum(parameter.numel() for parameter in on_meta(class_name).parameters()) == count
    assert sum(math.prod(shape) for shape in published.shapes_of(class_name).values()) == count


@pytest.mark.parametrize("class_name", ALL)
def test_every_key_and_shape_of_the_state_dict_is_the_contracts(class_name: str) -> None:
    found = {key: tuple(value.shape) for key, value in on_meta(class_name).state_dict().items()}
    assert found == published.shapes_of(class_name)


def logits_of(network: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        outputs = network(images)
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


@pytest.mark.slow
def test_a_published_file_gives_the_logits_of_the_layers_applied_one_by_one(plain: Published, file: Path) -> None:
    class_name, state = plain
    torch.save(state, file)
    checkpoint = read_checkpoint(file)
    assert (checkpoint.architecture.name, checkpoint.calibrated, checkpoint.training) == (class_name, False, {})
    expected = published.logits_of(class_name, state, IMAGES)
    assert len(expected) == checkpoint.architecture.exits
    torch.testing.assert_close(logits_of(checkpoint.network, IMAGES), expected, rtol=1e-5, atol=1e-5)


def test_a_published_calibrated_file_gives_those_logits_divided_by_the_temperatures(
    plain: Published, file: Path
) -> None:
    class_name, state = plain
    temperatures = [2.5, 0.4][: models.ARCHITECTURES[class_name].exits]
    torch.save(published.calibrated(state, *temperatures), file)
    checkpoint = read_checkpoint(file)
    assert (checkpoint.architecture.name, checkpoint.calibrated) == (class_name, True)
    expected = [
        logits / temperature
        for logits, temperature in zip(published.logits_of(class_name, state, IMAGES), temperatures, strict=True)
    ]
    torch.testing.assert_close(logits_of(checkpoint.network, IMAGES), expected, rtol=1e-5, atol=1e-5)


# Edge and cloud


@pytest.fixture(scope="module")
def calibrated() -> CalibratedNetwork:
    return calibrated_network("MobileNetV2WithExits")


@pytest.mark.parametrize("wrapped", [True, False], ids=["calibrated", "plain"])
def test_segment_by_segment_gives_exactly_what_the_whole_network_gives(
    calibrated: CalibratedNetwork, *, wrapped: bool
) -> None:
    network: TwoExits = calibrated if wrapped else calibrated.model
    with torch.inference_mode():
        whole_1, whole_2 = network(IMAGES)
        activations, logits_1 = network.edge(IMAGES)
        logits_2 = network.cloud(activations)
        assert torch.equal(network.exit_1(network.segment_1(IMAGES)), whole_1)
        assert torch.equal(network.exit_2(network.segment_2(activations)), whole_2)
    assert torch.equal(logits_1, whole_1)
    assert torch.equal(logits_2, whole_2)
    assert tuple(activations.shape[1:]) == network.activation_shape()


@pytest.mark.parametrize(
    ("class_name", "shape"), [("AlexNetWithExits", (64, 5, 5)), ("MobileNetV2WithExits", (24, 12, 12))]
)
def test_what_the_edge_sends_has_the_contracts_shape(class_name: str, shape: tuple[int, ...]) -> None:
    network = on_meta(class_name)
    assert isinstance(network, EarlyExitNetwork)
    assert network.activation_shape() == shape
    logits = network(torch.empty(3, 1, 8, 8, device="meta"))
    assert [tuple(part.shape) for part in logits] == [(3, 2), (3, 2)]


def test_the_input_transform_is_applied_once_and_first() -> None:
    for class_name in ("MobileNetV2WithExits", "MobileNetV2"):
        network = models.ARCHITECTURES[class_name].create().eval()
        plain = logits_of(network, IMAGES * 3 + 1)

        class Affine(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return images * 3 + 1

        network.transform = Affine()
        for found, expected in zip(logits_of(network, IMAGES), plain, strict=True):
            assert torch.equal(found, expected)


# The inverted residual


def assert_residual_rule(block: InvertedResidual, n_in: int, n_out: int, stride: int) -> None:
    """With all its weights 0, a residual block hands its input on, and any other gives zeros."""
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    images = torch.randn(1, n_in, 6, 6)
    zeros = torch.zeros(1, n_out, 6 // stride, 6 // stride)
    assert torch.equal(block(images), images if stride == 1 and n_in == n_out else zeros)


def test_a_block_adds_its_input_only_where_stride_and_widths_leave_the_shape_as_it_is() -> None:
    found = [module for module in on_meta("MobileNetV2WithExits").modules() if isinstance(module, InvertedResidual)]
    assert len(found) == 17
    for block, (_t, n_in, n_out, stride) in zip(found, published.blocks(), strict=True):
        assert_residual_rule(block.to_empty(device="cpu"), n_in, n_out, stride)
    assert sum(block.residual for block in found) == 10


@pytest.mark.parametrize("n_out", [8, 12])
@pytest.mark.parametrize("stride", [1, 2])
def test_equal_widths_alone_or_no_stride_alone_do_not_make_a_block_residual(n_out: int, stride: int) -> None:
    assert_residual_rule(InvertedResidual(8, n_out, stride, expansion=6), 8, n_out, stride)


# Initialisation


def test_initialisation_draws_every_layer_as_he_et_al_and_the_last_ones_small() -> None:
    torch.manual_seed(0)
    network = models.ARCHITECTURES["MobileNetV2WithExits"].create()
    initialise(network)
    for name, parameter in network.state_dict().items():
        if name.endswith("bias"):
            assert not parameter.any()
        elif name in {"exits.0.2.1.weight", "exits.1.2.1.weight"}:
            assert float(parameter.std()) == pytest.approx(0.01, rel=0.1)
        elif parameter.numel() > 5000:
            deviation = math.sqrt(2 / math.prod(parameter.shape[1:]))
            assert float(parameter.std()) == pytest.approx(deviation, rel=0.05)


def test_in_a_new_network_both_classes_are_equally_likely() -> None:
    torch.manual_seed(0)
    for class_name in ("MobileNetV2WithExits", "MobileNetV2"):
        network = models.ARCHITECTURES[class_name].create().eval()
        initialise(network)
        for logits in logits_of(network, IMAGES):
            np.testing.assert_allclose(logits.softmax(dim=1), 0.5, atol=0.2)
