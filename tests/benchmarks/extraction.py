#!/usr/bin/env python3
"""How many packets a second become flow records, against nfstream and netflower on the same capture, in one run.

Run:
    python tests/benchmarks/extraction.py --capture capture.pcap --others-python VENV/bin/python [--rounds N]

The others are not among the project's requirements: install nfstream and netflower, which needs libpcap, into a virtual
environment of their own and name its python. Their flows are not our records: they go by ports and protocol, end by
time-outs, and have other statistics. nfstream runs with its statistics on and its dissection off, and its flows are
counted; netflower writes a CSV, and so do we beside it. Each program runs by itself on one core, in turns, and is timed
without its imports.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

OURS = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from dataset.packets.traffic_counts import TrafficCounts
from dataset.records.dataset_csv import write_records
from dataset.records.capture_records import read_capture_records
from dataset.records.scaling import PUBLISHED
from dataset.records.windows import Windows
capture, output = Path(sys.argv[1]), sys.argv[2]
start = time.perf_counter()
records = read_capture_records([capture], Windows())
if output == "none":
    found = sum(map(len, records))
else:
    found = write_records(records, Path(output), PUBLISHED).rows
print(found, time.perf_counter() - start)
"""
COUNT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from dataset.packets.captures import read_capture
from dataset.packets.traffic_counts import TrafficCounts
counts = TrafficCounts()
for _ in read_capture(Path(sys.argv[1]), counts):
    pass
print(counts.packets, 0)
"""
NFSTREAM = """
import sys, time
from nfstream import NFStreamer
if __name__ == "__main__":
    start = time.perf_counter()
    found = sum(1 for _ in NFStreamer(source=sys.argv[1], statistical_analysis=True, n_dissections=0, n_meters=1))
    print(found, time.perf_counter() - start)
"""
NETFLOWER = """
import sys, time, netflower
start = time.perf_counter()
netflower.convert_pcap_to_csv(sys.argv[1], sys.argv[2])
spent = time.perf_counter() - start
print(sum(1 for _ in open(sys.argv[2])) - 1, spent)
"""


def timed(python: str, program: str, capture: Path, output: str, folder: Path) -> tuple[int, float]:
    """Return how many flows or records a program found, and the seconds that took."""
    script = folder / "program.py"
    script.write_text(program)
    command = ["taskset", "--cpu-list", "0", python, str(script), str(capture), output]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found, seconds = done.stdout.split()[-2:]
    return int(found), float(seconds)


def main() -> int:
    """Measure; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", type=Path, required=True)
    parser.add_argument("--others-python", required=True, help="of an environment with nfstream and netflower")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        packets, _ = timed(sys.executable, COUNT, args.capture, "none", Path(folder))
    for name, other, output in (("nfstream", NFSTREAM, "none"), ("netflower", NETFLOWER, "out.csv")):
        ratios, rates = [], []
        with tempfile.TemporaryDirectory() as folder:
            place = output if output == "none" else str(Path(folder) / output)
            for _ in range(args.rounds):
                flows, theirs = timed(args.others_python, other, args.capture, place, Path(folder))
                records, ours = timed(sys.executable, OURS, args.capture, place, Path(folder))
                ratios.append(theirs / ours)
                rates.append(packets / ours)
        print(
            f"{args.capture.name}, {packets} packets: {name} {flows} flows, ours {records} records at "
            f"{statistics.median(rates):,.0f} packets/s, {statistics.median(ratios):.1f} times as fast "
            f"(from {min(ratios):.1f} to {max(ratios):.1f})"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
