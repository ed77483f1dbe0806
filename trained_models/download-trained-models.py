#!/usr/bin/env python3
"""Download the published checkpoints from Google Drive.

Run:
    python trained_models/download-trained-models.py
    python trained_models/download-trained-models.py --model MobileNetV2WithExits --model AlexNetWithExits

A file that exists and passes its check is not downloaded again unless --force is given. A download gets its file name
only after a check that it can be loaded and holds the network that the name says. An interrupted download leaves no
file.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from trained_models.checkpoint_catalog import CATALOG, PublishedCheckpoint, find_checkpoint
from utils import cli


def parse_name(text: str) -> PublishedCheckpoint:
    """Return the published checkpoint with a given name; an argparse type."""
    try:
        return find_checkpoint(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from problem


def make_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = cli.new_parser(__doc__)
    parser.add_argument(
        "--model",
        type=parse_name,
        action="append",
        metavar="NAME",
        help=f"one of {', '.join(entry.name for entry in CATALOG)}; may be repeated (default: all)",
    )
    mirror = "Google Drive, or a mirror that serves the files themselves at the same paths"
    cli.add_download(parser, Path("trained_models"), "https://drive.google.com", mirror)
    return parser


def run(args: argparse.Namespace) -> None:
    """Download the named checkpoints and print the results."""
    from trained_models.published_checkpoints import make_download
    from utils.download import download_all

    entries = dict.fromkeys(args.model or CATALOG)
    jobs = [make_download(entry, args.output_folder, args.base_url) for entry in entries]
    print(download_all(jobs, force=args.force, show=cli.draw_byte_bar, say=print))


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
