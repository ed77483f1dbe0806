"""Layers laid out for oneDNN, which then computes a network on the CPU in half to two thirds of the time.

torch's own linear layer reads the weight in the plain layout by way of its BLAS; oneDNN's layout, made once, keeps the
products of one event, and of some tens, near the speed of the memory. A convolution keeps its activations with the
channels last, and applies the rectifier behind it while its results are still in the registers: else MobileNetV2
spends a third of its time on reading and writing for its 50 rectifiers. The layers equal the plain ones but for
rounding.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from typing_extensions import override

from models.winograd import WinogradRow, is_winograd_row
from utils.schema import IMAGE_SIDE

SMALLEST_WEIGHT: Final = 2**16
"""Elements of a weight under which the plain layer is as fast."""


_USUAL_BATCH: Final = 32


class PackedLinear(nn.Module):
    """A linear layer for inference on the CPU, with a packed weight; its state dict is the plain layer's.

    Args:
        plain: float32, on the CPU.
    """

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(plain.weight.detach())
        self.bias = plain.bias

    @override
    def forward(self, events: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(events, self._weight, self.bias, "none", [], "")
        return product

    @override
    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self._weight.to_dense()
        super()._save_to_state_dict(destination, prefix, keep_vars)


class PackedConvolution(nn.Module):
    """A convolution and the rectifier behind it, for inference on the CPU; its state dict is the plain layer's.

    Args:
        plain: float32, on the CPU, its padding zeros.
        rectifier: ``nn.ReLU`` or ``nn.ReLU6``; None where there is none.
        shape: (N, C, H, W) of a usual batch. Weights laid out for nothing in particular are laid out anew in each pass.
    """

    def __init__(self, plain: nn.Conv2d, rectifier: nn.Module | None, shape: Sequence[int]) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias
        place = (list(plain.padding), list(plain.stride), list(plain.dilation), plain.groups)
        self._packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(plain.weight.detach(), *place, list(shape))
        self._arguments = (*place, *_RECTIFIERS[type(rectifier)], "")

    @override
    def forward(self, images: Tensor) -> Tensor:
        filtered: Tensor = torch.ops.mkldnn._convolution_pointwise(images, self._packed, self.bias, *self._arguments)
        return filtered


_RECTIFIERS: Final[dict[type, tuple[str, list[float]]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    type(None): ("none", []),
}


def pack_layers(network: nn.Module, images: Tensor | None = None) -> None:
    """Replace a network's convolutions and large linear layers, in place, where this torch and the device can do it.

    Args:
        network: in evaluation mode; afterwards it can be neither trained, nor moved to another device.
        images: a usual batch of what it takes; None: 32 events (32, 1, 8, 8).
    """
    if not torch.backends.mkldnn.is_available() or not _is_packable(next(network.parameters())):  # type: ignore[no-untyped-call]
        return
    shapes = _shapes_in(network, torch.zeros(_USUAL_BATCH, 1, IMAGE_SIDE, IMAGE_SIDE) if images is None else images)
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            first = next((part for part in layer.modules() if type(part) is nn.Conv2d), None)
            if first is not None and is_winograd_row(layer, shapes.get(first)):
                setattr(parent, name, _winograd_row(layer))
            if type(layer) is nn.Linear and _is_packable(layer.weight) and layer.weight.numel() >= SMALLEST_WEIGHT:
                setattr(parent, name, PackedLinear(layer))
        if isinstance(parent, nn.Sequential):
            _pack_convolutions(parent, shapes)


def _winograd_row(layers: nn.Module) -> WinogradRow:
    convolutions = [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d)]
    biases = [layer.bias.detach() for layer in convolutions if layer.bias is not None]
    return WinogradRow(*layers.children(), weights=[layer.weight for layer in convolutions], biases=biases)


def _shapes_in(network: nn.Module, images: Tensor) -> dict[nn.Module, torch.Size]:
    """Return the shape of what each convolution is given."""
    shapes: dict[nn.Module, torch.Size] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, given: shapes.__setitem__(layer, given[0].shape))
        for layer in network.modules()
        if type(layer) is nn.Conv2d
    ]
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()
    return shapes


def _pack_convolutions(layers: nn.Sequential, shapes: Mapping[nn.Module, torch.Size]) -> None:
    for number, layer in enumerate(layers):
        if type(layer) is nn.Conv2d and _is_packable(layer.weight) and layer.padding_mode == "zeros":
            behind = layers[number + 1] if number + 1 < len(layers) else None
            rectifier = behind if type(behind) in _RECTIFIERS else None
            layers[number] = PackedConvolution(layer, rectifier, shapes[layer])
            if rectifier is not None:
                layers[number + 1] = nn.Identity()


def _is_packable(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32
