#!/usr/bin/env python3
"""Watch the months after the choice of thresholds: alarms, verdicts with and without them, and what the watch costs.

Run:
    python tests/benchmarks/watch.py --trained-model saves/calibrated.pth --dataset-folder dataset/sample

The thresholds are those of the exact front with the least error, at the least acceptance, on the month of the choice. A
line for each later month says after how many events the watch gave its first alarm, and the error and acceptance of the
client without a policy and with --on-drift tighten. Each month is watched from its first row, by a new client. At the
end, the edge decides batches of 1,000 rows with and without the watch, in turns, and its processor time is compared.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # repo root

import torch

from evaluations.exit_timing import measure_parts, split_network
from models.checkpoint import read_two_exits
from models.early_exit import TwoExits
from nsga2.defaults import TOLERANCE
from nsga2.exact_front import find_exact_front
from nsga2.objectives import Objectives
from offload.defaults import TIGHTEN
from offload.edge.batch import Batch
from offload.edge.drift_response import DriftResponse
from offload.edge.edge import Edge
from offload.edge.second_exit import LocalSecondExit
from offload.networks.cache import Cache
from offload.networks.torch_exits import open_network
from utils import cli
from utils.dataset import Dataset, find_datasets, find_distinct_vectors, read_dataset
from utils.drift_watch import Alarm
from utils.results import Evaluation
from utils.schema import EVALUATION_COLUMNS, Thresholds
from utils.traffic_reference import Reference, compute_scores, make_reference

BATCH = 1000
CPU = torch.device("cpu")


def evaluate(network: TwoExits, month: Dataset) -> Evaluation:
    """Return the answers of both exits for a month; repeated vectors are computed once."""
    first, vector_index = find_distinct_vectors(month.features)
    assert month.labels is not None
    table = measure_parts(split_network(network, CPU), month.features[first], month.labels[first], BATCH)
    columns = {name: table[name].to_numpy()[vector_index] for name in EVALUATION_COLUMNS}
    return Evaluation(*{**columns, EVALUATION_COLUMNS[0]: month.labels}.values())


def decide(edge: Edge, month: Dataset, batch_size: int) -> tuple[float, float]:
    """Return the share of a month's rows that are accepted, and the error of these."""
    batches = [
        edge.decide(Batch(month.features[start : start + batch_size])) for start in range(0, len(month), batch_size)
    ]
    rejected, prediction = (
        np.concatenate([getattr(one, name) for one in batches]) for name in ("rejected", "prediction")
    )
    return 1 - rejected.mean(), (prediction != month.labels)[~rejected].mean()


def measure_cost(network: TwoExits, reference: Reference, month: Dataset, rounds: int) -> None:
    """Print by how much the watch prolongs what the edge does, in batches as they come, all accepted at exit 1."""
    opened = open_network(network, CPU, 1)
    assert opened.exit_2 is not None
    second, thresholds = LocalSecondExit(opened.exit_2), Thresholds(0.5, 0.5, 0.5, 0.5)
    ratios = []
    for _ in range(rounds):
        drift = DriftResponse(reference, TIGHTEN, lambda _alarm: None)
        edges = [Edge(opened.exit_1, thresholds, second, None, watch) for watch in (None, drift)]
        spent = [0.0, 0.0]
        for start in range(0, len(month), BATCH):
            for number, edge in enumerate(edges):
                batch = Batch(month.features[start : start + BATCH])
                begin = time.process_time()
                edge.decide(batch)
                spent[number] += time.process_time() - begin
        ratios.append(100 * (spent[1] / spent[0] - 1))
    print(
        f"the watch adds {statistics.median(ratios):.2f} % to the edge's processor time ({min(ratios):.2f} to "
        f"{max(ratios):.2f} %), in batches of {BATCH}"
    )


def watch_month(
    network: TwoExits, thresholds: Thresholds, reference: Reference, month: Dataset, batch_size: int
) -> tuple[list[Alarm], tuple[float, float], tuple[float, float]]:
    """Return the alarms of a month, and what is accepted and wrong without and with ``tighten``."""
    opened, alarms = open_network(network, CPU, 1), list[Alarm]()
    assert opened.exit_2 is not None
    second = LocalSecondExit(opened.exit_2)
    drift = DriftResponse(reference, TIGHTEN, alarms.append)
    frozen = decide(Edge(opened.exit_1, thresholds, second, Cache(4096)), month, batch_size)
    return alarms, frozen, decide(Edge(opened.exit_1, thresholds, second, Cache(4096), drift), month, batch_size)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add(
        "--trained-model", required=True, action="append", type=Path, metavar="FILE", help="checkpoint; can be repeated"
    )
    add("--dataset-folder", required=True, type=Path, metavar="D", help="folder of months")
    add("--choice", type=cli.whole_number(1), default=2, metavar="N", help="number of the month (default: %(default)s)")
    add(
        "--last",
        type=cli.whole_number(1),
        default=10,
        metavar="N",
        help="number of the last month (default: %(default)s)",
    )
    add("--min-acceptance", type=cli.real_number(0, 1), default=0.9, metavar="SHARE", help="(default: %(default)s)")
    add("--tolerance", type=cli.real_number(0, 0.5, open_ends=True), default=TOLERANCE, help="(default: %(default)s)")
    add("--batch-size", type=cli.whole_number(1), default=100, metavar="N", help="of the client (default: %(default)s)")
    add("--rounds", type=cli.whole_number(1), default=7, metavar="N", help="of the comparison (default: %(default)s)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure, and print a line for each network and month."""
    months = find_datasets(args.dataset_folder, "*")[args.choice - 1 : args.last]
    for path in args.trained_model:
        network, _ = read_two_exits(path)
        choice = read_dataset(months[0])
        evaluation = evaluate(network, choice)
        front = find_exact_front(Objectives(evaluation), args.min_acceptance).front
        thresholds = Thresholds(*map(float, front.thresholds[front.objectives[:, 0].argmin()]))
        scores = compute_scores(evaluation.prediction_1, evaluation.certainty_1)
        reference = make_reference(choice.features, scores, args.tolerance)
        for file in months[1:]:
            month = read_dataset(file)
            alarms, frozen, tightened = watch_month(network, thresholds, reference, month, args.batch_size)
            said = f"alarm after {alarms[0].events} events" if alarms else "no alarm"
            outcomes = " ".join(
                f"accepted {100 * kept:.1f} % error {100 * wrong:.2f} %;" for kept, wrong in (frozen, tightened)
            )
            print(f"{path.name} {file.stem}: {said}; frozen, tighten: {outcomes} {len(alarms)} alarms", flush=True)
        measure_cost(network, reference, choice, args.rounds)


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
