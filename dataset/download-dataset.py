#!/usr/bin/env python3
"""Download the published dataset, real backbone traffic of 2016: a sample of each month, or whole months.

    python dataset/download-dataset.py
    python dataset/download-dataset.py --months 2016_01 2016_02 --full

A file that exists and passes its check is not downloaded again. A file gets its name only after its header and all
its rows have been checked, so an interrupted download leaves nothing behind.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from utils import cli

MONTHS: Final = tuple(f"2016_{month:02}" for month in range(1, 13))


def parse_month(text: str) -> str:
    """Check a published month; an argparse type."""
    if re.fullmatch("2016_(0[1-9]|1[0-2])", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a month from {MONTHS[0]} to {MONTHS[-1]}")
    return text


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument(
        "--months",
        type=parse_month,
        action="extend",
        nargs="+",
        metavar="2016_MM",
        help=f"months to download (default: all, {MONTHS[0]} to {MONTHS[-1]})",
    )
    parser.add_argument("--full", action="store_true", help="whole months (.csv.bz2) instead of samples (.csv)")
    cli.add_download(parser, Path("dataset"))
    return parser


def run(args: argparse.Namespace) -> None:
    """Download the given months and print a summary."""
    from utils.dataset import read_labelled
    from utils.download import Download, download_all

    paths = [f"full/{name}.csv.bz2" if args.full else f"{name}.csv" for name in dict.fromkeys(args.months or MONTHS)]
    jobs = [
        Download(f"{args.base_url}/dataset/{path}", args.output_folder / Path(path).name, read_labelled)
        for path in paths
    ]
    print(download_all(jobs, force=args.force, show=cli.draw_byte_bar, say=print))


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
