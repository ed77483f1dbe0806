"""The exits of a network in memory, as a client or a worker on a CPU computes them."""

import functools
from collections.abc import Collection
from typing import Final, NamedTuple

import torch

from models.calibrated import CalibratedNetwork
from models.checkpoint import compute_fingerprint
from models.early_exit import EarlyExitNetwork, TwoExits
from offload.defaults import MAX_BATCH, PAYLOADS
from offload.link.protocol import Limits
from offload.networks.exits import FirstExit, SecondExit
from offload.networks.torch_exits import Exit1, Exit2, open_network

CPU = torch.device("cpu")
ROUNDING: Final = 5e-5
"""Largest rounding error of a certainty: in passes of different sizes ONNX Runtime adds in different orders, and
PyTorch does in any pass. The logits of the tests' untrained MobileNetV2 are near 57, where float32 steps by 4e-6."""


class Exits(NamedTuple):
    """Both exits of a network."""

    first: FirstExit
    second: SecondExit


@functools.lru_cache(maxsize=4)
def exits_of(network: TwoExits, chunk: int = MAX_BATCH) -> Exits:
    """Return a network's exits, computed by ONNX Runtime; those of a network made for a test, by eager PyTorch."""
    if type(network) is not CalibratedNetwork and not isinstance(network, EarlyExitNetwork):
        return eager_exits_of(network, chunk)
    opened = open_network(network, CPU, most=chunk)
    assert opened.exit_2 is not None
    return Exits(opened.exit_1, opened.exit_2)


def eager_exits_of(network: TwoExits, chunk: int = MAX_BATCH) -> Exits:
    """Return a network's exits as PyTorch computes them, which it does on GPUs."""
    return Exits(Exit1(network, CPU), Exit2(network, CPU, chunk))


def served(
    network: TwoExits, chunk: int = MAX_BATCH, payloads: Collection[str] = PAYLOADS
) -> tuple[SecondExit, Limits]:
    """Return a worker's second exit for a network, and its limits."""
    limits = Limits(compute_fingerprint(network), network.activation_shape(), tuple(payloads))
    return exits_of(network, chunk).second, limits
