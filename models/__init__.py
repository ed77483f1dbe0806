"""The networks: what there is, by name. Importing this package does not import torch."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from models.early_exit import EarlyExitNetwork, SingleExitNetwork


MAX_KNOTS: Final = 1000
"""Of a feature's quantile transform: more would make every event slower and no answer better."""


@dataclass(frozen=True)
class Architecture:
    """One network: its class, the module it lives in, and how many exits it has."""

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
"""Class name, as it stands in file names and checkpoints, to architecture."""

FAMILIES: Final[tuple[str, ...]] = tuple(dict.fromkeys(a.family for a in ARCHITECTURES.values()))
"""The values of every script's ``--model``."""


def find(family: str, exits: int) -> Architecture:
    """Return the architecture of a family with that many exits (1 or 2)."""
    return next(a for a in ARCHITECTURES.values() if (a.family, a.exits) == (family, exits))
