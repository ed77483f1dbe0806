"""Train a small network without dropout on the sample, alone or under torchrun, and save what each process ends with.

Run:
    python tests/dnn/train_small.py FOLDER BATCH_SIZE [FAULT]

Each rank writes FOLDER/RANK.pt, with the losses that it was told and its weights. A fault is what happens in rank 1
after the first epoch: ``error`` (one of the toolkit's), ``bug`` (another), ``silence`` (it is gone) or ``other data``.
"""

import os
import sys
from pathlib import Path

import torch

import dnn.training
from dnn.distributed import Ranks, compute_digest, join_processes
from dnn.torchrun import silence_others
from dnn.training import Trainer, TrainingSettings
from models.preprocessing import fit_quantile_transform
from tests.models import small
from tests.networks import SAMPLE
from utils import cli
from utils.dataset import read_labelled
from utils.errors import InputFileError

ROWS = 201


def fail(ranks: Ranks, fault: str) -> None:
    if ranks.rank != 1:
        return
    if fault == "error":
        raise InputFileError("disk: is full; make room")
    if fault == "bug":
        raise TypeError("a fault of ours")
    if fault == "silence":
        os._exit(9)


def train(folder: Path, batch_size: int, fault: str) -> None:
    # bfloat16 rounds so coarsely that the order of a sum shows.
    dnn.training.is_bfloat16_fast = lambda device: False  # noqa: ARG005
    dataset, labels = read_labelled(SAMPLE)
    features, labels = dataset.features[:ROWS], labels[:ROWS]
    network = small.with_two_exits(dropout=0)
    network.transform = fit_quantile_transform(features)
    with join_processes() as ranks:
        settings = TrainingSettings(epochs=3, batch_size=batch_size, learning_rate=1e-2)
        trainer, losses = Trainer(network, settings, ROWS, ranks), list[float]()
        for _ in range(3):
            losses.append(trainer.train_one_epoch(features, labels))
            with ranks.fail_together():
                fail(ranks, fault)
            ranks.check_same(compute_digest(features[ranks.rank :] if fault == "other data" else features), "data")
        torch.save({"losses": losses, **network.state_dict()}, folder / f"{ranks.rank}.pt")


if __name__ == "__main__":
    parser = cli.new_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("batch_size", type=int)
    parser.add_argument("fault", nargs="?", default="")
    with silence_others():
        code = cli.run(parser, lambda args: train(args.folder, args.batch_size, args.fault), None)
    sys.exit(code)
