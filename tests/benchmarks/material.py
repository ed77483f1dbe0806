"""What the comparisons stand on: months, networks as files and as both versions read them, the budget."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.checkpoint import read_two_exits, write_checkpoint
from models.early_exit import TwoExits
from models.onnx_export import write_edge_model
from tests.benchmarks.ceiling import Ceiling
from tests.benchmarks.plain_network import PlainNetwork, open_plain
from tests.networks import calibrated_network
from tests.shared_data import SHARED
from utils.dataset import find_distinct_vectors, read_labelled

ROOT = Path(__file__).resolve().parents[2]
REAL_MONTHS = SHARED / "data" / "dataset"
SAMPLE_MONTHS = ROOT / "dataset" / "sample"
CLASSES = {"alexnet": "AlexNetWithExits", "mobilenet": "MobileNetV2WithExits"}
TITLES = {"alexnet": "AlexNet", "mobilenet": "MobileNetV2"}

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Budget:
    """How much is measured.

    Attributes:
        rounds: of each comparison; quick ones have several times as many.
        rows: of a month that are used; None: all.
        events: single ones in a round of latencies.
        training_rows: of January that are trained on, about: every so many-th.
        families: of networks.
        edge_python: runs our edge client as a process.
    """

    rounds: int = 3
    rows: int | None = None
    events: int = 1000
    training_rows: int = 1250
    families: tuple[str, ...] = tuple(CLASSES)
    edge_python: str = sys.executable


@dataclass(frozen=True)
class Bench:
    """What a step is given.

    Attributes:
        folder: for files; gone afterwards.
        budget: how much to measure.
        ceiling: of this machine.
        trained: networks that a step trained, by family, for those behind it.
    """

    folder: Path
    budget: Budget
    ceiling: Ceiling
    trained: dict[str, TwoExits] = field(default_factory=dict)

    def month(self, number: int) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return features (N, 58) and labels (N,) of a month of 2016: a published one, else of the sample."""
        dataset, labels = read_labelled(month_path(number))
        return dataset.features[: self.budget.rows], labels[: self.budget.rows]

    def distinct(self, number: int) -> FloatArray:
        """Return the distinct vectors of a month, in the order of their first appearance."""
        features, _ = self.month(number)
        return features[np.sort(find_distinct_vectors(features)[0])]

    def checkpoint(self, family: str) -> Path:
        """Return the file of a calibrated, untrained network."""
        path = self.folder / f"{family}.pth"
        if not path.exists():
            write_checkpoint(path, calibrated_network(CLASSES[family]), {"data": "none"})
        return path

    def ours(self, family: str) -> TwoExits:
        """Return it as the toolkit reads it."""
        return read_two_exits(self.checkpoint(family))[0]

    def plain(self, family: str) -> PlainNetwork:
        """Return it as the plain version reads it."""
        return open_plain(self.checkpoint(family), family)

    def exported(self, family: str, *, int8: bool = False) -> Path:
        """Return the file of its first half for ONNX Runtime."""
        path = self.folder / f"{family}{'_int8' if int8 else ''}.onnx"
        if not path.exists():
            write_edge_model(path, self.ours(family), self.distinct(1)[:500], int8=int8)
        return path


def month_path(number: int) -> Path:
    """Return the CSV of a month of 2016: the published one where it is, else the sample's."""
    name = f"2016_{number:02}.csv"
    return next((path for path in (REAL_MONTHS / name,) if path.exists()), SAMPLE_MONTHS / name)
