"""Exit 1 at the edge: an exported network in ONNX Runtime against plain eager PyTorch, in turns, on one thread.

Run:
    python tests/benchmarks/edge.py [--rounds 15] [--json edge.json]

The vectors are the distinct ones of March, of the published months where IDS_SHARED has them, else of the sample. The
plain version computes a batch as the published client did: all rows of it in one pass of the network as it is. The
networks are untrained, which changes nothing in the time.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from numpy.typing import NDArray

from models.early_exit import TwoExits
from models.onnx_export import write_edge_model
from models.onnx_runtime import read_edge_model
from tests.networks import calibrated_network
from utils.dataset import distinct_vectors, read_dataset, to_images

FloatArray = NDArray[np.float32]
SHARED = Path(os.environ.get("IDS_SHARED", ROOT.parent / "shared"))
BATCHES = {1: 200, 32: 20, 1000: 1}
"""Events at once, and how many such batches make a block."""


def month() -> FloatArray:
    """Return the distinct vectors of March."""
    real = SHARED / "data" / "dataset" / "2016_03.csv"
    features = read_dataset(real if real.exists() else ROOT / "dataset" / "sample" / "2016_03.csv").features
    return features[distinct_vectors(features)[0]]


def eager(network: TwoExits) -> Callable[[FloatArray], object]:
    """Return the plain version."""

    def compute(batch: FloatArray) -> object:
        with torch.inference_mode():
            return network.edge(torch.from_numpy(to_images(batch)))[1].numpy()

    return compute


def blocks(features: FloatArray, size: int, count: int, turn: int) -> list[FloatArray]:
    """Return batches of a block, other ones each turn."""
    places = (np.arange(size * count) + turn * size * count) % len(features)
    return list(features[places].reshape(count, size, -1))


def microseconds(compute: Callable[[FloatArray], object], batches: list[FloatArray]) -> float:
    """Return what an event took."""
    start = time.perf_counter()
    for batch in batches:
        compute(batch)
    return 1e6 * (time.perf_counter() - start) / sum(map(len, batches))


def compare(features: FloatArray, plain: Any, ours: Any, size: int, rounds: int) -> dict[str, float]:
    """Return medians of both, and the median, least and greatest of the ratios of neighbouring blocks."""
    times, others, ratios = [], [], []
    for turn in range(rounds + 1):
        batches = blocks(features, size, BATCHES[size], turn)
        slow, fast = microseconds(plain, batches), microseconds(ours, batches)
        if turn:  # the first warms up
            times.append(slow)
            others.append(fast)
            ratios.append(slow / fast)
    return {
        "plain_microseconds": statistics.median(times), "ours_microseconds": statistics.median(others),
        "ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios),
    }  # fmt: skip


def main() -> int:
    """Measure; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    features, results = month(), []
    print(f"{len(features)} distinct vectors, one thread, {args.rounds} rounds")
    print(f"{'exit 1 of':26}{'at once':>8}{'eager, µs':>12}{'ours, µs':>11}{'ratio':>8}  spread")
    for name in ("AlexNetWithExits", "MobileNetV2WithExits"):
        network = calibrated_network(name)
        variants = {"": False} | ({", int8": True} if name.startswith("Mobile") else {})
        for words, int8 in variants.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "edge.onnx"
                write_edge_model(path, network, features[:200], int8=int8)
                exported = read_edge_model(path)
            for size in BATCHES:
                row = compare(features, eager(network), exported.exit_1, size, args.rounds)
                results.append({"network": name, "int8": int8, "batch": size, **row})
                print(
                    f"{name + words:26}{size:8}{row['plain_microseconds']:12.1f}{row['ours_microseconds']:11.1f}"
                    f"{row['ratio']:7.1f}×  {row['least']:.1f} to {row['most']:.1f}",
                    flush=True,
                )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
