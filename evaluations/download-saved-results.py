#!/usr/bin/env python3
"""Download the published NSGA-II result files for nsga2/gen-op-point-chart.py, which draws the paper's fronts.

    python evaluations/download-saved-results.py
    python evaluations/download-saved-results.py --output-folder saves/published

A file that exists and passes its check is not downloaded again. A download gets its final name only after its content
is checked; an interrupted download leaves no file behind.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from utils import cli

FOLDER: Final = "evaluations/saved"
NAMES: Final = ("alexnet_x_f_0.9_2016_23.sav", "mobilenet_x_f_0.9_2016_23.sav")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = cli.new_parser(__doc__)
    cli.add_download(parser, Path(FOLDER))
    return parser


def run(args: argparse.Namespace) -> None:
    """Download the result files and print a summary."""
    from utils.download import Download, download_all
    from utils.results import read_front

    jobs = [Download(f"{args.base_url}/{FOLDER}/{name}", args.output_folder / name, read_front) for name in NAMES]
    print(download_all(jobs, force=args.force, show=cli.draw_byte_bar, say=print))


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
