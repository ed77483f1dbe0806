"""Plan the calls of scripts that fill a results folder, in order."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from figs.figure_data import get_display_name
from figs.results_folder import (
    CALIBRATION_MONTH,
    EVALUATIONS,
    FRONTS,
    SINGLE_EXIT,
    TRAINING_MONTH,
    TWO_EXITS,
    UNCALIBRATED,
    name_evaluation,
)
from utils.script_runner import run_script

NETWORKS: Final = "networks"
"""Sub-folder of the checkpoints."""

MIN_ACCEPTANCE: Final = 0.9
COST_MODEL: Final = "full"


@dataclass(frozen=True)
class Step:
    """One call of a script.

    Attributes:
        title: says what the call does.
        script: its path from the root.
        options: of its command line.
        output: the file that it makes; if it exists, the step is done.
        folder: the folder to which a training writes its checkpoint under another name; the checkpoint is then moved to
            ``output``. None for all other scripts.
    """

    title: str
    script: str
    options: tuple[object, ...]
    output: Path
    folder: Path | None = None

    def is_done(self) -> bool:
        """Return whether the output exists."""
        return self.output.exists()

    def run(self) -> None:
        """Run the script and let it print; an interrupted training is resumed.

        Raises:
            ToolkitError: the script failed.
        """
        unfinished = self.folder is not None and any(self.folder.glob("*_unfinished.state"))
        run_script(self.script, [*self.options, *(["--resume"] if unfinished else [])])
        if self.folder is not None:
            made = max(self.folder.glob("*.pth"), key=lambda path: path.stat().st_mtime_ns)
            made.replace(self.output)


@dataclass(frozen=True)
class Plan:
    """The settings of a results folder, and the steps that fill it.

    Attributes:
        datasets: month -> dataset CSV, including the training and calibration months, in order of time.
        output: the results folder.
        device: name of this machine.
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

    def get_checkpoint(self, network: str, kind: str) -> Path:
        """Return the path of a network's checkpoint; ``kind`` is a kind of evaluation, see ``results_folder``."""
        name = {TWO_EXITS: f"{network}_calibrated", SINGLE_EXIT: f"{network}_single", UNCALIBRATED: network}[kind]
        return self.output / NETWORKS / f"{name}.pth"

    def get_front(self, network: str) -> Path:
        """Return the path of a network's front."""
        return self.output / FRONTS / f"{network}_x_f_{MIN_ACCEPTANCE:g}_{CALIBRATION_MONTH}.sav"

    def get_evaluation(self, network: str, kind: str, month: str) -> Path:
        """Return the path of an evaluation."""
        return self.output / EVALUATIONS / name_evaluation(kind, network, self.device, month)

    def list_evaluations(self) -> Iterator[tuple[str, str]]:
        """Yield the kind and the month of each evaluation.

        Uncalibrated networks are evaluated on one month only, the first after the calibration month.
        """
        for month in self.datasets:
            yield from ((TWO_EXITS, month), (SINGLE_EXIT, month))
        later = [month for month in self.datasets if month > CALIBRATION_MONTH]
        if later:
            yield UNCALIBRATED, min(later)

    def list_steps(self, network: str) -> list[Step]:
        """Return the steps for one network, in order."""
        return [
            self._plan_training(network, UNCALIBRATED),
            self._plan_training(network, SINGLE_EXIT),
            self._plan_calibration(network),
            *(self._plan_evaluation(network, kind, month) for kind, month in self.list_evaluations()),
            self._plan_search(network),
        ]

    def _plan_training(self, network: str, kind: str) -> Step:
        single = kind == SINGLE_EXIT
        output = self.get_checkpoint(network, kind)
        folder = output.with_name(f"{output.stem}_training")
        dataset = self.datasets[TRAINING_MONTH]
        options = (
            "--dataset-folder", dataset.parent, "--glob", dataset.name, "--model", network, "--epochs", self.epochs,
            "--keep", 1, "--seed", self.seed, "--output-folder", folder, *(["--single-exit"] if single else []),
        )  # fmt: skip
        title = f"train {get_display_name(network)}, {'a single exit' if single else 'two exits'}, on {TRAINING_MONTH}"
        return Step(title, "dnn/train-early-exit-network.py", options, output, folder)

    def _plan_calibration(self, network: str) -> Step:
        output = self.get_checkpoint(network, TWO_EXITS)
        options = (
            "--trained-model", self.get_checkpoint(network, UNCALIBRATED),
            "--dataset", self.datasets[CALIBRATION_MONTH], "--calibrated-model-savefile", output,
        )  # fmt: skip
        title = f"calibrate {get_display_name(network)} on {CALIBRATION_MONTH}"
        return Step(title, "calibration/Calibrate2exits.py", options, output)

    def _plan_evaluation(self, network: str, kind: str, month: str) -> Step:
        output = self.get_evaluation(network, kind, month)
        options = (
            "--trained-model", self.get_checkpoint(network, kind), "--dataset", self.datasets[month],
            "--batch-size", self.batch_size, "--savefile", output,
        )  # fmt: skip
        what = {TWO_EXITS: "two exits", SINGLE_EXIT: "a single exit", UNCALIBRATED: "two exits before calibration"}[
            kind
        ]
        title = f"evaluate {get_display_name(network)}, {what}, on {month}"
        return Step(title, "evaluations/generate-model-evaluation-csv.py", options, output)

    def _plan_search(self, network: str) -> Step:
        output = self.get_front(network)
        options = (
            "--solver", "exact", "--min-acceptance", MIN_ACCEPTANCE, "--cost-model", COST_MODEL,
            "--eval-file", self.get_evaluation(network, TWO_EXITS, CALIBRATION_MONTH), "--savefile", output,
        )  # fmt: skip
        title = f"find the front of {get_display_name(network)} on {CALIBRATION_MONTH}"
        return Step(title, "nsga2/nsga2_2variables.py", options, output)
