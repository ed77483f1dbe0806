"""Options that select the traffic to observe, for scripts."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dataset.defaults import MOST_RECORDS
from utils import cli
from utils.expert_options import add_expert

if TYPE_CHECKING:
    from dataset.records.scaling import Scaler
    from dataset.records.traffic import Traffic


def add_sources(group: argparse._ActionsContainer) -> None:
    """Add the options for captures and interfaces."""
    group.add_argument(
        "--pcap",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="captures in chronological order: pcap or pcapng, plain or gzip-compressed; - is standard input",
    )
    group.add_argument("--interface", metavar="IF", help="network interface to observe; needs CAP_NET_RAW")


def add_traffic(group: argparse._ActionsContainer, *, add_end: Callable[..., object]) -> None:
    """Add the options for how traffic is observed and turned into features.

    Args:
        group: where to add them.
        add_end: ``add_option`` or ``add_expert``, which adds the options for when to stop, frame sizes and scaler.
    """
    add_end(
        group,
        "--follow",
        action="store_true",
        meaning="go on reading the capture as another program writes it, until stopped",
    )
    add_end(
        group,
        "--duration",
        type=cli.real_number(0.1, 1e9),
        metavar="S",
        meaning="stop observing after so many seconds (at SIGTERM or Ctrl-C)",
    )
    add_expert(
        group,
        "--max-records",
        type=cli.whole_number(1, 10_000_000),
        default=MOST_RECORDS,
        metavar="N",
        meaning="records of a window of live traffic; packets that would begin more are left out and counted",
    )
    add_end(
        group,
        "--clamp-size",
        action="store_true",
        meaning="clamp frame sizes to 60 to 1514 bytes: frames captured on the sending host lie outside",
    )
    add_end(group, "--scaler", type=Path, metavar="JSON", meaning="scaler of the features (as published)")


def parse_traffic(args: argparse.Namespace) -> "Traffic":
    """Return the traffic that the arguments select.

    Raises:
        InputFileError: they are not compatible, or a capture is missing.
    """
    from dataset.records.traffic import Traffic

    traffic = Traffic(
        args.pcap or (), args.interface, args.follow, args.duration, args.max_records, clamp=args.clamp_size
    )
    traffic.check()
    return traffic


def load_scaler(args: argparse.Namespace) -> "Scaler":
    """Return the scaler that the arguments select.

    Raises:
        InputFileError: its file is missing or not a scaler.
    """
    from dataset.records.scaling import PUBLISHED, read_scaler

    return read_scaler(args.scaler) if args.scaler else PUBLISHED
