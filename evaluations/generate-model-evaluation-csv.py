#!/usr/bin/env python3
r"""Write the predictions, certainties and costs of each exit of a network on a labelled dataset.

Run:
    python evaluations/generate-model-evaluation-csv.py --trained-model saves/M_calibrated.pth \
        --dataset dataset/sample/2016_02.csv --savefile saves/M_2016_02_evaluation.csv

The table has one row for each dataset row, in order, with times in seconds per event. The columns of a
single-exit network are y, y_pred, cnf and avg_time. The first line of the output names the device and the runtime.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

import models
from utils import cli
from utils.files import check_table


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = cli.new_parser(__doc__)
    cli.add_trained_model(parser, models.FAMILIES)
    cli.add_dataset(parser)
    cli.add_batch_size(parser)
    parser.add_argument("--savefile", required=True, type=Path, metavar="CSV", help="evaluation CSV to write")
    clock = "cpu: CPU time of the process, the paper's proxy for energy; wall: elapsed time (default: %(default)s)"
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu", help=clock)
    runtime = "ONNX Runtime, as client and worker use on CPUs, or PyTorch (default: onnx on the CPU, torch on a GPU)"
    names = cli.one_of(("onnx", "torch"))
    parser.add_argument("--runtime", type=names, metavar="{onnx,torch}", help=f"what computes and is timed: {runtime}")
    cli.add_device(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Evaluate the network on the dataset, and write the table."""
    from tqdm import tqdm

    from evaluations.exit_timing import measure_parts, split_network
    from models.checkpoint import read_checkpoint
    from models.prediction import choose_runtime, describe_device, select_device
    from utils.dataset import read_labelled
    from utils.results import write_table

    device = select_device(args.device)
    runtime = choose_runtime(args.runtime, device)
    print(f"device: {describe_device(device, runtime)}")
    savefile = check_table(args.savefile)
    checkpoint = read_checkpoint(args.trained_model, args.model)
    dataset, labels = read_labelled(args.dataset)
    parts = split_network(checkpoint.network.to(device), device, runtime)
    with tqdm(total=len(dataset), desc="evaluation", unit="row", disable=None) as bar:
        table = measure_parts(parts, dataset.features, labels, args.batch_size, args.clock, bar.update)
    write_table(table, savefile)
    columns = [str(name) for name in table]
    times = [name for name in columns if "time" in name]
    for name in (name for name in columns if name.startswith("y_")):
        print(f"{name}: accuracy {100 * (table[name] == table['y']).mean():.2f} %")
    print("  ".join(f"{name} {1e6 * table[name].mean():.1f} µs" for name in times) + f"  ({args.clock} time an event)")
    print(f"{len(table)} rows -> {savefile}")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
