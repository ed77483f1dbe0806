#!/usr/bin/env python3
"""Make a labelled capture: real packets of real programs in the tests' small network, and their true labels.

Run:
    python tests/network/make_capture.py --output dataset/sample/network/capture

It writes ``capture.pcap.gz``, frames truncated to their headers, and ``capture-labels.txt``, one address per line whose
records are attacks; all others are normal. It must run as root, because of tcpdump.
"""

import argparse
import gzip
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # repo root

from utils import cli
from utils.files import check_writable

HEADERS = 96


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--output", required=True, type=Path, metavar="NAME", help="start of the names of both files")
    add("--seconds", type=cli.real_number(1, 600), default=40.0, help="duration (default: 40)")
    add("--seed", type=int, default=1, help="determines the choices of the hosts, but not their timing (default: 1)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Capture the scenario and write both files."""
    from tests.network.hosts import tcpdump
    from tests.network.scenario import list_attackers, new_network, play

    endings = (".pcap.gz", "-labels.txt")
    capture, truth = (check_writable(args.output.with_name(args.output.name + ending)) for ending in endings)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "network.pcap"
        with new_network() as network, tcpdump(network.sensor, plain, HEADERS):
            play(network, args.seconds, args.seed)
        capture.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    truth.write_text("".join(f"{address}  # {name}\n" for address, name in list_attackers().items()))
    print(f"{capture.stat().st_size} bytes -> {capture}\n{len(list_attackers())} addresses -> {truth}")


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
