import copy
import itertools

import pytest
import torch
from torch import nn

from models.packing import pack_layers
from models.winograd import FEWEST_EVENTS, WinogradRow, is_winograd_row
from tests.networks import calibrated_network


def row(*widths: int) -> nn.Sequential:
    """Return convolutions as AlexNet's second segment has them, in double precision made single."""
    torch.manual_seed(len(widths))
    layers = [
        nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU()) for n_in, n_out in itertools.pairwise(widths)
    ]
    return nn.Sequential(*layers).requires_grad_(False)


def winograd(plain: nn.Sequential) -> WinogradRow:
    convolutions = [layer for layer in plain.modules() if isinstance(layer, nn.Conv2d)]
    weights = [layer.weight for layer in convolutions]
    return WinogradRow(*plain, weights=weights, biases=[layer.bias for layer in convolutions if layer.bias is not None])


@pytest.mark.parametrize("events", [1, FEWEST_EVENTS - 1, FEWEST_EVENTS, FEWEST_EVENTS + 1, 100])
@pytest.mark.parametrize("widths", [(1, 1), (3, 5), (4, 7, 2, 9)])
def test_it_computes_what_the_convolutions_do(events: int, widths: tuple[int, ...]) -> None:
    plain = row(*widths)
    images = torch.randn(events, widths[0], 5, 5)
    exact = copy.deepcopy(plain).double()(images.double())
    found = winograd(plain)(images)
    assert found.shape == exact.shape and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)


def test_a_single_pixel_gives_the_filter_around_it() -> None:
    plain = row(1, 1)
    images = torch.zeros(FEWEST_EVENTS, 1, 5, 5)
    for number in range(FEWEST_EVENTS):
        images[number, 0, number % 5, number // 5] = 1.0
    torch.testing.assert_close(winograd(plain)(images), plain(images), rtol=0, atol=1e-6)


def test_memory_may_lie_with_the_channels_last() -> None:
    plain = row(4, 6)
    images = torch.randn(20, 4, 5, 5)
    expected = winograd(plain)(images)
    torch.testing.assert_close(winograd(plain)(images.to(memory_format=torch.channels_last)), expected)


FITTING = torch.Size((32, 4, 5, 5))


def test_only_what_it_can_compute_counts_as_such_a_row() -> None:
    assert is_winograd_row(row(4, 6, 2), FITTING)
    assert not is_winograd_row(row(4, 6, 2), torch.Size((32, 4, 6, 5)))
    assert not is_winograd_row(row(4, 6, 2), None)
    assert not is_winograd_row(nn.Sequential(), FITTING)
    for wrong in (
        nn.Conv2d(4, 4, 5, padding=1),
        nn.Conv2d(4, 4, 3, padding=2),
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.Conv2d(4, 4, 3, padding=1, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    ):
        assert not is_winograd_row(nn.Sequential(nn.Sequential(wrong, nn.ReLU())), FITTING)
    assert not is_winograd_row(nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU6())), FITTING)


@pytest.mark.slow
def test_packing_takes_it_for_alexnets_second_segment() -> None:
    network = calibrated_network("AlexNetWithExits")
    packed = copy.deepcopy(network)
    pack_layers(packed)
    assert [type(layer) for layer in packed.model.backbone] == [nn.Sequential, WinogradRow]
    images = torch.rand(40, 1, 8, 8)
    with torch.inference_mode():
        plain, ours = network(images)[1].softmax(dim=1), packed(images)[1].softmax(dim=1)
    torch.testing.assert_close(ours, plain, rtol=0, atol=5e-5)
