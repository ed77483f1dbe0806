"""Options of evaluate-year.py that belong to its intervals and to its policies."""

import argparse

from evaluations.defaults import POLICIES
from utils import cli


def add_intervals(parser: argparse.ArgumentParser) -> None:
    """Add the options of the bootstrap."""
    add = parser.add_argument
    add(
        "--bootstrap",
        type=cli.whole_number(100, 1_000_000),
        default=2000,
        metavar="N",
        help="resamples for the intervals (default: %(default)s)",
    )
    add(
        "--resample",
        choices=("vectors", "rows"),
        default="vectors",
        help="vectors: all rows of a vector together, because they get one answer; rows: each row alone, which makes "
        "intervals too narrow (default: %(default)s)",
    )


def add_policy(group: argparse._ArgumentGroup) -> None:
    """Add the options of the policies."""
    add = group.add_argument
    add("--policy", nargs="+", choices=POLICIES, default=[], help="decide the later months with these policies")
    add(
        "--labels-per-month",
        type=cli.whole_number(20),
        metavar="N",
        help="random rows of each later month whose labels become known (default: all)",
    )
    add(
        "--max-error",
        type=cli.real_number(0, 1, open_ends=True),
        default=0.08,
        metavar="SHARE",
        help="limit that recertified certifies with a confidence of 0.95 (default: %(default)s)",
    )
