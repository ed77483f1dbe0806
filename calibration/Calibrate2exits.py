#!/usr/bin/env python3
r"""Calibrate both exits of a trained network by temperature scaling.

Run:
    python calibration/Calibrate2exits.py --trained-model saves/M.pth --dataset dataset/sample/2016_02.csv \
        --calibrated-model-savefile saves/M_calibrated.pth

Calibrate on a month that the network was not trained on. Prints the negative log-likelihood (NLL) and the expected
calibration error (ECE) of each exit before and after, and draws both as reliability diagrams.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

import models
from utils import cli
from utils.files import check_writable, make_folder


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    cli.add_trained_model(parser, models.FAMILIES)
    add = parser.add_argument
    add(
        "--calibrated-model-savefile",
        required=True,
        type=Path,
        metavar="FILE",
        help="checkpoint to write (.pth)",
    )
    cli.add_dataset(parser)
    cli.add_batch_size(parser, 64)
    add(
        "--max-iter",
        type=cli.whole_number(1),
        default=10,
        metavar="N",
        help="LBFGS iterations an epoch (default: 10)",
    )
    add(
        "--epochs",
        type=cli.whole_number(1),
        default=80,
        metavar="N",
        help="LBFGS calls at most (default: 80)",
    )
    add("--method", choices=("nll", "ece"), default="nll", help="what is made least (default: %(default)s)")
    add("--savefolder", type=Path, metavar="D", help="for the diagrams (default: beside the savefile)")
    cli.add_device(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Calibrate as the arguments say."""
    import torch
    from tqdm import tqdm

    from calibration import temperature
    from calibration.reliability import reliability_figure
    from models.calibrated import CalibratedNetwork
    from models.checkpoint import read_two_exits, write_checkpoint
    from models.cpu_network import compute_logits
    from models.early_exit import EarlyExitNetwork
    from models.prediction import describe_device, select_device
    from utils.dataset import describe_spooling, read_labelled
    from utils.plotting import save_figure

    device = select_device(args.device)
    print(f"device: {describe_device(device)}")
    savefile = check_writable(args.calibrated_model_savefile)
    savefolder = make_folder(args.savefolder or savefile.parent)
    network, checkpoint = read_two_exits(args.trained_model, args.model)
    if isinstance(network, CalibratedNetwork):
        print(f"{args.trained_model} is calibrated already; its temperatures are replaced")
        network = network.model
    assert isinstance(network, EarlyExitNetwork)
    with cli.byte_bar("reading") as show:
        dataset, labels = read_labelled(args.dataset, show)
    if dataset.spooled:
        print(describe_spooling(dataset))

    network.to(device)
    with tqdm(total=len(dataset), desc="logits", unit="row", disable=None) as bar:
        exits = compute_logits(network, dataset.features, args.batch_size, device, bar.update)
    temperatures: list[float] = []
    for number, logits in enumerate(exits, 1):
        if args.method == "ece":
            found = temperature.by_ece(logits, labels)
        else:
            found = temperature.by_likelihood(logits, labels, args.max_iter, args.epochs)
        temperatures.append(found)
        before, after = temperature.quality(logits, labels), temperature.quality(logits, labels, found)
        picture = save_figure(
            reliability_figure(
                f"{checkpoint.architecture.name}, exit {number}, {dataset.source}", logits, labels, found
            ),
            savefolder / f"{savefile.stem}_reliability_exit_{number}.png",
        )
        print(
            f"exit {number}: temperature {found:.4f}  NLL {before.nll:.4f} -> {after.nll:.4f}  "
            f"ECE {before.ece:.4f} -> {after.ece:.4f}  {picture}"
        )
        for doubt in temperature.doubts(found, len(dataset)):
            print(f"warning: exit {number}: {doubt}", file=sys.stderr)
    facts = {
        **checkpoint.training,
        "calibration": {"data": dataset.source, "rows": len(dataset), "method": args.method},
    }
    with torch.device("cpu"):
        write_checkpoint(savefile, CalibratedNetwork(network, temperatures), facts)
    print(f"calibrated network -> {savefile}")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
