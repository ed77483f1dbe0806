"""Packed layers are the plain ones, faster."""

import copy

import pytest
import torch
from torch import nn

from models.checkpoint import fingerprint
from models.early_exit import TwoExits
from models.packing import SMALLEST_WEIGHT, PackedLinear, pack_linear_layers
from tests.networks import calibrated_network


@pytest.fixture(scope="module")
def alexnet() -> TwoExits:
    return calibrated_network("AlexNetWithExits")


@pytest.fixture(scope="module")
def packed(alexnet: TwoExits) -> TwoExits:
    network = copy.deepcopy(alexnet)
    pack_linear_layers(network)
    return network


@pytest.mark.parametrize("events", [1, 2, 17, 300])
def test_a_packed_network_computes_what_the_plain_one_does(alexnet: TwoExits, packed: TwoExits, events: int) -> None:
    images = torch.rand(events, 1, 8, 8, generator=torch.Generator().manual_seed(events))
    with torch.inference_mode():
        for plain_logits, logits in zip(alexnet(images), packed(images), strict=True):
            torch.testing.assert_close(logits, plain_logits, rtol=1e-5, atol=1e-5)


def test_the_large_linear_layers_are_packed_and_hold_their_weight_once(packed: TwoExits) -> None:
    kinds = {name: type(layer) for name, layer in packed.named_modules() if hasattr(layer, "in_features")}
    assert PackedLinear in kinds.values()
    for layer in packed.modules():
        if isinstance(layer, PackedLinear):
            assert [name for name, _ in layer.named_parameters()] == ["bias"]
        elif isinstance(layer, nn.Linear):
            assert layer.weight.numel() < SMALLEST_WEIGHT


def test_packing_changes_neither_state_nor_fingerprint(alexnet: TwoExits, packed: TwoExits) -> None:
    state, packed_state = alexnet.state_dict(), packed.state_dict()
    assert state.keys() == packed_state.keys()
    assert all(torch.equal(state[key], packed_state[key]) for key in state)
    assert fingerprint(packed) == fingerprint(alexnet)


def test_a_layer_without_a_bias_is_packed_too() -> None:
    network = nn.Sequential(nn.Linear(512, 256, bias=False))
    events = torch.rand(3, 512)
    expected = network(events).detach()
    pack_linear_layers(network)
    assert isinstance(network[0], PackedLinear)
    torch.testing.assert_close(network(events), expected)


def test_where_torch_lacks_onednn_or_the_layer_is_no_float32_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Linear(512, 256).double(), nn.Linear(2, 2))
    pack_linear_layers(network)
    assert all(type(layer) is nn.Linear for layer in network)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    network = nn.Sequential(nn.Linear(512, 256))
    pack_linear_layers(network)
    assert type(network[0]) is nn.Linear
