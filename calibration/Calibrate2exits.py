#!/usr/bin/env python3
r"""Calibrate both exits of a trained network by temperature scaling.

Run:
    python calibration/Calibrate2exits.py --trained-model saves/M.pth --dataset dataset/sample/2016_02.csv \
        --calibrated-model-savefile saves/M_calibrated.pth

Calibrate on a month that the network was not trained on. The script prints the negative log-likelihood (NLL) and the
expected calibration error (ECE) of each exit before and after, and draws reliability diagrams.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

import models
from utils import cli
from utils.files import check_writable, make_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def make_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = cli.new_parser(__doc__)
    cli.add_trained_model(parser, models.FAMILIES)
    add = parser.add_argument
    written = "checkpoint to write (.pth)"
    add("--calibrated-model-savefile", required=True, type=Path, metavar="FILE", help=written)
    cli.add_dataset(parser)
    cli.add_batch_size(parser, 64)
    count = cli.whole_number(1)
    add("--max-iter", type=count, default=10, metavar="N", help="LBFGS iterations per epoch (default: %(default)s)")
    add("--epochs", type=count, default=80, metavar="N", help="most LBFGS calls (default: %(default)s)")
    add("--method", choices=("nll", "ece"), default="nll", help="what to minimise (default: %(default)s)")
    add("--savefolder", type=Path, metavar="D", help="folder for the diagrams (default: that of the savefile)")
    cli.add_device(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Calibrate both exits with the given arguments."""
    import torch
    from tqdm import tqdm

    from models.calibrated import CalibratedNetwork
    from models.checkpoint import read_two_exits, write_checkpoint
    from models.cpu_network import compute_logits
    from models.early_exit import EarlyExitNetwork
    from models.prediction import describe_device, select_device
    from utils.dataset import describe_spooling, read_labelled

    device = select_device(args.device)
    print(f"device: {describe_device(device)}")
    savefile = check_writable(args.calibrated_model_savefile)
    savefolder = make_folder(args.savefolder or savefile.parent)
    network, checkpoint = read_two_exits(args.trained_model, args.model)
    if isinstance(network, CalibratedNetwork):
        print(f"{args.trained_model} is already calibrated. Its temperatures are replaced.")
        network = network.model
    assert isinstance(network, EarlyExitNetwork)
    with cli.draw_byte_bar("reading") as show:
        dataset, labels = read_labelled(args.dataset, show)
    if dataset.spooled:
        print(describe_spooling(dataset))

    network.to(device)
    with tqdm(total=len(dataset), desc="logits", unit="row", disable=None) as bar:
        exits = compute_logits(network, dataset.features, args.batch_size, device, bar.update)
    temperatures = []
    for number, logits in enumerate(exits, 1):
        title = f"{checkpoint.architecture.name}, exit {number}, {dataset.source}"
        picture = savefolder / f"{savefile.stem}_reliability_exit_{number}.png"
        temperatures.append(_calibrate_exit(args, number, logits, labels, title, picture))
    calibration = {"data": dataset.source, "rows": len(dataset), "method": args.method}
    with torch.device("cpu"):
        calibrated = CalibratedNetwork(network, temperatures)
        write_checkpoint(savefile, calibrated, {**checkpoint.training, "calibration": calibration})
    print(f"calibrated network -> {savefile}")


def _calibrate_exit(
    args: argparse.Namespace,
    number: int,
    logits: "NDArray[np.float32]",
    labels: "NDArray[np.int64]",
    title: str,
    picture: Path,
) -> float:
    """Find an exit's temperature, print NLL and ECE before and after, draw reliability diagrams, and return it."""
    from calibration import temperature
    from calibration.reliability import make_reliability_figure
    from utils.plotting import save_figure

    if args.method == "ece":
        found = temperature.fit_by_ece(logits, labels)
    else:
        found = temperature.fit_by_likelihood(logits, labels, args.max_iter, args.epochs)
    before, after = temperature.measure_quality(logits, labels), temperature.measure_quality(logits, labels, found)
    saved = save_figure(make_reliability_figure(title, logits, labels, found), picture)
    print(
        f"exit {number}: temperature {found:.4f}  NLL {before.nll:.4f} -> {after.nll:.4f}  "
        f"ECE {before.ece:.4f} -> {after.ece:.4f}  {saved}"
    )
    for doubt in temperature.find_doubts(found, len(labels)):
        print(f"warning: exit {number}: {doubt}", file=sys.stderr)
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
