"""Define the base classes of networks with two exits, and of the single-exit networks they are compared with."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from typing_extensions import override

from models.preprocessing import Identity
from utils.schema import IMAGE_SIDE


class TwoExits(nn.Module):
    """A network with two exits, in four parts that subclasses define.

    The edge computes segment 1 and exit 1. For events that exit 1 does not accept, the cloud computes segment 2 and
    exit 2 from the activations behind segment 1.
    """

    def segment_1(self, images: Tensor) -> Tensor:
        """Return the activations (N, C, H, W) behind segment 1 for images (N, 1, 8, 8)."""
        raise NotImplementedError

    def exit_1(self, activations: Tensor) -> Tensor:
        """Return the logits (N, 2) of exit 1 for the activations behind segment 1."""
        raise NotImplementedError

    def segment_2(self, activations: Tensor) -> Tensor:
        """Return the activations behind segment 2 for those behind segment 1."""
        raise NotImplementedError

    def exit_2(self, deeper: Tensor) -> Tensor:
        """Return the logits (N, 2) of exit 2 for the activations behind segment 2."""
        raise NotImplementedError

    def edge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the edge computes: activations (N, C, H, W) and the logits (N, 2) of exit 1."""
        activations = self.segment_1(images)
        return activations, self.exit_1(activations)

    def cloud(self, activations: Tensor) -> Tensor:
        """Return the logits (N, 2) of exit 2 for the activations that ``edge`` returned."""
        return self.exit_2(self.segment_2(activations))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N, 2) of both exits; segment 1 is computed once."""
        activations, logits_1 = self.edge(images)
        return logits_1, self.cloud(activations)

    def activation_shape(self) -> tuple[int, ...]:
        """Return (C, H, W) of one event's activations behind segment 1."""
        device = next(self.parameters()).device
        with torch.inference_mode():
            image = torch.zeros(1, 1, IMAGE_SIDE, IMAGE_SIDE, device=device)
            return tuple(self.segment_1(image).shape[1:])


class EarlyExitNetwork(TwoExits):
    """Two backbone segments with an exit behind each (paper, section on the early-exit DNN).

    Args:
        segments: the two backbone segments.
        heads: the two exits, each from its segment's activations to logits (N, 2).
    """

    def __init__(self, segments: Iterable[nn.Module], heads: Iterable[nn.Module]) -> None:
        super().__init__()
        self.transform: nn.Module = Identity()
        self.backbone = nn.ModuleList(segments)
        self.exits = nn.ModuleList(heads)

    @override
    def segment_1(self, images: Tensor) -> Tensor:
        activations: Tensor = self.backbone[0](self.transform(images))
        return activations

    @override
    def exit_1(self, activations: Tensor) -> Tensor:
        logits: Tensor = self.exits[0](activations)
        return logits

    @override
    def segment_2(self, activations: Tensor) -> Tensor:
        deeper: Tensor = self.backbone[1](activations)
        return deeper

    @override
    def exit_2(self, deeper: Tensor) -> Tensor:
        logits: Tensor = self.exits[1](deeper)
        return logits


class SingleExitNetwork(nn.Module):
    """A conventional network with one exit, the paper's baseline; subclasses define ``body`` and ``exit``."""

    exit: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.transform: nn.Module = Identity()

    def body(self, images: Tensor) -> Tensor:
        """Return the input of the exit for transformed images (N, 1, 8, 8)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, 2) for images (N, 1, 8, 8)."""
        logits: Tensor = self.exit(self.body(self.transform(images)))
        return logits


def initialise(network: EarlyExitNetwork | SingleExitNetwork) -> None:
    """Apply He initialisation to every convolution and linear layer, in place.

    The networks have no normalisation layers. With PyTorch's default initialisation, MobileNetV2's activations shrink
    from layer to layer, and its accuracy after eight epochs is about ten percentage points lower. The last layer of an
    exit gets small weights, so that both classes are about equally likely at first.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    heads = list(network.exits) if isinstance(network, EarlyExitNetwork) else [network.exit]
    for head in heads:
        last = [module for module in head.modules() if isinstance(module, nn.Linear)][-1]
        nn.init.normal_(last.weight, std=0.01)
