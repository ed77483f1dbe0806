"""How long it takes to extract packets of crafted address pairs, against as many of random pairs, in turns.

Run:
    python tests/benchmarks/crafted_pairs.py [--packets N] [--rounds N]

The crafted pairs collide in a hash table whose hash has no key (see ``tests/crafted_pairs.py``). Each packet is a pair
of its own, and all are in one window. The goal is a ratio of at most 1.3.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # repo root

from dataset.packets.packets import Packets
from dataset.records.flow_features import compute_records
from tests.benchmarks.rounds import Costs, in_turns
from tests.crafted_pairs import make_colliding_pairs, make_packets, make_random_pairs

GOAL = 1.3


def main() -> int:
    """Measure; return 0, or 1 where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    random, crafted = (make_packets(pairs(args.packets)) for pairs in (make_random_pairs, make_colliding_pairs))
    (turns,) = in_turns(lambda: spent(random), lambda: spent(crafted), args.rounds)
    of_random, of_crafted = turns.medians
    ratio = 1 / statistics.median(turns.ratios)
    print(
        f"{args.packets} packets: random pairs {of_random:.3f} s, crafted pairs {of_crafted:.3f} s of processor time, "
        f"{ratio:.2f} times as long (goal: at most {GOAL})"
    )
    return int(ratio > GOAL)


def spent(packets: Packets) -> Costs:
    """Return the processor time of extracting the records of packets."""
    start = time.process_time()
    compute_records(packets)
    return (time.process_time() - start,)


if __name__ == "__main__":
    raise SystemExit(main())
