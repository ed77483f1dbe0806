"""Rows of 3x3 convolutions over 5x5 images with two fifths of the arithmetic, for AlexNet's second segment.

A convolution is a product of polynomials; evaluated at enough points, it is one multiplication a point (Winograd,
"Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
CVPR 2016). Seven points a side do for five outputs of three taps: 49 products in place of 225, of which a direct
convolution that skips the padding still computes 169. With the points outermost, each step is one matrix product.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

SIDE: Final = 5
TAPS: Final = 3
FEWEST_EVENTS: Final = 12
"""Fewer go by the plain layers: there are five times as many numbers to read as there are weights."""

_POINTS: Final = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5)
"""And infinity. Of the sets that were tried the one with the least rounding errors."""


def _at_points(coefficients: int) -> NDArray[np.float64]:
    """Return the matrix (7, coefficients) that evaluates a polynomial at the points."""
    at_infinity = np.eye(coefficients)[-1:]
    return np.concatenate([np.vander(np.array(_POINTS), coefficients, increasing=True), at_infinity])


# For correlation the transposed algorithm: outputs = A'((G taps) * (B' inputs)).
_OUTPUTS: Final = _at_points(SIDE).T
_FILTERS: Final = _at_points(TAPS)
# The padding stands for the first and the last of seven inputs, and is zero.
_INPUTS: Final = np.linalg.inv(_at_points(SIDE + TAPS - 1)).T[:, 1:-1]


class WinogradRow(nn.Sequential):
    """Convolutions with a rectifier behind each, for inference on the CPU; its state dict is that of the layers.

    Args:
        *layers: each a convolution of 3x3 taps, padding 1, stride 1, with a bias, and a ReLU behind it, or what was put
            in their place; they compute few events.
        weights: (C_out, C_in, 3, 3) of each.
        biases: (C_out,) of each.
    """

    def __init__(self, *layers: nn.Module, weights: list[Tensor], biases: list[Tensor]) -> None:
        super().__init__(*layers)
        self._filters = [_transformed(weight) for weight in weights]
        self._biases = biases
        self._inputs = torch.from_numpy(np.kron(_INPUTS, _INPUTS)).float()
        self._outputs = torch.from_numpy(np.kron(_OUTPUTS, _OUTPUTS)).float()

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Return (N, C_out, 5, 5) for (N, C_in, 5, 5)."""
        count = len(images)
        if count < FEWEST_EVENTS:
            few: Tensor = super().forward(images)  # type: ignore[no-untyped-call]
            return few
        pixels = images.flatten(2).permute(2, 0, 1).contiguous()  # (25, N, C)
        for filters, bias in zip(self._filters, self._biases, strict=True):
            points = (self._inputs @ pixels.view(SIDE**2, -1)).view(-1, *pixels.shape[1:])
            products = torch.bmm(points, filters)  # (49, N, C_in) x (49, C_in, C_out)
            pixels = (self._outputs @ products.view(len(products), -1)).view(SIDE**2, count, -1)
            pixels = pixels.add_(bias).relu_()
        return pixels.permute(1, 2, 0).reshape(count, -1, SIDE, SIDE)


def _transformed(weight: Tensor) -> Tensor:
    """Return a filter (C_out, C_in, 3, 3) at the points, (49, C_in, C_out) float32."""
    taps = weight.detach().double().flatten(2).permute(2, 1, 0)  # (9, C_in, C_out)
    at_points = torch.from_numpy(np.kron(_FILTERS, _FILTERS)) @ taps.flatten(1)
    return at_points.float().view(-1, *taps.shape[1:])


def is_winograd_row(layers: nn.Module, shape: torch.Size | None) -> bool:
    """Return whether layers are such convolutions, given the shape (N, C, H, W) of what the first one takes."""
    if type(layers) is not nn.Sequential or len(layers) == 0 or shape is None or tuple(shape[2:]) != (SIDE, SIDE):
        return False
    return all(
        type(layer) is nn.Sequential and [type(part) for part in layer] == [nn.Conv2d, nn.ReLU] and _fits(layer[0])
        for layer in layers
    )


def _fits(layer: nn.Module) -> bool:
    assert isinstance(layer, nn.Conv2d)
    pairs = (layer.kernel_size, layer.padding, layer.stride, layer.dilation)
    wanted = ((TAPS, TAPS), (1, 1), (1, 1), (1, 1))
    return pairs == wanted and layer.groups == 1 and layer.bias is not None and layer.padding_mode == "zeros"
