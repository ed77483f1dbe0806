#!/usr/bin/env python3
"""Swap releases under load, and count what is lost, doubled, misplaced or refused.

Run:
    python tests/benchmarks/swaps.py --swaps 10

Two edges and two workers run the releases of one folder, over a private RabbitMQ node. While the edges decide distinct
events, the link ``current`` is pointed to one release after another; then as often again, with a worker that is killed
during each swap and replaced. Each row is compared with the verdict that the release it names gives without a cloud.
Two of the three releases have one fingerprint, and differ in exit 1 and the thresholds. The exit code is 1 if anything
was lost, doubled, misplaced, refused, or decided otherwise.
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # repo root

from offload.link.protocol import make_id
from tests.controlled_broker import ControlledBroker
from tests.offload.chaos import NO_DIFFERENCES, write_distinct_events
from tests.offload.swapping import BATCH, RELEASES, Fleet, decide_by_each, write_swapped_releases
from utils import cli
from utils.release import point_to


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument(
        "--swaps",
        type=cli.whole_number(1, 1000),
        default=10,
        metavar="N",
        help="swaps without, and again with a worker killed (default: %(default)s)",
    )
    parser.add_argument(
        "--events",
        type=cli.whole_number(100, 10_000_000),
        default=12_000,
        metavar="N",
        help="events of each edge; when it has decided them, another edge begins (default: %(default)s)",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Run both series and print their figures."""
    with tempfile.TemporaryDirectory() as name, ControlledBroker() as node:
        folder = Path(name)
        releases = write_swapped_releases(folder / "releases")
        dataset = write_distinct_events(folder / "events.csv", ROOT / "dataset" / "sample", args.events)
        expected = decide_by_each(folder / "expected", releases, dataset)
        good = True
        for kill in (False, True):
            point_to(releases, RELEASES[0])
            output, between = folder / f"kill-{kill}", max(3, args.events // (3 * BATCH * args.swaps))
            fleet = Fleet(node.connection, f"requests.{make_id()}", releases, dataset, output, between)
            with fleet.running():
                for number in range(1, args.swaps + 1):
                    fleet.swap(RELEASES[number % len(RELEASES)], kill=kill)
                figures = fleet.finish(expected)
            print(figures, flush=True)
            good &= figures.differences == NO_DIFFERENCES and figures.refused == 0
    return 0 if good else 1


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
