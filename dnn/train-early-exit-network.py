#!/usr/bin/env python3
r"""Train both exits of a network jointly, or train a single-exit baseline.

Run:
    python dnn/train-early-exit-network.py --dataset-folder dataset/sample --glob 2016_01 --model mobilenet

Every epoch is saved as {ClassName}_{timestamp}_epoch_{i}_{acc1}_{acc2}.pth, with the accuracies of the exits on
held-back rows in percent. The last line of the output names the best epoch. --resume continues an interrupted run.
Features larger than 128 MiB are kept in an unnamed file in TMPDIR.

Several processes can train together, each computing a share of every batch. Two on one machine:
    torchrun --nproc-per-node 2 --master-addr 127.0.0.1 --master-port 29500 dnn/train-early-exit-network.py \
        --dataset-folder dataset/sample --model mobilenet
On two machines, run the same on each; --node-rank is 0 on the machine with the given address, and 1 on the other:
    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 1 --master-addr 10.0.0.1 --master-port 29500 \
        dnn/train-early-exit-network.py --dataset-folder dataset/sample --model mobilenet
Every machine needs the same months. For --resume, every machine also needs the files in --output-folder, which only the
first process writes. The processes trust anyone who can reach their ports, so use a trusted network; the environment
variable GLOO_SOCKET_IFNAME selects the interface. Always name a port: without one, torchrun unpickles data from the
network.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

import models
from dnn.torchrun import silence_others
from utils import cli
from utils.errors import DatasetError
from utils.files import make_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from dnn.distributed import Ranks
    from dnn.run_folder import RunFolder
    from dnn.training import EpochResult, Trainer, TrainingSettings
    from utils.dataset import Dataset

LEARNING_RATES = {"alexnet": 3e-4, "mobilenet": 2e-3}
BATCH_SIZE = 1000
# The input transform has up to 1,000 knots per feature. A rank estimated from 200,000 rows is wrong by about 0.001.
ROWS_TO_FIT = 200_000


def make_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--dataset-folder", required=True, type=Path, metavar="D", help="folder of dataset CSVs")
    add("--glob", default="2016_01", help="CSVs to read from it, a name or pattern (default: %(default)s)")
    steps = f"rows per step (default: {BATCH_SIZE}, or fewer so that an epoch has at least 36 steps)"
    add("--batch_size", "--batch-size", type=cli.whole_number(1), metavar="N", help=steps)
    add("--epochs", type=cli.whole_number(1), default=5, metavar="N", help="(default: %(default)s)")
    families = "{" + ",".join(models.FAMILIES) + "}"
    named = cli.one_of(models.FAMILIES)
    add("--model", type=named, default="alexnet", metavar=families, help="network (default: %(default)s)")
    add("--single-exit", action="store_true", help="train the single-exit baseline instead")
    add("--output-folder", type=Path, default=Path("saves"), metavar="D", help="(default: %(default)s)")
    share = cli.real_number(0, 1, open_ends=True)
    held_back = "share of rows held back to evaluate epochs (default: %(default)s)"
    add("--validation-split", type=share, default=0.1, metavar="SHARE", help=held_back)
    rates = ", ".join(f"{rate:g} for {name}" for name, rate in LEARNING_RATES.items())
    add("--learning-rate", type=share, metavar="R", help=f"peak of the one-cycle schedule (default: {rates})")
    add("--keep", type=cli.whole_number(1), metavar="K", help="keep the K best epochs (default: all)")
    resumed = "continue the interrupted run in --output-folder; give the same options as before"
    add("--resume", action="store_true", help=resumed)
    cli.add_seed(parser)
    cli.add_device(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Train with the given arguments."""
    from dnn.distributed import join_processes

    with join_processes() as ranks:
        _train(args, ranks)


def _train(args: argparse.Namespace, ranks: "Ranks") -> None:
    from dnn.distributed import choose_device_name
    from dnn.training import Trainer
    from models.prediction import describe_device, select_device

    with ranks.fail_together():
        device = select_device(choose_device_name(args.device))
        if ranks.is_first:
            print(f"device: {describe_device(device)}")
        rows = _read_rows(args)
        settings = _make_settings(args, len(rows.training))
        network = _make_network(args, rows, settings.seed)
    trainer = Trainer(network.to(device), settings, len(rows.training), ranks)
    counts = {"rows": len(rows.training), "held_back": len(rows.held_back)}
    facts = {"data": rows.dataset.source, **counts, "seed": settings.seed}
    folder = _open_folder(args, trainer, ranks, rows, facts)
    if ranks.is_first:
        _print_plan(trainer, ranks, rows, folder.class_name)
    try:
        while trainer.epoch < settings.epochs:
            _train_one_epoch(trainer, ranks, rows, folder, facts)
    except KeyboardInterrupt:
        if folder.epochs and folder.state_path.exists():
            print("The last complete epoch is saved. Continue with the same command and --resume.", file=sys.stderr)
        raise
    with ranks.fail_together():
        if ranks.is_first:
            folder.finish()
            print(f"best by held-back loss: {_describe_held_back(folder.epochs[folder.best.name])} -> {folder.best}")


class Rows(NamedTuple):
    """Labelled rows, with the numbers of the rows to train on and of the rows held back."""

    dataset: "Dataset"
    labels: "NDArray[np.int64]"
    training: "NDArray[np.intp]"
    held_back: "NDArray[np.intp]"


def _read_rows(args: argparse.Namespace) -> Rows:
    from dnn.training import split_rows
    from utils.dataset import find_datasets, read_all_labelled

    with cli.byte_bar("reading") as show:
        dataset, labels = read_all_labelled(find_datasets(args.dataset_folder, args.glob), show)
    try:
        return Rows(dataset, labels, *split_rows(labels, args.validation_split, args.seed))
    except ValueError as problem:
        raise DatasetError(f"{dataset.source}: {problem}. Change --validation-split or add rows.") from problem


def _make_settings(args: argparse.Namespace, rows: int) -> "TrainingSettings":
    from dnn.training import TrainingSettings, choose_batch_size

    return TrainingSettings(
        epochs=args.epochs,
        batch_size=args.batch_size or choose_batch_size(BATCH_SIZE, rows),
        learning_rate=args.learning_rate or LEARNING_RATES[args.model],
        seed=args.seed,
    )


def _make_network(args: argparse.Namespace, rows: Rows, seed: int) -> "nn.Module":
    import torch

    from models.early_exit import initialise
    from models.preprocessing import fit_quantile_transform

    torch.manual_seed(seed)
    network = models.find(args.model, exits=1 if args.single_exit else 2).create()
    initialise(network)
    network.transform = fit_quantile_transform(_select_rows_to_fit(rows.dataset, rows.training, seed))
    return network


def _open_folder(
    args: argparse.Namespace, trainer: "Trainer", ranks: "Ranks", rows: Rows, facts: dict[str, object]
) -> "RunFolder":
    """Return the run's folder; resume the run if requested, and check that all processes have the same data."""
    from dnn.distributed import compute_digest
    from dnn.run_folder import RunFolder

    with ranks.fail_together():
        place = make_folder(args.output_folder) if ranks.is_first else args.output_folder
        folder = RunFolder(place, type(trainer.network).__name__, args.keep)
        if ranks.is_first:
            folder.check_space(trainer.network, trainer.settings.epochs)
        if args.resume:
            folder.resume(trainer, facts)
        state = folder.state_digest() if args.resume else b""
    if ranks.world > 1:
        said = repr((facts, trainer.settings)).encode()
        ranks.check_same(compute_digest(said, rows.dataset.features, rows.labels, state), "data and state")
    return folder


def _print_plan(trainer: "Trainer", ranks: "Ranks", rows: Rows, class_name: str) -> None:
    from utils.dataset import describe_spooling

    settings, device = trainer.settings, next(trainer.network.parameters()).device
    if rows.dataset.spooled:
        print(describe_spooling(rows.dataset))
    print(
        f"{class_name} on {device}: {len(rows.training)} rows of {rows.dataset.source} to train on, "
        f"{len(rows.held_back)} held back; {settings.epochs} epochs of {settings.batch_size}-row steps, learning rate "
        f"{settings.learning_rate:g}" + (f"; {ranks.world} processes" if ranks.world > 1 else ""),
        flush=True,
    )


def _train_one_epoch(
    trainer: "Trainer", ranks: "Ranks", rows: Rows, folder: "RunFolder", facts: dict[str, object]
) -> None:
    from tqdm import tqdm

    from dnn.training import EpochResult, evaluate

    features, labels = rows.dataset.features, rows.labels
    hidden = None if ranks.is_first else True
    with tqdm(total=len(rows.training), desc=f"epoch {trainer.epoch + 1}", unit="row", disable=hidden) as bar:
        loss = trainer.train_one_epoch(features, labels, bar.update, rows.training)
    with ranks.fail_together():
        if ranks.is_first:
            found = evaluate(trainer.network, features, labels, trainer.settings.label_smoothing, rows.held_back)
            result = EpochResult(trainer.epoch, loss, *found)
            path = folder.save(trainer, result, facts)
            print(
                f"epoch {result.epoch}: training loss {loss:.3f}, {_describe_held_back(result)} -> {path}", flush=True
            )


def _select_rows_to_fit(dataset: "Dataset", training: "NDArray[np.intp]", seed: int) -> "NDArray[np.float32]":
    """Return the training rows (N, 58) float32, or ``ROWS_TO_FIT`` of them if the dataset is in a temporary file."""
    import numpy as np

    if dataset.spooled and len(training) > ROWS_TO_FIT:
        training = np.sort(np.random.default_rng(seed).choice(training, ROWS_TO_FIT, replace=False, shuffle=False))
    return dataset.features[training]


def _describe_held_back(result: "EpochResult") -> str:
    exits = ", ".join(f"exit {number} {100 * value:.2f} %" for number, value in enumerate(result.accuracies, 1))
    return f"held back: loss {result.held_back_loss:.3f}, accuracy {exits}"


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    with silence_others():
        return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
