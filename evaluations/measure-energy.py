#!/usr/bin/env python3
r"""Measure what an event costs the edge: with a single exit, with two exits on the edge, and with exit 2 in the cloud.

Run:
    python evaluations/measure-energy.py --trained-model saves/M_calibrated.pth --single-exit saves/S.pth \
        --dataset dataset/sample/2016_03.csv --watts 4 --savefile saves/energy.csv

Energy comes from the processor's counters (RAPL), or from an external meter whose log is a CSV (--meter-csv: columns
timestamp and watts, or amperes and volts). --watts uses a power model instead, processor time times W, which is not a
reading. Run nothing else meanwhile. If the meter writes its log on another machine, measure with --meter csv, and then
run the command that the script prints.

Without --mq-hostname, the worker runs on this machine with a private RabbitMQ node. A worker on another machine is
better, because the meter then measures the client only: start it with the same network, and with --cache-size 0 because
the dataset is repeated. The edge has no cache, either.
"""

import argparse
import contextlib
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from offload import broker_options
from utils import cli
from utils.errors import CloudUnavailableError, InputFileError
from utils.files import check_apart, check_table, check_writable
from utils.schema import DEFAULT_THRESHOLDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sized

    from torch import nn

    from evaluations.energy_measurement import MethodOutcome, Run, Work
    from evaluations.energy_report import Meter
    from offload.edge.second_exit import CloudSecondExit, LocalSecondExit
    from offload.networks.exits import FirstExit, Network
    from utils.dataset import Dataset
    from utils.schema import Thresholds

    SecondExits = dict[str, CloudSecondExit | LocalSecondExit]

_OF_A_MEASUREMENT: Final = ("--trained-model", "--single-exit", "--dataset")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--trained-model", type=Path, metavar="FILE", help="checkpoint (.pth) of two exits")
    add("--single-exit", type=Path, metavar="FILE", help="checkpoint (.pth) of the same network's single exit")
    add(
        "--plain-single-exit",
        action="store_true",
        help="compute the single exit in eager PyTorch, and repeated vectors again, as the conventional system does",
    )
    add(
        "--edge-model",
        type=Path,
        metavar="ONNX",
        help="exported first half of --trained-model, to measure an edge that runs it",
    )
    cli.add_dataset(parser, required=False)
    cli.add_thresholds(parser)
    cli.add_batch_size(parser)
    _add_measurement(parser)
    add("--savefile", required=True, type=Path, metavar="CSV", help="table to write")
    add("--picture", type=Path, metavar="FILE", help="picture of the shares beside the paper's (.png, .pdf, .svg)")
    broker_options.add_broker(parser)
    return parser


def _add_measurement(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--meter",
        choices=("rapl", "csv", "model"),
        help="source of the energy (default: csv with --meter-csv, model with --watts, else rapl)",
    )
    add("--meter-csv", type=Path, metavar="CSV", help="log of an external meter, which may still be growing")
    add("--watts", type=cli.real_number(0, 1e4, open_ends=True), metavar="W", help="power of the model")
    add(
        "--intervals", type=Path, metavar="JSON", help="measurement of an earlier run with --meter csv; add --meter-csv"
    )
    add(
        "--rounds",
        type=cli.whole_number(1, 1000),
        default=5,
        metavar="N",
        help="measurements of each method (default: %(default)s)",
    )
    add(
        "--seconds",
        type=cli.real_number(0, 3600),
        default=2.0,
        metavar="S",
        help="least length of a measurement; the dataset is repeated (default: %(default)g)",
    )
    add(
        "--idle-seconds",
        type=cli.real_number(0, 3600),
        default=5.0,
        metavar="S",
        help="length of idling, whose power is subtracted; 0: subtract nothing (default: %(default)g)",
    )


def run(args: argparse.Namespace) -> None:
    """Measure and report, or report an earlier measurement with its meter's log."""
    from evaluations.energy_measurement import read_run, write_run
    from evaluations.energy_meters import POWERCAP, await_log, choose_meter, read_power_log
    from evaluations.energy_report import make_log_meter
    from utils.plotting import check_format

    inputs = [args.trained_model, args.single_exit, args.edge_model, args.dataset, args.meter_csv, args.intervals]
    recorded = check_table(args.savefile).with_suffix(".intervals.json")
    for path in (args.savefile, *([check_format(check_writable(args.picture))] if args.picture else [])):
        check_apart(path, [given for given in inputs if given is not None])
    log = read_power_log(args.meter_csv) if args.meter_csv else None
    if args.intervals is not None:
        measurement = read_run(args.intervals)
        _check_later(args)
        assert log is not None
        _report(args, measurement, make_log_meter(log))
        return
    name = choose_meter(args.meter, POWERCAP, log=log is not None, watts=args.watts is not None)
    missing = [option for option in _OF_A_MEASUREMENT if getattr(args, option[2:].replace("-", "_")) is None]
    if missing:
        raise InputFileError(f"{missing[0]} is missing; add it, or --intervals of an earlier measurement")
    if name != "csv":
        _report(args, *_measure(args, name))
        return
    measurement, _ = _measure(args, name)
    write_run(measurement, recorded)
    print(f"{len(measurement.intervals)} measured intervals -> {recorded}")
    if log is None:
        print(f"with the meter's log, run: {_format_command(args, recorded)}")
        return
    try:
        _report(args, measurement, make_log_meter(await_log(log, measurement.intervals[-1].end)))
    except InputFileError as problem:
        raise InputFileError(
            f"{problem}; the measurement is kept; with a better log, run: {_format_command(args, recorded)}"
        ) from problem


def _format_command(args: argparse.Namespace, recorded: Path) -> str:
    log = args.meter_csv or "METER.csv"
    return (
        f"python evaluations/measure-energy.py --intervals {recorded} --meter-csv {log} --savefile {args.savefile}"
        f"{'' if args.picture is None else f' --picture {args.picture}'}"
    )


def _check_later(args: argparse.Namespace) -> None:
    """Check the options that go with ``--intervals``.

    Raises:
        InputFileError: one is missing, or belongs to a measurement.
    """
    if args.meter_csv is None or args.meter not in {None, "csv"} or args.watts is not None:
        raise InputFileError(f"--intervals {args.intervals}: needs --meter-csv and no other meter; add the log")
    of_a_measurement = (args.trained_model, args.single_exit, args.edge_model, args.dataset)
    if args.plain_single_exit or any(path is not None for path in of_a_measurement):
        raise InputFileError(
            f"--intervals {args.intervals}: nothing is measured now; leave out "
            f"{', '.join((*_OF_A_MEASUREMENT, '--edge-model', '--plain-single-exit'))}"
        )


def _measure(args: argparse.Namespace, name: str) -> "tuple[Run, Meter]":
    """Measure all methods, and return the measurement and its meter."""
    import torch
    from tqdm import tqdm

    from evaluations.energy_measurement import Run, measure_idle, measure_in_turns
    from evaluations.energy_meters import POWERCAP, Rapl, begin_without_meter
    from evaluations.energy_report import Meter, make_power_model
    from figs.energy_data import TWO_EXITS_OFFLOADED
    from models.checkpoint import read_checkpoint, read_two_exits
    from offload.networks.torch_exits import open_network
    from utils.dataset import read_dataset

    begin = begin_without_meter
    meter = Meter("csv", "", lambda part: part.joules) if name == "csv" else make_power_model(args.watts or 0.0)
    if name == "rapl":
        rapl = Rapl(POWERCAP)
        begin, meter = rapl.begin, Meter("rapl", f"RAPL, {' + '.join(rapl.names)}", lambda part: part.joules)
    network, checkpoint = read_two_exits(args.trained_model)
    single = read_checkpoint(args.single_exit)
    family, two, one = checkpoint.architecture.family, checkpoint.architecture, single.architecture
    if one.family != family:
        raise InputFileError(
            f"{args.trained_model}: holds {two.name} ({family}), but {args.single_exit} holds {one.name} "
            f"({one.family}); give two files of one family"
        )
    if one.exits != 1:
        raise InputFileError(f"{args.single_exit}: holds {one.name}; name a network with a single exit")
    opened = open_network(network, torch.device("cpu"))
    exit_1, thresholds = _open_edge(args, opened, family)
    dataset = read_dataset(args.dataset)
    with contextlib.ExitStack() as stack:
        second_exits = stack.enter_context(_open_second_exits(args, opened, family))
        methods, outcomes = _warm_up(args, dataset, exit_1, thresholds, single.network, second_exits)
        idle = [] if name == "model" or args.idle_seconds == 0 else [measure_idle(args.idle_seconds, begin)]
        rounds = measure_in_turns(methods, args.rounds, args.seconds, begin)
        intervals = (*idle, *tqdm(rounds, "measurements", args.rounds * len(methods), disable=None))
    shared = TWO_EXITS_OFFLOADED if TWO_EXITS_OFFLOADED in methods and _is_worker_local(args) else ""
    return Run(family, shared, outcomes, intervals), meter


def _open_edge(args: argparse.Namespace, network: "Network", family: str) -> "tuple[FirstExit, Thresholds]":
    """Return the edge's exit 1 and thresholds, from the checkpoint or from the exported network.

    Raises:
        InputFileError: the exported network is not the checkpoint's.
    """
    from offload.networks.onnx_exits import open_exported
    from utils.policy import read_policy_for

    policy = read_policy_for(args.policy, network.fingerprint)
    if args.edge_model is None:
        return network.exit_1, cli.parse_thresholds(args, policy.thresholds if policy else DEFAULT_THRESHOLDS)
    exported = open_exported(args.edge_model, None, family)
    if exported.fingerprint != network.fingerprint:
        raise InputFileError(
            f"{args.edge_model}: is exported from another network than {args.trained_model}; export it from this one"
        )
    otherwise = policy.thresholds if policy else exported.thresholds or DEFAULT_THRESHOLDS
    return exported.exit_1, cli.parse_thresholds(args, otherwise)


def _is_worker_local(args: argparse.Namespace) -> bool:
    return args.mq_hostname is None or args.mq_hostname.startswith(("localhost", "127.", "::1", "[::1]"))


def _warm_up(
    args: argparse.Namespace,
    dataset: "Dataset",
    exit_1: "FirstExit",
    thresholds: "Thresholds",
    single: "nn.Module",
    second_exits: "SecondExits",
) -> "tuple[dict[str, Work], dict[str, MethodOutcome]]":
    """Run each method once; return the methods and their outcomes."""
    import numpy as np

    from evaluations.energy_measurement import decide_at_single_exit, decide_plainly_at_single_exit, summarise_outcome
    from figs.figure_data import SINGLE
    from models.cpu_network import open_single_exit
    from offload.defaults import MAX_BATCH, WINDOW
    from offload.edge.batch import Batch
    from offload.edge.edge import Edge
    from utils.stopping import Stop

    features, size = dataset.features, args.batch_size
    batches = [features[begin : begin + size] for begin in range(0, len(features), size)]
    if args.plain_single_exit:
        at_single_exit = functools.partial(decide_plainly_at_single_exit, single, features, size)
    else:
        at_single_exit = functools.partial(decide_at_single_exit, open_single_exit(single), features, size, MAX_BATCH)
    nothing = np.zeros(len(features), dtype=np.bool_)
    methods: dict[str, Work] = {SINGLE: at_single_exit}
    outcomes = {SINGLE: summarise_outcome(at_single_exit(), nothing, nothing, dataset.labels)}

    def decide(edge: Edge) -> list[Batch]:
        return list(edge.decide_all(map(Batch, batches), WINDOW, Stop()))

    def predict(edge: Edge) -> "Sized":
        return np.concatenate([batch.prediction for batch in decide(edge)])

    for name, second_exit in second_exits.items():
        edge = Edge(exit_1, thresholds, second_exit)
        decided = decide(edge)
        columns = ("prediction", "uncertain", "rejected")
        prediction, uncertain, rejected = (np.concatenate([getattr(b, name) for b in decided]) for name in columns)
        outcomes[name] = summarise_outcome(prediction, uncertain, rejected, dataset.labels)
        methods[name] = functools.partial(predict, edge)
    return methods, outcomes


@contextlib.contextmanager
def _open_second_exits(args: argparse.Namespace, network: "Network", family: str) -> "Iterator[SecondExits]":
    """Yield the ways to compute exit 2: in this process and, if it is available, in the cloud."""
    from figs.energy_data import TWO_EXITS_LOCAL, TWO_EXITS_OFFLOADED
    from offload.edge.second_exit import CloudSecondExit, LocalSecondExit
    from offload.link.client import Client
    from offload.link.pending_requests import RetryPolicy
    from offload.link.private_broker import PrivateBroker
    from offload.link.protocol import FEATURES, RequestTemplate, make_process_name
    from offload.operations.metrics import ClientMetrics

    assert network.exit_2 is not None
    local, where = LocalSecondExit(network.exit_2), None
    with contextlib.ExitStack() as stack:
        if broker_options.has_broker(args):
            where = broker_options.read_broker(args)
        else:
            try:
                node = stack.enter_context(PrivateBroker())
            except CloudUnavailableError as problem:
                print(f"no cloud, so {TWO_EXITS_OFFLOADED} is left out: {problem}; or name a broker with --mq-hostname")
            else:
                args.mq_queue = args.mq_queue or broker_options.DEFAULTS["queue"]
                where = node.connection
                # Without a cache: the dataset is repeated, and each event must be computed.
                options = ("--mq-queue", args.mq_queue, "--cache-size", 0)
                stack.enter_context(node.run_worker(args.trained_model, family, *options))
        if where is None:
            yield {TWO_EXITS_LOCAL: local}
            return
        digest = network.fingerprint
        # An answer that does not come is an error here; exit 2 on the edge must not replace it.
        retry_policy = RetryPolicy.from_options(request_timeout=15.0, retries=1, wait_timeout=20.0)
        client = stack.enter_context(Client(where, args.mq_queue, retry_policy, ClientMetrics(family, digest)))
        template = RequestTemplate(digest, make_process_name(), FEATURES)
        cloud = CloudSecondExit(client, template, local, on_failure="wait")
        yield {TWO_EXITS_LOCAL: local, TWO_EXITS_OFFLOADED: cloud}


def _report(args: argparse.Namespace, measurement: "Run", meter: "Meter") -> None:
    """Print the report, and write its table and picture."""
    from evaluations.energy_report import build_energy_table, draw_energy, find_idle_watts, render_report
    from figs.energy_data import PAPER_MICROAMPERE_HOURS
    from utils.plotting import save_figure
    from utils.results import write_table

    table = build_energy_table(measurement, meter, PAPER_MICROAMPERE_HOURS.get(measurement.family, {}))
    print(f"\n{render_report(table, meter.words, find_idle_watts(measurement, meter))}")
    write_table(table, args.savefile)
    print(f"{len(table)} rows -> {args.savefile}")
    if args.picture is not None:
        print(f"picture -> {save_figure(draw_energy(table), args.picture)}")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
