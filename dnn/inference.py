#!/usr/bin/env python3
r"""Apply both exits of a network to a dataset, and write predictions and certainties.

Run:
    python dnn/inference.py --trained-model saves/M_calibrated.pth --dataset dataset/sample/2016_03.csv \
        --savefile saves/M_2016_03_inference.csv

The dataset may be unlabelled (58 columns). If it has a class column, the accuracy of each exit is printed too. A
network that dnn/export-edge-model.py exported runs without PyTorch: name the file of its second half with
--second-exit-file.
"""

import argparse
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

import models
from utils import cli, schema
from utils.errors import InputFileError
from utils.files import check_apart, check_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy import float32
    from numpy.typing import NDArray

    FloatArray = NDArray[float32]
    Predict = Callable[[FloatArray, Callable[[int], object]], tuple[FloatArray, FloatArray]]


def make_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = cli.new_parser(__doc__)
    cli.add_trained_model(parser, models.FAMILIES, "checkpoint (.pth), or an exported first half (.onnx)")
    cli.add_runtime(parser, "which is needed for one")
    cli.add_dataset(parser)
    cli.add_batch_size(parser, 64)
    cli.add_quantize_linear(parser)
    parser.add_argument("--savefile", required=True, type=Path, metavar="CSV", help="inference CSV to write")
    cli.add_device(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Run inference with the given arguments."""
    import pandas as pd
    from tqdm import tqdm

    from utils.classification_metrics import classify, compute_accuracy
    from utils.dataset import describe_spooling, read_dataset
    from utils.results import write_table

    savefile = check_table(args.savefile)
    check_apart(savefile, [path for path in (args.trained_model, args.second_exit_file, args.dataset) if path])
    predict = _open_exported(args) if cli.is_exported(args, args.trained_model) else _open_checkpoint(args)
    with cli.draw_byte_bar("reading") as show:
        dataset = read_dataset(args.dataset, progress=show)
    if dataset.spooled:
        print(describe_spooling(dataset))
    with tqdm(total=len(dataset), desc="inference", unit="row", disable=None) as bar:
        exits = predict(dataset.features, bar.update)
    labels, answers = dataset.labels, [classify(logits) for logits in exits]
    columns = [column for prediction, certain in answers for column in (certain, prediction)]
    table = pd.DataFrame(dict(zip(schema.INFERENCE_COLUMNS, columns, strict=True)))
    if labels is not None:
        table[schema.CLASS] = labels
    write_table(table, savefile)
    for number, (prediction, certain) in enumerate(answers, 1):
        known = "" if labels is None else f"accuracy {100 * compute_accuracy(prediction, labels):.2f} %  "
        attacks = 100 * (prediction == schema.ATTACK).mean()
        print(f"exit {number}: {known}mean certainty {certain.mean():.4f}  attacks {attacks:.1f} %")
    print(f"{len(table)} rows -> {savefile}")


def _open_checkpoint(args: argparse.Namespace) -> "Predict":
    from models.checkpoint import read_two_exits
    from models.cpu_network import compute_logits
    from models.prediction import describe_device, select_device

    device = select_device(args.device)
    print(f"device: {describe_device(device)}")
    network, _ = read_two_exits(args.trained_model, args.model)
    network.to(device)
    int8 = args.quantize is not None
    return lambda features, progress: compute_logits(network, features, args.batch_size, device, progress, int8=int8)


def _open_exported(args: argparse.Namespace) -> "Predict":
    from models.onnx_runtime import compute_both, read_exported
    from models.repeats import compute_each_once

    if args.quantize is not None:
        raise InputFileError("--quantize: is for a checkpoint. Leave it out; dnn/export-edge-model.py quantises.")
    if args.second_exit_file is None:
        raise InputFileError(
            "--trained-model: holds no exit 2, as an exported first half. Name the second with --second-exit-file."
        )
    print("device: cpu (ONNX Runtime)")
    first, second = read_exported(args.trained_model, args.second_exit_file, args.model)
    assert second is not None  # its file was named

    compute = functools.partial(compute_both, first, second)
    return lambda features, progress: compute_each_once(features, args.batch_size, compute, progress)


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
