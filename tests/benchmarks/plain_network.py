"""The two networks as one would write them from their published shapes, in eager PyTorch: yardstick and oracle.

Nothing is packed, folded or left out: every row of a batch goes through every layer in one pass. The only layer that
the published networks lack is the input transform, which is the toolkit's own module in eager PyTorch; it is there so
that both versions answer for the same network.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.preprocessing import make_transform

FloatArray = NDArray[np.float32]


def _filter(n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.ReLU6(inplace=True))


class _Block(nn.Module):
    """An inverted block: expand, filter each channel, project; its input added where the shapes are equal."""

    def __init__(self, n_in: int, n_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = n_in * expansion
        layers = [_filter(wide, wide, 3, stride, groups=wide), _filter(wide, n_out, 1)]
        self.layers = nn.Sequential(*([] if expansion == 1 else [_filter(n_in, wide, 1)]), *layers)
        self.residual = stride == 1 and n_in == n_out

    def forward(self, images: Tensor) -> Tensor:
        projected: Tensor = self.layers(images)
        return images + projected if self.residual else projected


def _blocks(n_in: int, *stages: tuple[int, int, int, int]) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    for expansion, n_out, count, stride in stages:
        for number in range(count):
            blocks.append(_Block(n_in, n_out, 1 if number else stride, expansion))
            n_in = n_out
    return blocks


def _alexnet() -> tuple[list[nn.Module], list[nn.Module]]:
    first = nn.Sequential(nn.Conv2d(1, 64, 11, 4, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2))
    widths = (64, 192, 384, 256, 256)
    deeper = [
        nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU(inplace=True))
        for n_in, n_out in itertools.pairwise(widths)
    ]
    exit_2 = nn.Sequential(
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(6400, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Linear(4096, 2048), nn.ReLU(inplace=True), nn.Linear(2048, 2),
    )  # fmt: skip
    exit_1 = nn.Sequential(nn.Flatten(), nn.Linear(1600, 2))
    return [nn.Sequential(nn.AdaptiveAvgPool2d((48, 48)), first), nn.Sequential(*deeper)], [exit_1, exit_2]


def _mobilenet() -> tuple[list[nn.Module], list[nn.Module]]:
    first = [nn.AdaptiveAvgPool2d((48, 48)), _filter(1, 32, 3, 2), *_blocks(32, (1, 16, 1, 1), (6, 24, 2, 2))]
    deeper = _blocks(24, (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    heads: list[nn.Module] = [
        nn.Sequential(
            _filter(width, 1280, 1),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 2)),
        )
        for width in (24, 320)
    ]
    return [nn.Sequential(*first), nn.Sequential(*deeper)], heads


FAMILIES = {"alexnet": _alexnet, "mobilenet": _mobilenet}


class PlainNetwork(nn.Module):
    """A network with two exits and a temperature for each, as a published checkpoint holds it.

    Args:
        family: ``alexnet`` or ``mobilenet``.
        transform: of the images (N, 1, 8, 8), before all.
        state: weights by their published names, with ``model.`` before them and ``temperature.N`` where calibrated.
    """

    def __init__(self, family: str, transform: nn.Module, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        segments, heads = FAMILIES[family]()
        self.transform = transform
        self.backbone, self.exits = nn.ModuleList(segments), nn.ModuleList(heads)
        weights = {key.removeprefix("model."): value for key, value in state.items() if "temperature" not in key}
        self.load_state_dict(weights, strict=True)
        self.temperatures = [float(state.get(f"temperature.{number}", 1.0)) for number in range(2)]

    def edge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the activations behind segment 1 and the logits (N, 2) of exit 1 for images (N, 1, 8, 8)."""
        activations = self.backbone[0](self.transform(images))
        return activations, self.exits[0](activations) / self.temperatures[0]

    def cloud(self, activations: Tensor) -> Tensor:
        """Return the logits (N, 2) of exit 2 for the activations behind segment 1."""
        logits: Tensor = self.exits[1](self.backbone[1](activations)) / self.temperatures[1]
        return logits

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N, 2) of both exits."""
        activations, logits = self.edge(images)
        return logits, self.cloud(activations)


def open_plain(path: Path, family: str) -> PlainNetwork:
    """Return the network of a checkpoint that the toolkit wrote."""
    content: dict[str, Any] = torch.load(path, weights_only=True)
    network = PlainNetwork(family, make_transform(content["input_transform"]), content["state_dict"])
    return network.eval().requires_grad_(False)


def images_of(features: FloatArray) -> Tensor:
    """Return features (N, 58) padded with zeros to images (N, 1, 8, 8)."""
    return torch.from_numpy(np.pad(features, ((0, 0), (0, 6))).reshape(-1, 1, 8, 8))


def answers(logits: Tensor) -> tuple[NDArray[np.int64], FloatArray]:
    """Return labels (N,) and certainties (N,) for logits (N, 2)."""
    certainties, labels = torch.softmax(logits, dim=1).max(dim=1)
    return labels.numpy(), certainties.numpy()


def at_exit_1(network: PlainNetwork, features: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """Return exit 1's labels (N,) and certainties (N,) for features (N, 58), all rows in one pass."""
    with torch.inference_mode():
        return answers(network.edge(images_of(features))[1])


def at_exit_2(network: PlainNetwork, features: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """Return exit 2's labels (N,) and certainties (N,) for features (N, 58), all rows in one pass."""
    with torch.inference_mode():
        return answers(network.cloud(network.edge(images_of(features))[0]))
