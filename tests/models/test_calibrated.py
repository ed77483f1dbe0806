import pytest
import torch
from torch import Tensor

import models
from models.calibrated import CalibratedNetwork, CalibratedSingleExit, add_temperatures
from models.early_exit import EarlyExitNetwork, SingleExitNetwork
from tests.models import published

IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def with_two_exits() -> EarlyExitNetwork:
    network = models.ARCHITECTURES["MobileNetV2WithExits"].create()
    assert isinstance(network, EarlyExitNetwork)
    network.load_state_dict(published.state_of("MobileNetV2WithExits"))
    return network.eval().requires_grad_(False)


def with_one_exit() -> SingleExitNetwork:
    network = models.ARCHITECTURES["MobileNetV2"].create()
    assert isinstance(network, SingleExitNetwork)
    network.load_state_dict(published.state_of("MobileNetV2"))
    return network.eval().requires_grad_(False)


def assert_equal(found: Tensor, expected: Tensor) -> None:
    assert torch.equal(found, expected)


def test_each_exits_logits_are_divided_by_its_own_temperature() -> None:
    network = with_two_exits()
    scaled = CalibratedNetwork(network, (2.0, 0.5)).eval().requires_grad_(False)
    (plain_1, plain_2), (whole_1, whole_2) = network(IMAGES), scaled(IMAGES)
    activations, edge_1 = scaled.edge(IMAGES)
    for found in (whole_1, edge_1, scaled.exit_1(activations)):
        assert_equal(found, plain_1 / 2)
    for found in (whole_2, scaled.cloud(activations)):
        assert_equal(found, plain_2 / 0.5)
    assert_equal(activations, network.segment_1(IMAGES))


def test_calibration_changes_certainties_but_not_predictions() -> None:
    network = with_two_exits()
    for plain, scaled in zip(network(IMAGES), CalibratedNetwork(network, (10.0, 10.0))(IMAGES), strict=True):
        assert_equal(plain.argmax(dim=1), scaled.argmax(dim=1))
        assert bool((plain.softmax(dim=1).amax(dim=1) > scaled.softmax(dim=1).amax(dim=1)).all())


def test_a_single_exits_logits_are_divided_by_its_temperature() -> None:
    network = with_one_exit()
    assert_equal(CalibratedSingleExit(network, 4.0)(IMAGES), network(IMAGES) / 4)


@pytest.mark.parametrize("class_name", ["MobileNetV2WithExits", "MobileNetV2"])
def test_a_calibrated_networks_keys_are_those_of_a_published_file(class_name: str) -> None:
    architecture = models.ARCHITECTURES[class_name]
    ones = [1.0] * architecture.exits
    with torch.device("meta"):
        found = {key: tuple(value.shape) for key, value in add_temperatures(architecture.create()).state_dict().items()}
    expected = published.calibrated(published.state_of(class_name), *ones)
    assert found == {key: tuple(value.shape) for key, value in expected.items()}


def test_temperatures_of_1_change_nothing() -> None:
    two, one = with_two_exits(), with_one_exit()
    for found, expected in zip(add_temperatures(two)(IMAGES), two(IMAGES), strict=True):
        assert_equal(found, expected)
    assert_equal(add_temperatures(one)(IMAGES), one(IMAGES))
