"""Large linear layers in 8-bit integers: near to the plain ones, and each event for itself."""

import copy

import pytest
import torch
from torch import nn

from models.early_exit import EarlyExitNetwork
from models.packing import pack_layers
from models.quantized import QuantizedLinear, quantize_linear_layers
from tests.networks import calibrated_network
from utils.errors import CheckpointError, DeviceError


def quantized(plain: nn.Linear) -> nn.Module:
    layers = nn.Sequential(copy.deepcopy(plain))
    quantize_linear_layers(layers)
    assert isinstance(layers[0], QuantizedLinear)
    return layers.eval().requires_grad_(False)


def layer(*, bias: bool = True) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(512, 256, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("events", [1, 2, 17, 100])
@pytest.mark.parametrize(("lowest", "highest"), [(0.0, 1.0), (-3.0, 5.0), (1e4, 2e4), (-2e-6, -1e-6)])
def test_its_products_are_within_the_steps_of_its_integers(
    events: int, lowest: float, highest: float, *, bias: bool
) -> None:
    plain = layer(bias=bias)
    inputs = lowest + (highest - lowest) * torch.rand(events, 512)
    # Half a step of each input times the weights, and half a step of each weight times the inputs; 8 standard
    # deviations of such a sum, were all errors independent.
    of_inputs = (highest - lowest) / 127 / 12**0.5 * plain.weight.norm(dim=1)
    of_weights = plain.weight.abs().amax(1) / 127 / 12**0.5 * inputs.norm(dim=1, keepdim=True)
    apart = (quantized(plain)(inputs) - plain(inputs)).abs()
    assert (apart <= 8 * (of_inputs.square() + of_weights.square()).sqrt() + 1e-6).all()


def test_inputs_and_weights_of_whole_steps_are_exact() -> None:
    plain = nn.Linear(512, 256).requires_grad_(False)
    plain.weight.copy_(torch.randint(-127, 128, plain.weight.shape))
    plain.weight[:, 0] = 127
    inputs = torch.randint(0, 128, (9, 512)).float()
    inputs[:, 0], inputs[:, 1] = 0, 127
    torch.testing.assert_close(quantized(plain)(inputs), plain(inputs), rtol=1e-5, atol=1e-2)


def test_an_event_is_answered_alike_whatever_it_comes_with() -> None:
    ours = quantized(layer())
    inputs = torch.rand(20, 512) * torch.logspace(-4, 4, 20)[:, None]
    together = ours(inputs)
    for number in range(20):
        torch.testing.assert_close(ours(inputs[number : number + 1])[0], together[number], rtol=1e-6, atol=1e-6)


def test_an_event_of_equal_inputs_and_an_output_without_weights_are_no_division_by_zero() -> None:
    plain = layer()
    plain.weight[5] = 0
    inputs = torch.zeros(3, 512)
    inputs[1:] = torch.tensor([2.0, -1.5])[:, None]
    torch.testing.assert_close(quantized(plain)(inputs), plain(inputs), rtol=0, atol=0.2)
    torch.testing.assert_close(quantized(plain)(inputs)[0], plain.bias)
    assert (quantized(plain)(torch.rand(4, 512))[:, 5] == plain.bias[5]).all()


def test_inputs_that_are_not_finite_give_no_finite_answer() -> None:
    inputs = torch.rand(3, 512)
    inputs[1, 7], inputs[2, 7] = torch.nan, torch.inf
    finite = torch.isfinite(quantized(layer())(inputs)).all(dim=1)
    assert finite.tolist() == [True, False, False]


def test_alexnets_exit_2_is_quantised_and_the_rest_packed_as_ever() -> None:
    network = calibrated_network("AlexNetWithExits")
    assert isinstance(network.model, EarlyExitNetwork)
    ours = copy.deepcopy(network)
    quantize_linear_layers(ours)
    pack_layers(ours)
    kinds = [type(part) for part in ours.model.exits[1].children()]
    assert kinds.count(QuantizedLinear) == 2 and kinds.count(nn.Linear) == 1
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        (plain_1, plain_2), (ours_1, ours_2) = network(images), ours(images)
    torch.testing.assert_close(ours_1, plain_1, rtol=1e-4, atol=1e-4)
    assert 0 < (ours_2 - plain_2).norm() < 0.03 * plain_2.norm()


def test_it_has_no_state_that_could_be_taken_for_the_networks() -> None:
    with pytest.raises(RuntimeError, match="no weight to save, nor a fingerprint"):
        quantized(layer()).state_dict()


def test_a_network_without_large_linear_layers_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no large linear layer; leave out --quantize"):
        quantize_linear_layers(calibrated_network("MobileNetV2WithExits"))


def test_another_device_or_a_torch_without_these_products_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="--device cpu"):
        quantize_linear_layers(nn.Sequential(nn.Linear(512, 256, device="meta")))
    monkeypatch.setattr("models.quantized._ENGINE", "abacus")
    with pytest.raises(DeviceError, match="leave out --quantize"):
        quantize_linear_layers(nn.Sequential(layer()))


def test_neither_torchs_choice_of_engine_nor_its_warnings_change(recwarn: pytest.WarningsRecorder) -> None:
    before = torch.backends.quantized.engine
    quantized(layer())
    assert torch.backends.quantized.engine == before
    assert not recwarn.list
