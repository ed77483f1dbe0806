"""Train a network with two exits, both jointly, or a single-exit baseline.

Run:
    python dnn/train-early-exit-network.py --dataset-folder dataset/sample --glob 2016_01 --model mobilenet

Every epoch is saved as {ClassName}_{timestamp}_epoch_{i}_{acc1}_{acc2}.pth, with the accuracies of the exits on
held-back rows in percent; the last line names the best. An interrupted run goes on with --resume.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

import models
from utils import cli
from utils.errors import DatasetError
from utils.files import make_folder

if TYPE_CHECKING:
    from dnn.training import EpochResult

LEARNING_RATES = {"alexnet": 3e-4, "mobilenet": 2e-3}
BATCH_SIZE = 1000


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
    import torch
    from tqdm import tqdm

    from dnn.run_folder import RunFolder
    from dnn.training import EpochResult, Settings, Trainer, effective_batch_size, evaluate, split_rows
    from models.early_exit import initialise
    from models.prediction import select_device
    from models.preprocessing import fit_quantile_transform
    from utils.dataset import find_datasets, read_all_labelled

    device = select_device(args.device)
    architecture = models.find(args.model, exits=1 if args.single_exit else 2)
    dataset, labels = read_all_labelled(find_datasets(args.dataset_folder, args.glob))
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
    network.transform = fit_quantile_transform(dataset.features[training])
    trainer = Trainer(network.to(device), settings, len(training))

    folder = RunFolder(make_folder(args.output_folder), architecture.name, args.keep)
    folder.check_space(network, settings.epochs)
    facts = {
        "data": dataset.source,
        "rows": len(training),
        "held_back": len(held_back),
        "seed": settings.seed,
    }
    if args.resume:
        folder.resume(trainer, facts)
    print(
        f"{architecture.name} on {device}: {len(training)} rows of {dataset.source} to train on, {len(held_back)} held "
        f"back; {settings.epochs} epochs of {settings.batch_size}-row steps, learning rate {settings.learning_rate:g}"
    )
    try:
        while trainer.epoch < settings.epochs:
            with tqdm(total=len(training), desc=f"epoch {trainer.epoch + 1}", unit="row", disable=None) as bar:
                loss = trainer.train_one_epoch(dataset.features[training], labels[training], bar.update)
            judged = evaluate(network, dataset.features[held_back], labels[held_back], settings.label_smoothing)
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
    folder.finish()
    print(f"best by held-back loss: {_held_back(folder.epochs[folder.best.name])} -> {folder.best}")


def _held_back(result: "EpochResult") -> str:
    exits = ", ".join(f"exit {number} {100 * value:.2f} %" for number, value in enumerate(result.accuracies, 1))
    return f"held back: loss {result.held_back_loss:.3f}, accuracy {exits}"


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
