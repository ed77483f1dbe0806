"""Write the files of a training run: a checkpoint per epoch, and the state from which a run is resumed."""

import hashlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from dnn.training import EpochResult, Trainer
from models.checkpoint import write_checkpoint
from models.tensor_files import load_tensors, save_tensors
from utils.errors import CheckpointError, InputFileError
from utils.files import check_readable

# The state holds the weights and AdamW's two moments of each weight. While it is replaced, two states exist.
_STATE_COPIES = 2 * 3


@dataclass
class RunFolder:
    """The folder with the files of a training run.

    Attributes:
        folder: an existing folder.
        class_name: class name of the network, with which every file name begins.
        keep: number of best epochs to keep; None keeps all.
        timestamp: local time at which the run started; part of the name of every checkpoint.
        epochs: results of the epochs that are kept, by name of the checkpoint file.
    """

    folder: Path
    class_name: str
    keep: int | None = None
    timestamp: str = field(default_factory=lambda: time.strftime("%Y%m%d-%H%M%S"))
    epochs: dict[str, EpochResult] = field(default_factory=dict)

    @property
    def state_path(self) -> Path:
        """The file to resume from, which exists only while a run is unfinished."""
        return self.folder / f"{self.class_name}_unfinished.state"

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest held-back loss."""
        return self.folder / self._rank_epochs()[0]

    def _rank_epochs(self) -> list[str]:
        return sorted(self.epochs, key=lambda name: self.epochs[name].held_back_loss)

    def check_space(self, network: nn.Module, epochs: int) -> None:
        """Check that the disk has space for the run's checkpoints.

        Raises:
            InputFileError: the disk has too little space.
        """
        one = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
        kept = epochs if self.keep is None else min(self.keep + 1, epochs)
        needed, free = (kept + _STATE_COPIES) * one, shutil.disk_usage(self.folder).free
        if needed > free:
            raise InputFileError(
                f"{self.folder}: {needed / 1e6:.0f} MB are needed, for {kept} checkpoints of {one / 1e6:.0f} MB and "
                f"the state to resume from, but {free / 1e6:.0f} MB are free. Use --keep 1 or another --output-folder."
            )

    def save(self, trainer: Trainer, result: EpochResult, facts: Mapping[str, Any]) -> Path:
        """Save an epoch and the state after it, delete epochs beyond ``keep``, and return the checkpoint's path.

        Raises:
            InputFileError: a file cannot be written.
        """
        accuracies = "_".join(f"{100 * value:.2f}" for value in result.accuracies)
        path = self.folder / f"{self.class_name}_{self.timestamp}_epoch_{result.epoch}_{accuracies}.pth"
        write_checkpoint(path, trainer.network, {**facts, **asdict(result)})
        self.epochs[path.name] = result
        dropped = [] if self.keep is None else self._rank_epochs()[self.keep :]
        history = {name: astuple(kept) for name, kept in self.epochs.items() if name not in dropped}
        save_tensors(
            self.state_path,
            {
                "timestamp": self.timestamp,
                "history": history,
                "facts": dict(facts),
                "trainer": trainer.state(),
            },
        )
        for name in dropped:
            (self.folder / name).unlink(missing_ok=True)
            del self.epochs[name]
        return path

    def resume(self, trainer: Trainer, facts: Mapping[str, Any]) -> None:
        """Resume the unfinished run in the folder.

        Raises:
            CheckpointError: there is no unfinished run, its state is damaged, or it was started with other options or
                data.
        """
        if not self.state_path.exists():
            raise CheckpointError(f"{self.folder}: holds no unfinished run of {self.class_name}. Leave out --resume.")
        state = load_tensors(self.state_path)
        try:
            if state["facts"] != dict(facts):
                raise ValueError("data differ")
            if any(Path(name).name != name for name in (state["timestamp"], *state["history"])):
                raise ValueError("a name leads out of the folder")
            trainer.restore(state["trainer"])
            self.timestamp = state["timestamp"]
            self.epochs = {name: EpochResult(*result) for name, result in state["history"].items()}
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as problem:
            raise CheckpointError(
                f"{self.state_path}: was started with other options or data. Give the same, or leave out --resume."
            ) from problem

    def state_digest(self) -> bytes:
        """Return the SHA-256 of the file to resume from, or of zero bytes if there is no such file.

        Raises:
            CheckpointError: the file cannot be read.
        """
        if not self.state_path.exists():
            return hashlib.sha256().digest()
        with check_readable(self.state_path, CheckpointError).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()

    def finish(self) -> None:
        """Remove the state file of the completed run."""
        self.state_path.unlink(missing_ok=True)
