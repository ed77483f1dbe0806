"""Networks small enough to train in a test: real exits and segments, few weights."""

import torch
from torch import Tensor, nn

from models.early_exit import EarlyExitNetwork, SingleExitNetwork


def with_two_exits(dropout: float = 0.5, seed: int = 0) -> EarlyExitNetwork:
    """Return an untrained network with two exits, the second behind dropout."""
    torch.manual_seed(seed)
    first = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
    second = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
    return EarlyExitNetwork((first, second), (nn.Linear(16, 2), nn.Sequential(nn.Dropout(dropout), nn.Linear(16, 2))))


class SingleExit(SingleExitNetwork):
    """The same with one exit."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        self.exit = nn.Linear(16, 2)

    def body(self, images: Tensor) -> Tensor:
        hidden: Tensor = self.layers(images)
        return hidden
