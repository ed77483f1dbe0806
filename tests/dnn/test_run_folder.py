import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import models
from dnn.run_folder import RunFolder
from dnn.training import EpochResult, Trainer, TrainingSettings
from models.checkpoint import read_checkpoint
from models.tensor_files import load_tensors, save_tensors
from tests.models import small
from utils.errors import CheckpointError, InputFileError

FEATURES = np.random.default_rng(0).random((40, 58), dtype=np.float32)
LABELS = (FEATURES[:, 0] > 0.5).astype(np.int64)
SETTINGS = TrainingSettings(epochs=6, batch_size=10, learning_rate=1e-2)
FACTS = {"data": "2016_01.csv", "seed": 1}
NAME = re.compile(r"EarlyExitNetwork_\d{8}-\d{6}_epoch_(\d+)_(\d+\.\d\d)_(\d+\.\d\d)\.pth")

LOSSES = [0.5, 0.2, 0.9, 0.1, 0.7, 0.3]
"""Held-back losses of six epochs: by them, epochs 4, 2, 6, 1, 5, 3 are the best to the worst."""


def new_trainer(settings: TrainingSettings = SETTINGS) -> Trainer:
    return Trainer(small.with_two_exits(), settings, len(FEATURES))


def train_and_save(folder: RunFolder, trainer: Trainer, until: int) -> list[Path]:
    """Train up to an epoch, and save each with its place in LOSSES as the held-back loss."""
    paths = []
    while trainer.epoch < until:
        loss = trainer.train_one_epoch(FEATURES, LABELS)
        result = EpochResult(trainer.epoch, loss, LOSSES[trainer.epoch - 1], (0.9123, 1.0))
        paths.append(folder.save(trainer, result, FACTS))
    return paths


def epochs_in(folder: Path) -> list[int]:
    """Return the epochs whose checkpoints lie in the folder."""
    return sorted(int(match[1]) for path in folder.iterdir() if (match := NAME.fullmatch(path.name)))


class Interrupted(NamedTuple):
    folder: Path
    before: RunFolder


@pytest.fixture
def interrupted(tmp_path: Path) -> Interrupted:
    """A run of six epochs that was left after three."""
    run = RunFolder(tmp_path, "EarlyExitNetwork", keep=2, timestamp="20260101-120000")
    train_and_save(run, new_trainer(), until=3)
    return Interrupted(tmp_path, run)


# Names, best, keep


def test_every_epoch_has_a_checkpoint_named_by_class_time_epoch_and_accuracies(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "EarlyExitNetwork")
    paths = train_and_save(run, new_trainer(), until=3)
    found = [NAME.fullmatch(path.name) for path in paths]
    assert [match and match.groups() for match in found] == [(str(epoch), "91.23", "100.00") for epoch in (1, 2, 3)]
    assert {*tmp_path.iterdir()} == {*paths, run.state_path}


def test_a_single_exits_checkpoint_has_one_accuracy_in_its_name(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "SingleExit", timestamp="20260101-120000")
    trainer = Trainer(small.SingleExit(), SETTINGS, len(FEATURES))
    path = run.save(trainer, EpochResult(1, 0.5, 0.4, (0.875,)), FACTS)
    assert path.name == "SingleExit_20260101-120000_epoch_1_87.50.pth"


def test_a_checkpoint_holds_the_weights_of_its_epoch_and_the_facts_of_its_training(tmp_path: Path) -> None:
    network = models.ARCHITECTURES["MobileNetV2"].create()
    trainer = Trainer(network, SETTINGS, len(FEATURES))
    path = RunFolder(tmp_path, "MobileNetV2").save(trainer, EpochResult(4, 0.5, 0.4, (0.875,)), FACTS)
    found = read_checkpoint(path)
    assert found.training == {**FACTS, "epoch": 4, "loss": 0.5, "held_back_loss": 0.4, "accuracies": (0.875,)}
    for key, value in found.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[key])


@pytest.mark.parametrize(
    ("keep", "kept"), [(None, [1, 2, 3, 4, 5, 6]), (1, [4]), (2, [2, 4]), (3, [2, 4, 6]), (9, [1, 2, 3, 4, 5, 6])]
)
def test_the_best_epochs_by_held_back_loss_are_kept(tmp_path: Path, keep: int | None, kept: list[int]) -> None:
    run = RunFolder(tmp_path, "EarlyExitNetwork", keep)
    train_and_save(run, new_trainer(), until=6)
    assert epochs_in(tmp_path) == kept
    assert sorted(result.epoch for result in run.epochs.values()) == kept
    assert run.epochs[run.best.name].epoch == 4
    assert run.best.is_file()


def test_a_file_of_another_run_is_never_deleted(tmp_path: Path) -> None:
    other = tmp_path / "EarlyExitNetwork_20250101-000000_epoch_1_10.00_10.00.pth"
    other.write_text("precious")
    train_and_save(RunFolder(tmp_path, "EarlyExitNetwork", keep=1), new_trainer(), until=3)
    assert other.read_text() == "precious"


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputFileError, match="cannot be written to"):
        train_and_save(RunFolder(tmp_path / "file", "EarlyExitNetwork"), new_trainer(), until=1)


# Space


@pytest.mark.parametrize(("keep", "checkpoints"), [(None, 10), (1, 2), (3, 4), (50, 10)])
def test_a_run_that_does_not_fit_on_the_disk_is_refused_with_needed_and_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int | None, checkpoints: int
) -> None:
    with torch.device("meta"):
        network = models.ARCHITECTURES["AlexNetWithExits"].create()
    one = 36_874_052 * 4
    needed = (checkpoints + 6) * one  # besides: two states of weights and two moments
    run = RunFolder(tmp_path, "AlexNetWithExits", keep)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=needed))
    run.check_space(network, epochs=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=needed - 1))
    message = f"{needed / 1e6:.0f} MB are needed, for {checkpoints} checkpoints of 147 MB .* are free. Use --keep 1"
    with pytest.raises(InputFileError, match=message):
        run.check_space(network, epochs=10)


# Interrupted and resumed


def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path: Path, interrupted: Interrupted) -> None:
    whole = RunFolder(tmp_path / "whole", "EarlyExitNetwork", keep=2, timestamp="20260101-120000")
    trainer = new_trainer()
    train_and_save(whole, trainer, until=6)

    resumed, again = RunFolder(interrupted.folder, "EarlyExitNetwork", keep=2), new_trainer()
    resumed.resume(again, FACTS)
    assert again.epoch == 3
    assert resumed.epochs == interrupted.before.epochs
    train_and_save(resumed, again, until=6)

    assert resumed.epochs == whole.epochs
    assert epochs_in(interrupted.folder) == [2, 4]
    for name in whole.epochs:
        found, expected = (load_tensors(folder / name)["state_dict"] for folder in (resumed.folder, whole.folder))
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_after_an_interrupt_while_saving_the_last_complete_epoch_can_be_resumed(
    interrupted: Interrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, trainer = RunFolder(interrupted.folder, "EarlyExitNetwork", keep=2), new_trainer()
    run.resume(trainer, FACTS)

    def stop(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(torch, "save", stop)
        train_and_save(run, trainer, until=4)
    assert epochs_in(interrupted.folder) == [1, 2]
    again = new_trainer()
    RunFolder(interrupted.folder, "EarlyExitNetwork").resume(again, FACTS)
    assert again.epoch == 3


def test_the_state_is_removed_after_the_run(interrupted: Interrupted) -> None:
    assert interrupted.before.state_path.is_file()
    interrupted.before.finish()
    assert not interrupted.before.state_path.exists()
    interrupted.before.finish()


def test_without_an_unfinished_run_there_is_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no unfinished run of EarlyExitNetwork\. Leave out --resume"):
        RunFolder(tmp_path, "EarlyExitNetwork").resume(new_trainer(), FACTS)


def refusal(run: RunFolder, trainer: Trainer, facts: dict[str, Any]) -> str:
    with pytest.raises(CheckpointError) as caught:
        run.resume(trainer, facts)
    assert str(caught.value).startswith(f"{run.state_path}: ")
    return str(caught.value).removeprefix(f"{run.state_path}: ")


OTHER_OPTIONS = "was started with other options or data. Give the same, or leave out --resume."


def test_a_run_cannot_be_resumed_with_other_options_data_or_network(interrupted: Interrupted) -> None:
    run = RunFolder(interrupted.folder, "EarlyExitNetwork")
    longer = new_trainer(TrainingSettings(epochs=7, batch_size=10, learning_rate=1e-2))
    other_network = Trainer(small.SingleExit(), SETTINGS, len(FEATURES))
    assert refusal(run, longer, FACTS) == OTHER_OPTIONS
    assert refusal(run, new_trainer(), {**FACTS, "data": "2016_02.csv"}) == OTHER_OPTIONS
    assert refusal(run, other_network, FACTS) == OTHER_OPTIONS


@pytest.mark.parametrize(
    "change",
    [
        {"history": [1, 2]},
        {"history": {"a.pth": (1, 2)}},
        {"history": {"../../a.pth": (1, 0.5, 0.5, (0.5, 0.5))}},
        {"history": {5: (1, 0.5, 0.5, (0.5, 0.5))}},
        {"timestamp": "../../elsewhere/20260101"},
        {"timestamp": 5},
        {"trainer": {}},
        {"trainer": None},
        {"facts": None},
    ],
)
def test_a_damaged_or_hostile_state_is_refused(interrupted: Interrupted, change: dict[str, object]) -> None:
    path = interrupted.before.state_path
    save_tensors(path, {**load_tensors(path), **change})
    assert refusal(RunFolder(interrupted.folder, "EarlyExitNetwork"), new_trainer(), FACTS) == OTHER_OPTIONS


def test_a_truncated_state_is_refused(interrupted: Interrupted) -> None:
    path = interrupted.before.state_path
    path.write_bytes(path.read_bytes()[:-100])
    assert "is truncated" in refusal(RunFolder(interrupted.folder, "EarlyExitNetwork"), new_trainer(), FACTS)
