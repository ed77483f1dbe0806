"""Define MobileNetV2 for 8x8 images of flow features, with two exits and with one.

The published checkpoints determine all shapes. The published networks have no normalisation layers and no biases in
convolutions, and apply ReLU6 after every convolution, including the projections.
"""

from collections.abc import Iterable
from typing import Final

from torch import Tensor, nn

from models.early_exit import EarlyExitNetwork, SingleExitNetwork
from utils.schema import CLASS_COUNT

# Each row is a stage: (expansion, channels out, blocks, stride of the first block).
_FIRST_STAGES: Final = ((1, 16, 1, 1), (6, 24, 2, 2))
_LAST_STAGES: Final = ((6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_STEM_CHANNELS: Final = 32


def _make_convolution(n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """A block that expands the channels, filters each, and projects them; it adds its input if the shapes are equal."""

    def __init__(self, n_in: int, n_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = n_in * expansion
        expand = [_make_convolution(n_in, hidden, 1)] if expansion != 1 else []
        self.layers = nn.Sequential(
            *expand, _make_convolution(hidden, hidden, 3, stride, groups=hidden), _make_convolution(hidden, n_out, 1)
        )
        self.residual = stride == 1 and n_in == n_out

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, n_out, H / stride, W / stride), sizes rounded up, for (N, n_in, H, W)."""
        projected: Tensor = self.layers(images)
        return images + projected if self.residual else projected


def _make_stages(n_in: int, rows: Iterable[tuple[int, int, int, int]]) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    for expansion, n_out, repeats, stride in rows:
        for index in range(repeats):
            blocks.append(InvertedResidual(n_in, n_out, stride if index == 0 else 1, expansion))
            n_in = n_out
    return blocks


def _make_exit(n_in: int) -> nn.Module:
    return nn.Sequential(
        _make_convolution(n_in, 1280, 1),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),  # -> (N, 1280)
        nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, CLASS_COUNT)),
    )


class MobileNetV2WithExits(EarlyExitNetwork):
    """MobileNetV2 with an exit behind its second stage; 2,225,028 parameters."""

    def __init__(self) -> None:
        first = nn.Sequential(
            nn.AdaptiveAvgPool2d((48, 48)),  # (N, 1, 8, 8) -> (N, 1, 48, 48)
            _make_convolution(1, _STEM_CHANNELS, 3, stride=2),  # -> (N, 32, 24, 24)
            *_make_stages(_STEM_CHANNELS, _FIRST_STAGES),  # -> (N, 24, 12, 12)
        )
        second = nn.Sequential(*_make_stages(24, _LAST_STAGES))  # -> (N, 320, 2, 2)
        super().__init__((first, second), (_make_exit(24), _make_exit(320)))


class MobileNetV2(SingleExitNetwork):
    """The same network with its last exit only."""

    def __init__(self) -> None:
        super().__init__()
        self.upsample = nn.AdaptiveAvgPool2d((48, 48))
        self.stem_conv = _make_convolution(1, _STEM_CHANNELS, 3, stride=2)
        self.backbone = nn.Sequential(*_make_stages(_STEM_CHANNELS, (*_FIRST_STAGES, *_LAST_STAGES)))
        self.exit = _make_exit(320)

    def body(self, images: Tensor) -> Tensor:
        """Return the activations (N, 320, 2, 2) for transformed images (N, 1, 8, 8)."""
        deeper: Tensor = self.backbone(self.stem_conv(self.upsample(images)))
        return deeper
