"""List the networks by name. Importing this package does not import torch."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from models.early_exit import EarlyExitNetwork, SingleExitNetwork


MAX_KNOTS: Final = 1000
"""Largest number of knots per feature in a quantile transform. More knots cost time and improve no prediction."""


@dataclass(frozen=True)
class Architecture:
    """A kind of network: its class name, its module in this package (the family), and its number of exits."""

    name: str
    family: str
    exits: int

    def create(self) -> "EarlyExitNetwork | SingleExitNetwork":
        """Return a new network of this architecture with fresh weights."""
        network: EarlyExitNetwork | SingleExitNetwork
        network = getattr(importlib.import_module(f"models.{self.family}"), self.name)()
        return network


ARCHITECTURES: Final[dict[str, Architecture]] = {
    architecture.name: architecture
    for architecture in (
        Architecture("AlexNetWithExits", "alexnet", exits=2),
        Architecture("MobileNetV2WithExits", "mobilenet", exits=2),
        Architecture("AlexNet", "alexnet", exits=1),
        Architecture("MobileNetV2", "mobilenet", exits=1),
    )
}
"""Maps the class name of a network, as in file names and checkpoints, to its architecture."""

FAMILIES: Final[tuple[str, ...]] = tuple(dict.fromkeys(a.family for a in ARCHITECTURES.values()))
"""The choices of ``--model`` in the scripts that train or read a network."""


def find(family: str, exits: int) -> Architecture:
    """Return the architecture of a family with that many exits (1 or 2)."""
    return next(a for a in ARCHITECTURES.values() if (a.family, a.exits) == (family, exits))
