#!/usr/bin/env python3
"""Make a labelled capture: real packets of real programs in the tests' small network, with the truth about them.

Run:
    python tests/network/make_capture.py --output dataset/sample/network/capture

It writes ``capture.pcap.gz``, frames cut to their headers, and ``capture-labels.txt``: the addresses, a line each,
whose records are attacks; all others are normal. Only root may, as tcpdump needs it.
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
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--output", required=True, type=Path, metavar="NAME", help="what both files' names begin with")
    add("--seconds", type=cli.real_number(1, 600), default=40.0, help="how long it takes (default: 40)")
    add("--seed", type=int, default=1, help="of what the hosts choose; when they do is never twice the same")
    return parser


def run(args: argparse.Namespace) -> None:
    """Capture, and write both files."""
    from tests.network.hosts import tcpdump
    from tests.network.scenario import attackers, new_network, play

    endings = (".pcap.gz", "-labels.txt")
    capture, truth = (check_writable(args.output.with_name(args.output.name + ending)) for ending in endings)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "network.pcap"
        with new_network() as network, tcpdump(network.sensor, plain, HEADERS):
            play(network, args.seconds, args.seed)
        capture.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    truth.write_text("".join(f"{address}  # {name}\n" for address, name in attackers().items()))
    print(f"{capture.stat().st_size} bytes -> {capture}\n{len(attackers())} addresses -> {truth}")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
