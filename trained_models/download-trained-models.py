#!/usr/bin/env python3
"""Download the published checkpoints from Google Drive.

    python trained_models/download-trained-models.py
    python trained_models/download-trained-models.py --model MobileNetV2WithExits --model AlexNetWithExits

What is there already, whole, is left alone. A download that broke off goes on where it stopped. A file takes
its name only after it has been loaded and found to be the network that its name says.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from trained_models.catalog import CATALOG, Published, find
from utils import cli


def published(text: str) -> Published:
    """Return the checkpoint of that name; an argparse type."""
    try:
        return find(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from problem


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = cli.new_parser(__doc__)
    parser.add_argument(
        "--model",
        type=published,
        action="append",
        metavar="NAME",
        help=f"one of {', '.join(entry.name for entry in CATALOG)}; may be repeated (default: all)",
    )
    parser.add_argument(
        "--output-folder",
        type=Path,
        default=Path("trained_models"),
        metavar="FOLDER",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--base-url",
        default="https://drive.google.com",
        metavar="URL",
        help="a mirror that answers to the same paths (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="fetch also what is there already")
    return parser


def run(args: argparse.Namespace) -> None:
    """Fetch the checkpoints asked for and print what became of them."""
    from trained_models.fetch import job_for
    from utils.download import fetch_all

    entries = dict.fromkeys(args.model or CATALOG)
    jobs = [job_for(entry, args.output_folder, args.base_url) for entry in entries]
    totals = fetch_all(jobs, force=args.force, show=cli.byte_bar, say=print)
    print(totals)


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
