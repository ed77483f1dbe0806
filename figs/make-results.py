#!/usr/bin/env python3
r"""Fill a results folder for figs/reproduce-figures.py by running the scripts of the stages.

Run:
    python figs/make-results.py --dataset-folder dataset/sample --output results

For each architecture, the script trains a network with two exits and one with a single exit on 2016_01, calibrates the
first on 2016_02, evaluates both on every month, and finds the front of thresholds on 2016_02. It measures the time of
exit 2, computed by the client and by a worker, over a private RabbitMQ node on this machine. Files that exist are kept,
so an interrupted run can be started again. Use a new folder for other data.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

import models
from utils import cli
from utils.errors import CloudUnavailableError, InputFileError
from utils.files import make_folder

if TYPE_CHECKING:
    from figs.offload_timing import EdgeFunctions
    from figs.results_plan import Plan
    from offload.link.broker import Broker
    from offload.link.private_broker import PrivateBroker

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "dataset" / "sample"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--dataset-folder", required=True, type=Path, metavar="D", help="folder of months, 2016_01.csv and so on")
    add("--output", required=True, type=Path, metavar="DIR", help="results folder")
    add("--glob", default="*", help="months to evaluate, a name or pattern (default: all)")
    add("--epochs", type=cli.whole_number(1), default=8, metavar="N", help="epochs of training (default: %(default)s)")
    add("--device-name", default="pc", metavar="WORD", help="name of this machine (default: %(default)s)")
    add(
        "--networks",
        nargs="+",
        type=cli.one_of(models.FAMILIES),
        default=list(models.FAMILIES),
        metavar="NETWORK",
        help=f"of {', '.join(models.FAMILIES)} (default: all)",
    )
    cli.add_batch_size(parser, 64)
    add(
        "--synthetic",
        action="store_true",
        help="the records are simulated, so captions say so (the bundled sample is recognised)",
    )
    cli.add_seed(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Run the steps whose results are missing, and time exit 2."""
    from figs.results_folder import is_device
    from figs.results_plan import Plan

    start = time.monotonic()
    if not is_device(args.device_name):
        raise InputFileError(
            f"--device-name {args.device_name!r} is no word of letters, digits and hyphens, or a kind of evaluation; "
            "choose another"
        )
    output = make_folder(args.output)
    datasets = _find_months(args.dataset_folder, args.glob)
    plan = Plan(datasets, output, args.device_name, args.epochs, args.batch_size, args.seed)
    _write_provenance(args, plan)
    steps = [step for network in dict.fromkeys(args.networks) for step in plan.list_steps(network)]
    done = sum(step.is_done() for step in steps)
    if done:
        print(f"{done} of {len(steps)} steps are done already")
    for number, step in enumerate(steps, 1):
        if not step.is_done():
            print(f"\n== {number} of {len(steps)}: {step.title}", flush=True)
            step.run()
    _time_offloading(plan, dict.fromkeys(args.networks))
    print(f"\n{len(steps) - done} steps in {time.monotonic() - start:.0f} s; results -> {output}")


def _find_months(folder: Path, pattern: str) -> dict[str, Path]:
    """Return month -> dataset CSV: the months asked for, and those of training and calibration."""
    from figs.provenance import is_month
    from figs.results_folder import CALIBRATION_MONTH, TRAINING_MONTH
    from utils.dataset import find_datasets

    needed = [find_datasets(folder, month)[0] for month in (TRAINING_MONTH, CALIBRATION_MONTH)]
    found = {path.name.partition(".")[0]: path for path in (*find_datasets(folder, pattern), *needed)}
    return {month: found[month] for month in sorted(found) if is_month(month)}


def _write_provenance(args: argparse.Namespace, plan: "Plan") -> None:
    """Write the origin of the data, or check that the folder holds results of the same data and settings.

    Raises:
        InputFileError: the folder holds results of other data or settings.
    """
    from figs.provenance import Provenance, read_provenance, write_provenance
    from figs.results_folder import CALIBRATION_MONTH, TRAINING_MONTH

    synthetic = args.synthetic or _is_sample(plan.datasets[TRAINING_MONTH])
    name = args.dataset_folder.resolve().name
    now = time.strftime("%Y-%m-%d", time.gmtime())
    facts = (TRAINING_MONTH, CALIBRATION_MONTH, args.epochs, args.batch_size, args.seed)
    provenance = Provenance(name, synthetic, now, *facts, _describe_toolkit())
    former = read_provenance(plan.output)
    if former is None:
        write_provenance(provenance, plan.output)
        return
    for key in ("dataset", "synthetic", "epochs", "batch_size", "seed"):
        if getattr(former, key) != getattr(provenance, key):
            raise InputFileError(
                f"{plan.output}: holds results with {key} {getattr(former, key)}, not {getattr(provenance, key)}; "
                "choose another --output"
            )


def _is_sample(training: Path) -> bool:
    """Return whether a training month is that of the bundled sample, judged by its first four lines."""
    bundled = SAMPLE / training.name
    if not bundled.is_file():
        return False
    with bundled.open("rb") as ours, training.open("rb") as theirs:
        return [ours.readline() for _ in range(4)] == [theirs.readline() for _ in range(4)]


def _describe_toolkit() -> dict[str, str]:
    import os
    import platform

    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "processors": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "clock": "processor time",
    }


def _time_offloading(plan: "Plan", networks: Iterable[str]) -> None:
    """Time exit 2 of the networks that the table of offload timings lacks, if RabbitMQ is available."""
    import pandas as pd

    from figs.results_folder import EVALUATIONS, name_timings, read_timings
    from offload.link.private_broker import PrivateBroker
    from utils.results import write_table

    path = plan.output / EVALUATIONS / name_timings(plan.device)
    tables = [read_timings(path)] if path.exists() else []
    missing = [network for network in networks if not tables or network not in set(tables[0]["network"])]
    if not missing:
        return
    try:
        broker = PrivateBroker()
    except CloudUnavailableError as problem:
        print(f"\nno RabbitMQ, so {path.name} is left out: {problem}")
        return
    with broker:
        for network in missing:
            print(f"\n== time exit 2 of {models.find(network, exits=2).name}, here and at a worker", flush=True)
            tables.append(pd.DataFrame(_measure_timings(plan, network, broker)))
    write_table(pd.concat(tables), path, "\t")
    print(f"timings over the loopback interface of this machine -> {path}")


def _measure_timings(
    plan: "Plan", network: str, broker: "PrivateBroker", repeats: int | None = None
) -> list[dict[str, object]]:
    """Start a worker, and return the rows of one network in the table of offload timings."""
    from figs.offload_timing import BATCH_SIZES, REPEATS, make_request_batches, measure_requests
    from figs.results_folder import CALIBRATION_MONTH, TWO_EXITS
    from utils.dataset import read_dataset

    checkpoint = plan.get_checkpoint(network, TWO_EXITS)
    queue = f"figures-{network}"
    dataset = read_dataset(plan.datasets[CALIBRATION_MONTH])
    with (
        # Without a cache: the rows are repeated, and each must be computed.
        broker.run_worker(checkpoint, network, "--mq-queue", queue, "--cache-size", 0),
        _open_edge(checkpoint, broker.connection, queue) as edge,
    ):
        batches = [make_request_batches(dataset.features, size, repeats or REPEATS) for size in BATCH_SIZES]
        return [measure_requests(network, edge, of_size) for of_size in batches]


@contextlib.contextmanager
def _open_edge(checkpoint: Path, broker: "Broker", queue: str) -> "Iterator[EdgeFunctions]":
    """Yield the functions of an edge client: exit 1, exit 2 on the edge, and exit 2 requested from the worker."""
    import numpy as np

    from figs.offload_timing import EdgeFunctions
    from offload.link.client import Client
    from offload.link.pending_requests import RetryPolicy
    from offload.link.protocol import FEATURES, RequestTemplate, make_process_name
    from offload.networks.exits import FloatArray
    from offload.networks.torch_exits import open_checkpoint
    from offload.operations.metrics import ClientMetrics

    network = open_checkpoint(checkpoint, None, "cpu")
    exit_2, digest = network.exit_2, network.fingerprint
    assert exit_2 is not None
    template = RequestTemplate(digest, make_process_name(), FEATURES)
    metrics = ClientMetrics(network.architecture, digest)

    def exit_1(features: FloatArray) -> FloatArray:
        _, activations = network.exit_1(features)
        return activations(np.arange(len(features)))

    with Client(broker, queue, RetryPolicy.from_options(request_timeout=15.0, retries=1), metrics) as client:

        def ask(features: FloatArray) -> float:
            return client.submit(template.make_request(features)).result().milliseconds

        yield EdgeFunctions(exit_1, exit_2.compute_from_activations, ask, lambda: client.bytes_sent)


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
