"""An edge client as one would write it in eager PyTorch: read the checkpoint, decide the rows of a CSV, print.

Run:
    python tests/benchmarks/plain_client.py CHECKPOINT.pth alexnet ROWS.csv
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # repo root

import pandas as pd

from tests.benchmarks.plain_network import at_exit_1, open_plain


def main(checkpoint: str, family: str, rows: str) -> int:
    """Print a line ``verdict LABEL CERTAINTY`` for each row."""
    network = open_plain(Path(checkpoint), family)
    features = pd.read_csv(rows).drop(columns="class").to_numpy("float32")
    for label, certainty in zip(*at_exit_1(network, features), strict=True):
        print("verdict", label, float(certainty), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
