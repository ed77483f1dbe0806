"""What has to be run to fill a results folder, in which order."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from figs.figure_data import display_name
from figs.results_folder import EVALUATIONS, FRONTS, SINGLE_EXIT, TWO_EXITS, UNCALIBRATED, evaluation_name
from figs.steps import Step

NETWORKS: Final = "networks"
"""Sub-folder of the checkpoints."""

TRAINING_MONTH: Final = "2016_01"
CALIBRATION_MONTH: Final = "2016_02"
MIN_ACCEPTANCE: Final = 0.9
COST_MODEL: Final = "full"


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        datasets: month -> dataset CSV, the two months above among them, in order of time.
        output: the results folder.
        device: its name for this machine.
        epochs: of training.
        batch_size: events evaluated at once.
        seed: of training.
    """

    datasets: Mapping[str, Path]
    output: Path
    device: str
    epochs: int
    batch_size: int
    seed: int

    def checkpoint(self, network: str, kind: str) -> Path:
        """Return where a network's checkpoint lies: with two calibrated exits, a single one, or two uncalibrated."""
        name = {TWO_EXITS: f"{network}_calibrated", SINGLE_EXIT: f"{network}_single", UNCALIBRATED: network}[kind]
        return self.output / NETWORKS / f"{name}.pth"

    def front(self, network: str) -> Path:
        """Return where a network's front lies."""
        return self.output / FRONTS / f"{network}_x_f_{MIN_ACCEPTANCE:g}_{CALIBRATION_MONTH}.sav"

    def evaluation(self, network: str, kind: str, month: str) -> Path:
        """Return where an evaluation lies."""
        return self.output / EVALUATIONS / evaluation_name(kind, network, self.device, month)

    def evaluations(self) -> Iterator[tuple[str, str]]:
        """Yield kind and month of what is evaluated: before calibration, the first month after it is enough."""
        for month in self.datasets:
            yield from ((TWO_EXITS, month), (SINGLE_EXIT, month))
        later = [month for month in self.datasets if month > CALIBRATION_MONTH]
        if later:
            yield UNCALIBRATED, min(later)

    def steps(self, network: str) -> list[Step]:
        """Return the steps for one network, those first that others need."""
        return [
            self._training(network, UNCALIBRATED),
            self._training(network, SINGLE_EXIT),
            self._calibration(network),
            *(self._evaluation(network, kind, month) for kind, month in self.evaluations()),
            self._search(network),
        ]

    def _training(self, network: str, kind: str) -> Step:
        single = kind == SINGLE_EXIT
        output = self.checkpoint(network, kind)
        folder = output.with_name(f"{output.stem}_training")
        dataset = self.datasets[TRAINING_MONTH]
        options = (
            "--dataset-folder", dataset.parent, "--glob", dataset.name, "--model", network, "--epochs", self.epochs,
            "--keep", 1, "--seed", self.seed, "--output-folder", folder, *(["--single-exit"] if single else []),
        )  # fmt: skip
        title = f"train {display_name(network)}, {'a single exit' if single else 'two exits'}, on {TRAINING_MONTH}"
        return Step(title, "dnn/train-early-exit-network.py", options, output, folder)

    def _calibration(self, network: str) -> Step:
        output = self.checkpoint(network, TWO_EXITS)
        options = (
            "--trained-model", self.checkpoint(network, UNCALIBRATED), "--dataset", self.datasets[CALIBRATION_MONTH],
            "--calibrated-model-savefile", output,
        )  # fmt: skip
        title = f"calibrate {display_name(network)} on {CALIBRATION_MONTH}"
        return Step(title, "calibration/Calibrate2exits.py", options, output)

    def _evaluation(self, network: str, kind: str, month: str) -> Step:
        output = self.evaluation(network, kind, month)
        options = (
            "--trained-model", self.checkpoint(network, kind), "--dataset", self.datasets[month],
            "--batch-size", self.batch_size, "--savefile", output,
        )  # fmt: skip
        what = {TWO_EXITS: "two exits", SINGLE_EXIT: "a single exit", UNCALIBRATED: "two exits before calibration"}[
            kind
        ]
        title = f"evaluate {display_name(network)}, {what}, on {month}"
        return Step(title, "evaluations/generate-model-evaluation-csv.py", options, output)

    def _search(self, network: str) -> Step:
        output = self.front(network)
        options = (
            "--solver", "exact", "--min-acceptance", MIN_ACCEPTANCE, "--cost-model", COST_MODEL,
            "--eval-file", self.evaluation(network, TWO_EXITS, CALIBRATION_MONTH), "--savefile", output,
        )  # fmt: skip
        title = f"find the front of {display_name(network)} on {CALIBRATION_MONTH}"
        return Step(title, "nsga2/nsga2_2variables.py", options, output)
