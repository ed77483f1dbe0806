#!/usr/bin/env python3
r"""Train a network with two exits, both jointly, or a single-exit baseline.

Run:
    python dnn/train-early-exit-network.py --dataset-folder dataset/sample --glob 2016_01 --model mobilenet

Every epoch is saved as {ClassName}_{timestamp}_epoch_{i}_{acc1}_{acc2}.pth, with the accuracies of the exits on
held-back rows in percent; the last line names the best. An interrupted run goes on with --resume. Months too large
for memory are kept in an unnamed file in TMPDIR.

Several processes train as one, each computing a share of every batch. Two on one machine:
    torchrun --nproc-per-node 2 --master-addr 127.0.0.1 --master-port 29500 dnn/train-early-exit-network.py \
        --dataset-folder dataset/sample --model mobilenet
On two machines, the same on either, but for --node-rank, which is 0 on the one whose address is given, and 1:
    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 1 --master-addr 10.0.0.1 --master-port 29500 \
        dnn/train-early-exit-network.py --dataset-folder dataset/sample --model mobilenet
Every machine needs the same months, and to --resume the files of the --output-folder, which the first process
writes. The processes trust whoever reaches their ports: use a trusted network (GLOO_SOCKET_IFNAME names the
interface). Name a port always: without one, torchrun meets in a way that unpickles what comes from the network.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

import models
from dnn.torchrun import one_voice
from utils import cli
from utils.errors import DatasetError
from utils.files import make_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dnn.distributed import Ranks
    from dnn.training import EpochResult
    from utils.dataset import Dataset

LEARNING_RATES = {"alexnet": 3e-4, "mobilenet": 2e-3}
BATCH_SIZE = 1000
# The input transform has 1,000 knots a feature; a rank among so many rows is off by 0.001 or so.
ROWS_TO_FIT = 200_000


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--dataset-folder", required=True, type=Path, metavar="D", help="folder of dataset CSVs")
    add("--glob", default="2016_01", help="which CSVs of it, a name or pattern (default: %(default)s)")
    add(
        "--batch_size",
        "--batch-size",
        type=cli.whole_number(1),
        metavar="N",
        help=f"rows a step (default: {BATCH_SIZE}, lowered on small data so that an epoch has 36 steps)",
    )
    add("--epochs", type=cli.whole_number(1), default=5, metavar="N", help="(default: %(default)s)")
    add(
        "--model",
        type=cli.one_of(models.FAMILIES),
        default="alexnet",
        metavar="{" + ",".join(models.FAMILIES) + "}",
        help="network (default: %(default)s)",
    )
    add("--single-exit", action="store_true", help="train the single-exit baseline instead")
    add("--output-folder", type=Path, default=Path("saves"), metavar="D", help="(default: %(default)s)")
    add(
        "--validation-split",
        type=cli.real_number(0, 1, open_ends=True),
        default=0.1,
        metavar="SHARE",
        help="share of the rows held back to judge epochs by (default: %(default)s)",
    )
    rates = ", ".join(f"{rate:g} for {name}" for name, rate in LEARNING_RATES.items())
    add(
        "--learning-rate",
        type=cli.real_number(0, 1, open_ends=True),
        metavar="R",
        help=f"peak of the one-cycle schedule (default: {rates})",
    )
    add("--keep", type=cli.whole_number(1), metavar="K", help="keep the K best epochs (default: all)")
    add(
        "--resume",
        action="store_true",
        help="go on with the interrupted run in --output-folder; give the same options as before",
    )
    cli.add_seed(parser)
    cli.add_device(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Train as the arguments say."""
    from dnn.distributed import joining

    with joining() as ranks:
        _train(args, ranks)


def _train(args: argparse.Namespace, ranks: "Ranks") -> None:
    import torch
    from tqdm import tqdm

    from dnn.distributed import device_name, digest
    from dnn.run_folder import RunFolder
    from dnn.training import EpochResult, Settings, Trainer, effective_batch_size, evaluate, split_rows
    from models.early_exit import initialise
    from models.prediction import describe_device, select_device
    from models.preprocessing import fit_quantile_transform
    from utils.dataset import describe_spooling, find_datasets, read_all_labelled

    with ranks.together():
        device = select_device(device_name(args.device))
        if ranks.is_first:
            print(f"device: {describe_device(device)}")
        architecture = models.find(args.model, exits=1 if args.single_exit else 2)
        with cli.byte_bar("reading") as show:
            dataset, labels = read_all_labelled(find_datasets(args.dataset_folder, args.glob), show)
        try:
            training, held_back = split_rows(labels, args.validation_split, args.seed)
        except ValueError as problem:
            raise DatasetError(f"{dataset.source}: {problem}; change --validation-split or add rows") from problem
        settings = Settings(
            epochs=args.epochs,
            batch_size=args.batch_size or effective_batch_size(BATCH_SIZE, len(training)),
            learning_rate=args.learning_rate or LEARNING_RATES[args.model],
            seed=args.seed,
        )
        torch.manual_seed(settings.seed)
        network = architecture.create()
        initialise(network)
        network.transform = fit_quantile_transform(_to_fit(dataset, training, settings.seed))
    trainer = Trainer(network.to(device), settings, len(training), ranks)

    facts = {
        "data": dataset.source,
        "rows": len(training),
        "held_back": len(held_back),
        "seed": settings.seed,
    }
    with ranks.together():
        place = make_folder(args.output_folder) if ranks.is_first else args.output_folder
        folder = RunFolder(place, architecture.name, args.keep)
        if ranks.is_first:
            folder.check_space(network, settings.epochs)
        if args.resume:
            folder.resume(trainer, facts)
        state = folder.state_digest() if args.resume else b""
    if ranks.world > 1:
        ranks.check_same(digest(repr((facts, settings)).encode(), dataset.features, labels, state), "data and state")
    if ranks.is_first:
        if dataset.spooled:
            print(describe_spooling(dataset))
        print(
            f"{architecture.name} on {device}: {len(training)} rows of {dataset.source} to train on, {len(held_back)} "
            f"held back; {settings.epochs} epochs of {settings.batch_size}-row steps, learning rate "
            f"{settings.learning_rate:g}" + (f"; {ranks.world} processes" if ranks.world > 1 else ""),
            flush=True,
        )
    try:
        while trainer.epoch < settings.epochs:
            hidden = None if ranks.is_first else True
            with tqdm(total=len(training), desc=f"epoch {trainer.epoch + 1}", unit="row", disable=hidden) as bar:
                loss = trainer.train_one_epoch(dataset.features, labels, bar.update, training)
            with ranks.together():
                if ranks.is_first:
                    judged = evaluate(network, dataset.features, labels, settings.label_smoothing, held_back)
                    result = EpochResult(trainer.epoch, loss, *judged)
                    path = folder.save(trainer, result, facts)
                    print(f"epoch {result.epoch}: training loss {loss:.3f}, {_held_back(result)} -> {path}", flush=True)
    except KeyboardInterrupt:
        if folder.epochs and folder.state_path.exists():
            print(
                "the last complete epoch is saved; the same command with --resume goes on from it",
                file=sys.stderr,
            )
        raise
    with ranks.together():
        if ranks.is_first:
            folder.finish()
            print(f"best by held-back loss: {_held_back(folder.epochs[folder.best.name])} -> {folder.best}")


def _to_fit(dataset: "Dataset", training: "NDArray[np.intp]", seed: int) -> "NDArray[np.float32]":
    """Return the training rows, or of those that memory cannot hold a sample, as (N, 58) float32."""
    import numpy as np

    if dataset.spooled and len(training) > ROWS_TO_FIT:
        training = np.sort(np.random.default_rng(seed).choice(training, ROWS_TO_FIT, replace=False, shuffle=False))
    return dataset.features[training]


def _held_back(result: "EpochResult") -> str:
    exits = ", ".join(f"exit {number} {100 * value:.2f} %" for number, value in enumerate(result.accuracies, 1))
    return f"held back: loss {result.held_back_loss:.3f}, accuracy {exits}"


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    with one_voice():
        return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
