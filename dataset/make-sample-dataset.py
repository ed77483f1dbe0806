#!/usr/bin/env python3
"""Simulate a small labelled dataset: twelve months of records, as CSVs.

    python dataset/make-sample-dataset.py --output-folder dataset/sample

The packets are simulated, not captured. The files show the format and let you try every stage, but figures computed
from them say nothing about real traffic. One seed gives the same bytes on every machine.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from dataset.defaults import DRIFTS
from utils import cli
from utils.files import make_folder


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument(
        "--output-folder",
        type=Path,
        default=Path("dataset/sample"),
        metavar="FOLDER",
        help="folder for 2016_01.csv and the others; created if missing (default: %(default)s)",
    )
    parser.add_argument(
        "--rows",
        type=cli.whole_number(1, 100_000),
        default=700,
        metavar="N",
        help="records per month (default: %(default)s)",
    )
    parser.add_argument(
        "--months",
        type=cli.whole_number(1, 12),
        default=12,
        metavar="N",
        help="number of months, starting in January (default: %(default)s)",
    )
    parser.add_argument(
        "--drift",
        nargs="+",
        choices=DRIFTS,
        default=[],
        help="what drifts more than in the bundled sample. shares: from September on, lone SYNs are far more frequent, "
        "and less often attacks; labels: in June, more normal records are labelled as attacks",
    )
    cli.add_seed(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Simulate and write each month, then print a summary."""
    from tqdm import tqdm

    from dataset.simulated_months import compute_repeated_share, simulate_month, write_month

    make_folder(args.output_folder)
    summary = []
    for month in tqdm(range(1, args.months + 1), unit="month", disable=None):
        features, labels = simulate_month(month, args.rows, args.seed, args.drift)
        path = args.output_folder / f"2016_{month:02d}.csv"
        write_month(features, labels, path)
        summary.append(
            f"{path}: {len(labels)} rows, {labels.mean():.1%} attack, "
            f"{compute_repeated_share(features):.1%} repeated, {path.stat().st_size:,} bytes"
        )
    print("\n".join(summary))


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
