"""Packed layers are the plain ones, faster."""

import copy

import pytest
import torch
from torch import nn

from models.checkpoint import fingerprint
from models.early_exit import TwoExits
from models.packing import SMALLEST_WEIGHT, PackedConvolution, PackedLinear, pack_layers
from tests.networks import calibrated_network

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["AlexNetWithExits", "MobileNetV2WithExits"])
def plain(request: pytest.FixtureRequest) -> TwoExits:
    return calibrated_network(request.param)


@pytest.fixture(scope="module")
def packed(plain: TwoExits) -> TwoExits:
    network = copy.deepcopy(plain)
    pack_layers(network)
    return network


@pytest.mark.parametrize("events", [1, 2, 17, 300])
def test_a_packed_network_is_the_plain_one_but_for_some_hundred_roundings(
    plain: TwoExits, packed: TwoExits, events: int
) -> None:
    # Not compared with torch's own error, which is a tenth of it on some processors: Winograd's sums cancel.
    images = torch.rand(events, 1, 8, 8, generator=torch.Generator().manual_seed(events))
    with torch.inference_mode():
        exact = copy.deepcopy(plain).double()(images.double())
        for true, ours in zip(exact, packed(images), strict=True):
            assert (ours - true).abs().max() <= 256 * torch.finfo(torch.float32).eps * true.abs().max()


def test_activations_cross_the_link_in_the_plain_order(plain: TwoExits, packed: TwoExits) -> None:
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = plain.segment_1(images), packed.segment_1(images)
        torch.testing.assert_close(found.numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)
        logits = packed.cloud(torch.from_numpy(found.contiguous().numpy()))
        torch.testing.assert_close(logits, plain.cloud(expected), rtol=1e-5, atol=1e-5)


def test_every_convolution_is_packed_with_the_rectifier_behind_it(plain: TwoExits, packed: TwoExits) -> None:
    kinds = [type(layer) for layer in packed.modules()]
    assert not {nn.Conv2d, nn.ReLU6} & set(kinds)
    assert kinds.count(PackedConvolution) == sum(type(layer) is nn.Conv2d for layer in plain.modules())


@pytest.mark.parametrize("rectifiers", [[nn.ReLU()], [nn.ReLU6()], [], [nn.Tanh()]])
def test_a_convolution_is_computed_with_what_stands_behind_it(rectifiers: list[nn.Module]) -> None:
    network = nn.Sequential(nn.Conv2d(4, 6, (3, 1), stride=2, padding=(1, 0), dilation=2, groups=2), *rectifiers)
    images = 20 * torch.randn(3, 4, 9, 8)
    expected = network(images).detach()
    pack_layers(network, images)
    assert type(network[0]) is PackedConvolution
    torch.testing.assert_close(network(images).detach(), expected, rtol=1e-5, atol=1e-4)


def test_padding_that_is_not_of_zeros_is_left_to_torch() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"))
    pack_layers(network, torch.rand(1, 1, 4, 4))
    assert type(network[0]) is nn.Conv2d


def test_the_large_linear_layers_are_packed_and_hold_their_weight_once(packed: TwoExits) -> None:
    for layer in packed.modules():
        if isinstance(layer, PackedLinear):
            assert [name for name, _ in layer.named_parameters()] == ["bias"]
        elif isinstance(layer, nn.Linear):
            assert layer.weight.numel() < SMALLEST_WEIGHT


def test_packing_changes_neither_state_nor_fingerprint(plain: TwoExits, packed: TwoExits) -> None:
    state, packed_state = plain.state_dict(), packed.state_dict()
    assert state.keys() == packed_state.keys()
    assert all(torch.equal(state[key], packed_state[key]) for key in state)
    assert fingerprint(packed) == fingerprint(plain)


def test_a_layer_without_a_bias_is_packed_too() -> None:
    network = nn.Sequential(nn.Linear(512, 256, bias=False))
    events = torch.rand(3, 512)
    expected = network(events).detach()
    pack_layers(network, events)
    assert isinstance(network[0], PackedLinear)
    torch.testing.assert_close(network(events), expected)


def test_where_torch_lacks_onednn_or_the_layer_is_no_float32_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Linear(512, 256).double(), nn.Conv2d(1, 1, 1).double())
    pack_layers(network)
    assert [type(layer) for layer in network] == [nn.Linear, nn.Conv2d]
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    network = nn.Sequential(nn.Linear(512, 256), nn.Conv2d(1, 1, 1))
    pack_layers(network)
    assert [type(layer) for layer in network] == [nn.Linear, nn.Conv2d]
