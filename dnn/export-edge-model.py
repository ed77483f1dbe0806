#!/usr/bin/env python3
"""Export the two halves of a network as ONNX files, which an edge and a worker run without PyTorch.

Run:
    python dnn/export-edge-model.py --trained-model saves/M_calibrated.pth --output saves/M_edge.onnx

The --output file holds the input transform, segment 1, exit 1 and its temperature. The --second-exit-output file holds
segment 2, exit 2 and its temperature. A file is written only if all its certainties agree with those of the checkpoint
within 0.0001. With --quantize, this limit does not apply to --output; the difference is printed. Thresholds that are
given here are stored in --output, and a client uses them.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

import models
from utils import cli
from utils.errors import InputFileError
from utils.files import check_apart, check_writable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.onnx_export import Agreement

SAMPLE = Path(__file__).resolve().parents[1] / "dataset" / "sample"
RANDOM_ROWS = 500
SAMPLE_ROWS = 100  # first rows of each bundled month
DATASET_ROWS = 2000


def make_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = cli.new_parser(__doc__)
    cli.add_trained_model(parser, models.FAMILIES)
    add = parser.add_argument
    add("--output", required=True, type=Path, metavar="ONNX", help="file to write: transform, segment 1 and exit 1")
    add("--dataset", type=Path, metavar="CSV", help="rows to compare (default: the bundled sample, and random rows)")
    cli.add_thresholds(parser, " if another is given, else none are written")
    add("--second-exit-output", type=Path, metavar="ONNX", help="file to write: segment 2 and exit 2")
    add(
        "--quantize",
        choices=("int8",),
        help="multiply 8-bit integers in exit 1's convolutions, with the ranges of --dataset: MobileNetV2's is faster, "
        "and its certainties change",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Export the network with the given arguments."""
    from models.checkpoint import compute_fingerprint, read_two_exits
    from models.onnx_export import write_edge_model, write_second_exit_model
    from utils.policy import read_policy_for
    from utils.schema import DEFAULT_THRESHOLDS

    outputs = [path for path in (args.output, args.second_exit_output) if path is not None]
    for path in outputs:
        check_apart(check_writable(path), [args.trained_model])
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise InputFileError(f"{args.output}: is both outputs. Name two files.")
    network, checkpoint = read_two_exits(args.trained_model, args.model)
    features = _read_rows(args.dataset, random=args.quantize is None)
    policy = read_policy_for(args.policy, compute_fingerprint(network))
    limits = None
    if policy is not None or cli.has_thresholds(args):
        limits = cli.parse_thresholds(args, policy.thresholds if policy else DEFAULT_THRESHOLDS)
    if policy is not None and policy.reference is not None and policy.reference.distrusted:
        print(
            f"warning: {args.policy} distrusts frequent vectors ({len(policy.reference.distrusted)}), which "
            f"{args.output} cannot hold; give the client --policy, too, or it accepts them",
            file=sys.stderr,
        )
    agreement = write_edge_model(args.output, network, features, limits, int8=args.quantize == "int8")
    print(f"{checkpoint.architecture.name}, exit 1: {_describe(agreement)} -> {args.output}")
    if args.second_exit_output is not None:
        agreement = write_second_exit_model(args.second_exit_output, network, features)
        print(f"{checkpoint.architecture.name}, exit 2: {_describe(agreement)} -> {args.second_exit_output}")


def _read_rows(dataset: Path | None, *, random: bool) -> "NDArray[np.float32]":
    """Return the first rows (N, 58) of a dataset or of each bundled month.

    If ``random`` is set, random rows within and beyond their usual range are added.
    """
    import numpy as np

    from utils.dataset import find_datasets, read_dataset
    from utils.schema import FEATURE_COUNT

    paths = find_datasets(SAMPLE, "*") if dataset is None else [dataset]
    most = SAMPLE_ROWS if dataset is None else DATASET_ROWS
    rows = [read_dataset(path).features[:most] for path in paths]
    if random:
        values = np.random.default_rng(1).uniform(-0.5, 3.5, size=(RANDOM_ROWS, FEATURE_COUNT))
        rows.append(values.astype(np.float32))
    return np.concatenate(rows)


def _describe(agreement: "Agreement") -> str:
    return (
        f"{agreement.rows} rows compared: certainties within {agreement.difference:.1e} of the checkpoint's, "
        f"{100 * agreement.equal_labels:.2f} % of labels equal"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
