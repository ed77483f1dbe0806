#!/usr/bin/env python3
r"""Edge client: decide what exit 1 is certain of, ask the cloud about the rest, reject what neither is certain of.

Run:
    python offload/ee-processor-client.py --mq-hostname localhost --trained-network-file saves/M_calibrated.pth \
        --network mobilenet --dataset dataset/sample/2016_03.csv --savefile saves/verdicts.csv

In place of --dataset, --pcap reads captures, and --interface observes a network until it is stopped; --alerts writes
the attacks that were found there, and what was rejected, as Suricata's EVE JSON, one event a line.

Rows are written in order, as they are decided. Where the cloud does not answer, the edge runs exit 2 itself, or what
--on-cloud-failure says. SIGTERM or Ctrl-C waits for what is under way, writes it, and ends with exit code 0; --resume
goes on from there. With --process-exit2-locally no RabbitMQ is needed. Exit codes: 0 done, 2 wrong arguments or files,
3 the cloud did not answer (with --on-cloud-failure wait) or the interface is not there, 4 the broker refuses user,
password or certificate.
"""

import argparse
import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from dataset import options as traffic_options
from offload import broker_options, logs, options
from utils import cli
from utils.errors import InputFileError
from utils.expert_options import add_expert
from utils.files import check_apart, check_distinct, check_table_ending
from utils.schema import AUTO, DECIDER_COLUMNS, IDENTITY, OFFLOAD_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from offload.edge import Edge
    from offload.exits import Network
    from offload.metrics import ClientMetrics
    from offload.recent import Recent
    from offload.resume_file import Facts
    from offload.second_exit import SecondExit
    from offload.sources import Observe, Observed, Source
    from offload.verdicts import Tally, Verdicts
    from offload.verdicts_file import VerdictsFile

log = logging.getLogger(__name__)

STANDARD_OUTPUT = Path("-")


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    inputs = parser.add_argument_group("input")
    sources = inputs.add_mutually_exclusive_group(required=True)
    cli.add_dataset(sources, required=False)
    traffic_options.add_sources(sources)
    traffic_options.add_traffic(inputs, ends=add_expert)
    cli.add_batch_size(inputs)
    options.add_computing(options.add_network(parser))
    cli.add_thresholds(parser.add_argument_group("thresholds"), ", or what the exported network's file says")
    broker_options.add_broker(parser)
    options.add_asking(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--savefile", type=Path, metavar="CSV", help="offload CSV to write")
    output.add_argument("--resume", action="store_true", help="continue the --savefile of an interrupted run")
    output.add_argument("--show-decider", action="store_true", help="add the columns decider and reason to the CSV")
    options.add_alerts(output)
    options.add_watching(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Decide as the arguments say."""
    from offload.events import decided
    from offload.metrics import ClientMetrics
    from offload.verdicts import Tally, verdict_columns
    from utils.stopping import Stop

    logs.configure(json=args.log_format == "json", debug=args.debug, spare_stdout=args.alerts == STANDARD_OUTPUT)
    _check(args)
    savefile = _savefile(args)
    network = _network(args)
    metrics = ClientMetrics(network.architecture, network.fingerprint)
    source, stop = _source(args, savefile, metrics), Stop(args.drain_timeout)
    with contextlib.ExitStack() as stack:
        stack.enter_context(stop.on_signals())
        second_exit = stack.enter_context(_second_exit(args, network, metrics))
        memory = _memory(args, metrics)
        edge = _edge(args, network, second_exit, memory)
        if savefile is not None:
            stack.enter_context(savefile)
        batches, total = stack.enter_context(source.opened(edge, stop)), Tally.of_nothing(labelled=source.labelled)
        decisions = decided(edge, batches, args.window, stop, to_the_end=not source.resumable)
        for number, (batch, verdicts) in enumerate(decisions, 1):
            if savefile is not None:
                columns = verdict_columns(verdicts, batch.labels, batch.records, deciders=args.show_decider)
                source.save(savefile, columns)
            _count(verdicts, metrics)
            counted = Tally.of(verdicts, batch.labels)
            total += counted
            source.decided(batch, verdicts)
            _report(f"batch {number}", counted, args, table=bool(args.dataset))
    _report("total", total, args, table=True)
    _report_memory(memory)
    source.report(stop)
    if savefile is not None and savefile.rows:
        logs.report(log, "saved", f"{savefile.rows} rows -> {savefile.path}", rows=savefile.rows)


def _network(args: argparse.Namespace) -> "Network":
    from offload.tuning import CHUNKS, fastest

    exported = cli.is_exported(args, args.trained_network_file)

    def opened(threads: int | None, chunk: int) -> "Network":
        if not exported:
            from offload.torch_exits import open_checkpoint

            return open_checkpoint(args.trained_network_file, args.network, args.device, threads, chunk)
        from offload.onnx_exits import open_exported

        return open_exported(args.trained_network_file, args.second_exit_file, args.network, threads or 1, chunk)

    cores = sorted({1, len(os.sched_getaffinity(0))})
    threads_to_try = cores if args.threads == AUTO else [args.threads]
    network, threads, chunk = fastest(opened, threads_to_try, CHUNKS if args.chunk == AUTO else [args.chunk])
    logs.report(log, "device", f"device: {network.device}", device=network.device)
    if AUTO in (args.threads, args.chunk):
        sentence = f"fastest here: {'' if threads is None else f'--threads {threads} '}--chunk {chunk}"
        logs.report(log, "tuned", sentence, threads=threads, chunk=chunk)
    return network


def _memory(args: argparse.Namespace, metrics: "ClientMetrics") -> "list[Recent]":
    """Return what remembers the answers of exit 1 and of exit 2; nothing where that is not wanted."""
    from offload.recent import Recent

    if args.cache_size == 0:
        return []
    return [Recent(args.cache_size, metrics.of_recent_vectors(number)) for number in (1, 2)]


def _edge(args: argparse.Namespace, network: "Network", second_exit: "SecondExit", memory: "list[Recent]") -> "Edge":
    from offload.edge import Edge
    from offload.recent import RecentFirstExit, RecentSecondExit
    from utils.schema import CLOUD, DEFAULT_THRESHOLDS, LOCAL

    thresholds = cli.thresholds(args, network.thresholds or DEFAULT_THRESHOLDS)
    if network.thresholds is not None:
        values = vars(thresholds)
        least = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in values.items())
        origin = f"by {args.trained_network_file}{' and the command line' if cli.has_thresholds(args) else ''}"
        logs.report(log, "thresholds", f"thresholds {origin}: {least}", **values)
    if not memory:
        return Edge(network.exit_1, thresholds, second_exit)
    at_exit_1, at_exit_2 = memory
    answered_by = LOCAL if args.process_exit2_locally else CLOUD
    second_exit = RecentSecondExit(second_exit, answered_by, at_exit_2)
    return Edge(RecentFirstExit(network.exit_1, at_exit_1), thresholds, second_exit)


def _report_memory(memory: "list[Recent]") -> None:
    if memory:
        counts = [(recent.found, recent.found + recent.missed) for recent in memory]
        exits = ", ".join(f"{found} of {all_} vectors at exit {at}" for at, (found, all_) in enumerate(counts, 1))
        logs.report(log, "recent", f"answered from memory: {exits}", exit_1=counts[0], exit_2=counts[1])


def _source(args: argparse.Namespace, savefile: "VerdictsFile | None", metrics: "ClientMetrics") -> "Source":
    from offload.sources import DatasetSource, Telling, TrafficSource
    from utils.dataset import read_dataset

    if args.dataset is not None:
        rows, facts = read_dataset(args.dataset), _network_facts(args)
        return DatasetSource(rows, savefile, facts, resumes=args.resume, batch_size=args.batch_size)
    telling = Telling(args.alerts, args.max_rejected_alerts, args.max_alerts_per_source, args.interface)
    scaler = traffic_options.scaler(args)
    return TrafficSource(_observe(args), scaler.scale, args.batch_size, telling, metrics)


def _network_facts(args: argparse.Namespace) -> "Facts":
    """Return what decides the verdicts, besides dataset and thresholds."""
    from offload.resume_file import file_digest

    if args.savefile is None:
        return {}
    return {"network": file_digest(args.trained_network_file), "half_precision": args.half_precision}


def _observe(args: argparse.Namespace) -> "Observe":
    from dataset.observation import observed
    from offload.sensor import Seen
    from offload.sources import Observed

    traffic = traffic_options.traffic(args)

    @contextlib.contextmanager
    def observe(is_over: "Callable[[], bool]") -> "Iterator[Observed]":
        with observed(traffic, is_over) as observation:
            tally, windows = observation.tally, observation.windows

            def seen() -> Seen:
                packets = (tally.ipv4, tally.other, tally.malformed)
                return Seen(*packets, windows.late, windows.left_out, observation.dropped)

            yield Observed(observation.records, seen, observation.summary, traffic.is_live)

    return observe


def _check(args: argparse.Namespace) -> None:
    """Check that the arguments go together.

    Raises:
        InputFileError: they do not.
    """
    if not args.process_exit2_locally and not broker_options.names_broker(args):
        raise InputFileError("no --mq-hostname: name the host of RabbitMQ, or add --process-exit2-locally")
    options.check_payload(args)
    _check_apart(args)
    exported = cli.is_exported(args, args.trained_network_file)
    if exported and args.second_exit_file is None and _runs_exit_2(args):
        raise InputFileError(
            "an exported network's exit 2 is in a file of its own; name it with --second-exit-file, or choose "
            "--on-cloud-failure reject or wait"
        )
    if args.resume and (args.savefile is None or args.dataset is None):
        raise InputFileError("--resume continues a --savefile from a --dataset; name both")
    of_traffic = {"--alerts": args.alerts, "--follow": args.follow, "--duration": args.duration}
    for option, given in of_traffic.items():
        if given and args.dataset:
            raise InputFileError(f"{option} is for traffic; name it by --pcap or --interface in place of --dataset")


def _check_apart(args: argparse.Namespace) -> None:
    read = [args.trained_network_file, args.second_exit_file, args.dataset, args.scaler, *(args.pcap or ())]
    inputs = [path for path in read if path is not None]
    check_distinct((args.savefile, args.alerts))
    for output in (args.savefile, args.alerts):
        if output is not None:
            check_apart(output, inputs)
    if args.savefile is not None:
        check_table_ending(args.savefile)


def _runs_exit_2(args: argparse.Namespace) -> bool:
    return bool(args.process_exit2_locally or args.on_cloud_failure == "local")


def _savefile(args: argparse.Namespace) -> "VerdictsFile | None":
    from offload.verdicts_file import VerdictsFile

    if args.savefile is None:
        return None
    whose = () if args.dataset else IDENTITY
    return VerdictsFile(args.savefile, (*whose, *OFFLOAD_COLUMNS, *(DECIDER_COLUMNS if args.show_decider else ())))


@contextlib.contextmanager
def _second_exit(args: argparse.Namespace, network: "Network", metrics: "ClientMetrics") -> "Iterator[SecondExit]":
    """Yield who answers for exit 2, while the process can be watched."""
    from offload.client import Client
    from offload.pending_requests import Patience
    from offload.second_exit import CloudSecondExit, LocalSecondExit, Sending

    local = None if network.exit_2 is None else LocalSecondExit(network.exit_2)
    if args.process_exit2_locally:
        assert local is not None  # the arguments were checked
        with options.watched(args, metrics.registry, local):
            yield local
        return
    patience = Patience.of(
        args.request_timeout, args.retries, args.wait_timeout if args.on_cloud_failure == "wait" else None
    )
    client = Client(broker_options.read_broker(args), args.mq_queue, patience, metrics)
    sending = Sending(network.fingerprint, options.own_name(), args.payload, args.half_precision)
    with client, options.watched(args, metrics.registry, client):
        yield CloudSecondExit(client, sending, local, args.on_cloud_failure)
    sent, received = client.bytes_sent, client.bytes_received
    sentence = f"link: {sent / 1e6:.2f} MB sent, {received / 1e6:.2f} MB received"
    logs.report(log, "link", sentence, bytes_sent=sent, bytes_received=received)


def _count(verdicts: "Verdicts", metrics: "ClientMetrics") -> None:
    for (decider, verdict), events in verdicts.deciders().items():
        metrics.events.labels(decider=decider, verdict=verdict).inc(events)
    failed = verdicts.failure != ""
    metrics.fallback_events.labels(policy="local").inc(int((failed & verdicts.answered).sum()))
    metrics.fallback_events.labels(policy="reject").inc(int((failed & ~verdicts.answered).sum()))


def _report(name: str, counted: "Tally", args: argparse.Namespace, *, table: bool) -> None:
    from tqdm import tqdm

    with tqdm.external_write_mode(sys.stdout):
        if args.log_format == "json":
            logs.report(log, name.split()[0], f"{name}: {counted.summary()}", figures=counted.fields())
        else:
            out = sys.stderr if args.alerts == STANDARD_OUTPUT else sys.stdout
            lines = [f"{name}: {counted.summary()}", *([counted.table()] if table else [])]
            try:
                print(*lines, sep="\n", file=out, flush=True)
            except BrokenPipeError:
                raise
            except OSError:  # as a log line, it is lost where the disk is full
                return


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
