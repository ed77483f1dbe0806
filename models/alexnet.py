"""Define AlexNet for 8x8 images of flow features, with two exits and with one.

The published checkpoints determine all shapes.
"""

import itertools

from torch import Tensor, nn

from models.early_exit import EarlyExitNetwork, SingleExitNetwork
from utils.schema import CLASS_COUNT


def _make_segments() -> tuple[nn.Module, nn.Module]:
    first = nn.Sequential(
        nn.AdaptiveAvgPool2d((48, 48)),  # (N, 1, 8, 8) -> (N, 1, 48, 48)
        nn.Sequential(
            nn.Conv2d(1, 64, kernel_size=11, stride=4, padding=2),  # -> (N, 64, 11, 11)
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),  # -> (N, 64, 5, 5)
        ),
    )
    widths = (64, 192, 384, 256, 256)
    second = nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(n_in, n_out, kernel_size=3, padding=1), nn.ReLU(inplace=True))
            for n_in, n_out in itertools.pairwise(widths)
        )
    )  # -> (N, 256, 5, 5)
    return first, second


def _make_deep_exit() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),  # (N, 256, 5, 5) -> (N, 6400)
        nn.Dropout(0.5),
        nn.Linear(6400, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(4096, 2048),
        nn.ReLU(inplace=True),
        nn.Linear(2048, CLASS_COUNT),
    )


class AlexNetWithExits(EarlyExitNetwork):
    """AlexNet with an exit behind its first convolution; 36,874,052 parameters."""

    def __init__(self) -> None:
        shallow_exit = nn.Sequential(nn.Flatten(), nn.Linear(64 * 5 * 5, CLASS_COUNT))
        super().__init__(_make_segments(), (shallow_exit, _make_deep_exit()))


class AlexNet(SingleExitNetwork):
    """The same network with its last exit only."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleList(_make_segments())
        self.exit = _make_deep_exit()

    def body(self, images: Tensor) -> Tensor:
        """Return the activations (N, 256, 5, 5) for transformed images (N, 1, 8, 8)."""
        deeper: Tensor = self.backbone[1](self.backbone[0](images))
        return deeper
