r"""Run both exits of a network over a dataset and write predictions and certainties.

Run:
    python dnn/inference.py --trained-model saves/M_calibrated.pth --dataset dataset/sample/2016_03.csv \
        --savefile saves/M_2016_03_inference.csv

The dataset may be unlabelled (58 columns); with a class column, accuracy and mean certainty of each exit are printed.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

import models
from utils import cli, schema
from utils.files import check_writable


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    cli.add_trained_model(parser, models.FAMILIES)
    cli.add_dataset(parser)
    cli.add_batch_size(parser)
    parser.add_argument("--savefile", required=True, type=Path, metavar="CSV", help="inference CSV to write")
    cli.add_device(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Infer as the arguments say."""
    import pandas as pd
    from tqdm import tqdm

    from models.checkpoint import read_two_exits
    from models.prediction import predict, select_device
    from utils.dataset import read_dataset
    from utils.metrics import accuracy, certainty
    from utils.results import write_table

    device = select_device(args.device)
    savefile = check_writable(args.savefile)
    network, _ = read_two_exits(args.trained_model, args.model)
    dataset = read_dataset(args.dataset)
    with tqdm(total=len(dataset), desc="inference", unit="row", disable=None) as bar:
        exits = predict(network.to(device), dataset.features, args.batch_size, device, bar.update)
    answers = [certainty(logits) for logits in exits]
    columns = [column for prediction, certain in answers for column in (certain, prediction)]
    table = pd.DataFrame(dict(zip(schema.INFERENCE_COLUMNS, columns, strict=True)))
    if dataset.labels is not None:
        table[schema.CLASS] = dataset.labels
    write_table(table, savefile)
    for number, (prediction, certain) in enumerate(answers, 1):
        known = "" if dataset.labels is None else f"accuracy {100 * accuracy(prediction, dataset.labels):.2f} %  "
        attacks = 100 * (prediction == schema.ATTACK).mean()
        print(f"exit {number}: {known}mean certainty {certain.mean():.4f}  attacks {attacks:.1f} %")
    print(f"{len(table)} rows -> {savefile}")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
