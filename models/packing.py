"""Weights of linear layers laid out for oneDNN, which multiplies small batches by them several times faster.

torch's own linear layer reads the weight in the plain layout by way of its BLAS; oneDNN's layout, made once, keeps the
products of one event, and of some tens, near the speed of the memory. The layers equal the plain ones but for rounding.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn
from typing_extensions import override

SMALLEST_WEIGHT: Final = 2**16
"""Elements of a weight under which the plain layer is as fast."""


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


def pack_linear_layers(network: nn.Module) -> None:
    """Replace the large linear layers of a network, in place, where this torch and the device can do it.

    Args:
        network: in evaluation mode; afterwards it can be neither trained, nor moved to another device.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and _is_packable(layer.weight):
                setattr(parent, name, PackedLinear(layer))


def _is_packable(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= SMALLEST_WEIGHT
