"""Large linear layers in 8-bit integers, for a worker that may answer approximately.

AlexNet's exit 2 has 35 million weights: a few events wait for the memory that they come from, and in batches for the
products. In 8 bits there is a quarter of the memory, and twice the products an instruction. An event's answer does not
hang on those computed with it: each is scaled for itself.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import torch
from torch import Tensor, nn
from typing_extensions import override

from models.packing import SMALLEST_WEIGHT
from utils.errors import CheckpointError, DeviceError

_ENGINE: Final = "fbgemm"
_WEIGHT_STEPS: Final = 127
_EVENT_STEPS: Final = 127
"""7 bits: without VNNI instructions, x86 adds two products in 16 bits, which 8 bits overflow."""


class QuantizedLinear(nn.Module):
    """A linear layer for inference on the CPU: 8-bit weights, scaled for each output, 7-bit inputs, for each event.

    Args:
        plain: float32, on the CPU. Only its bias is kept: there is no state dict.
    """

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        weight = plain.weight.detach()
        scales = (weight.abs().amax(1).double() / _WEIGHT_STEPS).clamp_min(torch.finfo(torch.float32).tiny)
        zeros = torch.zeros(len(weight), dtype=torch.long)
        integers = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self._packed = torch.ops.quantized.linear_prepack(integers, None)
        self._sums = integers.dequantize().sum(1)
        self.bias = plain.bias

    @override
    def forward(self, events: Tensor) -> Tensor:
        """Return (N, out) float32 for (N, in)."""
        lowest, highest = events.aminmax(dim=1, keepdim=True)
        span = (highest - lowest).clamp_min(torch.finfo(torch.float32).tiny)
        within = (events - lowest) / span  # 0 to 1
        product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            within, 1 / _EVENT_STEPS, 0, self._packed
        )
        outputs: Tensor = product * span + lowest * self._sums
        return outputs if self.bias is None else outputs + self.bias

    @override
    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> NoReturn:
        raise RuntimeError("a quantised layer has no weight to save, nor a fingerprint; take them before")


def quantize_linear_layers(network: nn.Module) -> None:
    """Replace a network's large linear layers, in place.

    Args:
        network: float32, in evaluation mode; afterwards it has neither these weights nor a fingerprint.

    Raises:
        DeviceError: it is on another device than the CPU, or this PyTorch has no 8-bit products for the processor.
        CheckpointError: it has no such layer, and would be no faster.
    """
    if next(network.parameters()).device.type != "cpu":
        raise DeviceError("8-bit products are computed on the CPU alone; leave out --quantize, or choose --device cpu")
    if _ENGINE not in torch.backends.quantized.supported_engines:
        raise DeviceError(
            "this PyTorch has no 8-bit products for this processor (an x86 with AVX2 has them); leave out --quantize"
        )
    large = [
        (parent, name, layer)
        for parent in network.modules()
        for name, layer in parent.named_children()
        if type(layer) is nn.Linear and layer.weight.numel() >= SMALLEST_WEIGHT
    ]
    if not large:
        raise CheckpointError("int8 makes this network no faster: it has no large linear layer; leave out --quantize")
    with _engine():
        for parent, name, layer in large:
            setattr(parent, name, QuantizedLinear(layer))


@contextlib.contextmanager
def _engine() -> Iterator[None]:
    """Choose what lays out the weights, and keep torch's announcement off the screen that it will retire its dtypes."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = _ENGINE
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*quantized tensor creation functions.*")
            yield
    finally:
        torch.backends.quantized.engine = before
