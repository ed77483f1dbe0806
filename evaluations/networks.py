"""The networks of an evaluation: one for each training seed, and the months that they were trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

import models
from evaluations.defaults import TRAIN_MONTH
from models.checkpoint import compute_fingerprint, read_checkpoint, read_two_exits
from models.early_exit import TwoExits
from utils.dataset import strip_ending
from utils.errors import CheckpointError, DatasetError


@dataclass(frozen=True)
class Origin:
    """The origin of a network as its file states it; what the file does not state is empty.

    Attributes:
        path: its file.
        architecture: name of its class.
        seed: of its training.
        trained, calibrated: names of the months that it was trained and calibrated on.
    """

    path: Path
    architecture: str
    seed: str
    trained: tuple[str, ...]
    calibrated: tuple[str, ...]


def read_origins(paths: Sequence[Path], family: str | None = None) -> list[Origin]:
    """Read the origins of networks with two exits, and check that they can be evaluated together.

    Args:
        paths: their files.
        family: of all networks; None: that of the first network.

    Raises:
        CheckpointError: a file is not a calibrated network with two exits, has another architecture than the first, or
            holds the same network as another.
    """
    origins: list[Origin] = []
    known: dict[str, Path] = {}
    for path in paths:
        network, checkpoint = read_two_exits(path, family or _get_family(origins))
        if not checkpoint.calibrated:
            raise CheckpointError(f"{path}: is not calibrated; calibrate it with calibration/Calibrate2exits.py")
        twin = known.setdefault(compute_fingerprint(network), path)
        if twin is not path:
            raise CheckpointError(f"{path}: holds the same network as {twin}; name each network once")
        facts = checkpoint.training
        calibration = facts.get("calibration")
        calibrated = _read_months(calibration) if isinstance(calibration, Mapping) else ()
        seed = str(facts.get("seed", ""))
        origins.append(Origin(path, checkpoint.architecture.name, seed, _read_months(facts), calibrated))
    return origins


def find_training_months(origins: Sequence[Origin]) -> tuple[str, ...]:
    """Return the training months that the networks' files state; if no file states any, the default month.

    Raises:
        DatasetError: they were not trained on the same months.
    """
    found = dict.fromkeys(origin.trained for origin in origins if origin.trained)
    if len(found) > 1:
        first, second = (" ".join(months) for months in list(found)[:2])
        raise DatasetError(
            f"the networks were trained on different months, {first} and {second}; evaluate each kind in its own run"
        )
    return next(iter(found), (TRAIN_MONTH,))


def read_network(origin: Origin) -> TwoExits:
    """Read a network again, because keeping many networks in memory would fill it."""
    return read_two_exits(origin.path)[0]


def read_single_exit(path: Path, origins: Sequence[Origin]) -> nn.Module:
    """Read a single-exit network of the same family.

    Raises:
        CheckpointError: the file holds something else.
    """
    checkpoint = read_checkpoint(path, _get_family(origins))
    if isinstance(checkpoint.network, TwoExits):
        raise CheckpointError(f"{path}: has two exits; --single-exit takes networks with one, or leave it out")
    return checkpoint.network


def _get_family(origins: Sequence[Origin]) -> str | None:
    return models.ARCHITECTURES[origins[0].architecture].family if origins else None


def _read_months(facts: Mapping[str, Any]) -> tuple[str, ...]:
    data = facts.get("data")
    return tuple(map(strip_ending, data.split())) if isinstance(data, str) else ()
