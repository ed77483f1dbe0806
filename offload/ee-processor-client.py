#!/usr/bin/env python3
r"""Edge client: decide events with exit 1, and ask the cloud for exit 2 of those that exit 1 is not certain of.

Run:
    python offload/ee-processor-client.py --mq-hostname localhost --trained-network-file saves/M_calibrated.pth \
        --network mobilenet --dataset dataset/sample/2016_03.csv --savefile saves/verdicts.csv

An event is rejected if exit 2 is not certain of it either. In place of --dataset, --pcap reads captures, and
--interface observes a network until the client is stopped; --alerts writes attacks and rejected records of such traffic
in Suricata's EVE JSON format.

Rows are written in order, as they are decided. If the cloud does not answer, --on-cloud-failure decides; by default the
client computes exit 2 itself. On SIGTERM or Ctrl-C the client waits for replies, writes the rows, and ends with exit
code 0; --resume continues from there. --process-exit2-locally needs no RabbitMQ. With --release DIR, the client changes
to a new release between two batches. Exit codes: 0 done, 2 wrong arguments or files, 3 the cloud did not answer (with
--on-cloud-failure wait) or there is no such interface, 4 the broker refuses user, password or certificate.
"""

import argparse
import contextlib
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from dataset import traffic_options
from offload import broker_options, client_network, client_options, shared_options
from offload.defaults import STDOUT, WARN
from offload.operations import logs
from utils import cli
from utils.errors import InputFileError
from utils.expert_options import add_expert
from utils.schema import DECIDER_COLUMNS, IDENTITY, OFFLOAD_COLUMNS, RELEASE_COLUMN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from offload.edge.batch import Batch
    from offload.edge.drift_response import DriftResponse
    from offload.edge.edge import Edge
    from offload.edge.offload_csv import OffloadCsv
    from offload.edge.resume_file import Facts
    from offload.edge.second_exit import CloudSecondExit, LocalSecondExit
    from offload.edge.sources import Source
    from offload.edge.verdict_counts import VerdictCounts
    from offload.networks.cache import Cache
    from offload.networks.exits import Network
    from offload.operations.metrics import ClientMetrics
    from offload.operations.release_watch import Opened, ReleaseWatch
    from utils.drift_watch import Alarm
    from utils.policy import Policy
    from utils.release import Release

log = logging.getLogger(__name__)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    inputs = parser.add_argument_group("input")
    sources = inputs.add_mutually_exclusive_group(required=True)
    cli.add_dataset(sources, required=False)
    traffic_options.add_sources(sources)
    traffic_options.add_traffic(inputs, add_end=add_expert)
    cli.add_batch_size(inputs)
    client_options.add_computing(shared_options.add_network(parser, has_releases=True))
    thresholds = parser.add_argument_group("thresholds")
    cli.add_thresholds(thresholds, ", or those in the exported network's file")
    client_options.add_drift(thresholds)
    broker_options.add_broker(parser)
    client_options.add_cloud(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--savefile", type=Path, metavar="CSV", help="offload CSV to write")
    output.add_argument("--resume", action="store_true", help="continue the --savefile of an interrupted run")
    output.add_argument(
        "--show-decider", action="store_true", help="add decider, reason and, with --release, release to the CSV"
    )
    client_options.add_alerts(output)
    shared_options.add_monitoring(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Decide the events that the arguments name."""
    from offload.edge.edge import Edge
    from offload.edge.verdict_counts import VerdictCounts
    from offload.operations.metrics import ClientMetrics
    from utils.stopping import Stop

    logs.configure(json=args.log_format == "json", debug=args.debug, spare_stdout=args.alerts == STDOUT)
    client_options.check_client_arguments(args)
    savefile = _make_savefile(args)
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(
            shared_options.watch_release(args, lambda release: client_network.open_network(args, release))
        )
        opened = None if watch is None else watch.open_first()
        network, policy = client_network.open_network(args, None) if opened is None else opened.content
        release = None if opened is None else opened.release
        logs.report(log, "device", f"device: {network.device}", device=network.device)
        thresholds = client_network.choose_thresholds(args, network, policy, release)
        metrics = ClientMetrics(network.architecture, network.fingerprint)
        source, stop = _make_source(args, savefile, metrics), Stop(args.drain_timeout)
        drift = _make_drift_response(args, policy, release, source, metrics)
        stack.enter_context(stop.on_signals())
        second_exit = stack.enter_context(_open_second_exit(args, network, metrics))
        cache = _make_cache(args, metrics)
        edge = Edge(network.exit_1, thresholds, second_exit, cache, drift, "" if release is None else release.name)
        if watch is not None:
            stack.enter_context(_follow(args, watch, edge, second_exit, cache, source, metrics))
        if savefile is not None:
            stack.enter_context(savefile)
        batches, total = stack.enter_context(source.open(edge, stop)), VerdictCounts.zero(labelled=source.labelled)
        decided = edge.decide_all(batches, args.window, stop, to_the_end=not source.resumable)
        for number, batch in enumerate(decided, 1):
            counts = _handle_decided(args, batch, source, savefile, metrics)
            total += counts
            _report(f"batch {number}", counts, args, table=bool(args.dataset))
    _report("total", total, args, table=True)
    _report_cache(cache)
    source.log_summary(stop)
    if savefile is not None and savefile.rows:
        logs.report(log, "saved", f"{savefile.rows} rows -> {savefile.path}", rows=savefile.rows)


def _handle_decided(
    args: argparse.Namespace, batch: "Batch", source: "Source", savefile: "OffloadCsv | None", metrics: "ClientMetrics"
) -> "VerdictCounts":
    """Write and count the verdicts of a batch."""
    from offload.edge.offload_csv import make_columns
    from offload.edge.verdict_counts import VerdictCounts, count_verdicts

    if savefile is not None:
        columns = make_columns(batch, show_decider=args.show_decider, show_release=_shows_release(args))
        source.save(savefile, columns)
    count_verdicts(batch, metrics)
    source.handle_decided(batch)
    return VerdictCounts.from_batch(batch)


def _follow(
    args: argparse.Namespace,
    watch: "ReleaseWatch[tuple[Network, Policy | None]]",
    edge: "Edge",
    second_exit: "CloudSecondExit | LocalSecondExit",
    cache: "Cache | None",
    source: "Source",
    metrics: "ClientMetrics",
) -> "AbstractContextManager[None]":
    """Return a block in which the edge changes over to later releases."""
    from offload.edge.edge import Deciding

    def change_over(opened: "Opened[tuple[Network, Policy | None]]") -> None:
        (network, policy), release = opened.content, opened.release
        drift = _make_drift_response(args, policy, release, source, metrics)
        deciding = Deciding(
            network.exit_1,
            client_network.choose_thresholds(args, network, policy, release),
            second_exit.use_network(network),
            None if cache is None else cache.make_empty(),
            drift,
            release.name,
        )

        def report() -> None:
            metrics.name_network(network.architecture, network.fingerprint)
            opened.report_use()

        edge.change_to(deciding, report)

    return watch.follow(change_over)


def _make_cache(args: argparse.Namespace, metrics: "ClientMetrics") -> "Cache | None":
    from offload.networks.cache import Cache

    return None if args.cache_size == 0 else Cache(args.cache_size, metrics.count_lookup)


def _make_drift_response(
    args: argparse.Namespace,
    policy: "Policy | None",
    release: "Release | None",
    source: "Source",
    metrics: "ClientMetrics",
) -> "DriftResponse | None":
    if policy is None or policy.reference is None:
        if args.on_drift != WARN:
            raise InputFileError(
                f"{client_network.find_policy(args, release)}: holds no reference of the traffic for --on-drift "
                f"{args.on_drift}; write it again with nsga2/certify-thresholds.py and --dataset"
            )
        return None
    from offload.edge.drift_response import DriftResponse

    def warn(alarm: "Alarm") -> None:
        metrics.drift_alarms.inc()
        figures = {"share": alarm.share, "reference_share": alarm.reference, "events": alarm.events}
        logs.report(log, "drift", alarm.describe(), level=logging.WARNING, **figures)
        source.handle_drift(alarm)

    return DriftResponse(policy.reference, args.on_drift, warn)


def _report_cache(cache: "Cache | None") -> None:
    if cache is not None:
        lookups = list(zip(cache.hits, map(sum, zip(cache.hits, cache.misses, strict=True)), strict=True))
        exits = ", ".join(f"{hits} of {all_} vectors at exit {at}" for at, (hits, all_) in enumerate(lookups, 1))
        logs.report(log, "recent", f"served from the cache: {exits}", exit_1=lookups[0], exit_2=lookups[1])


def _make_source(args: argparse.Namespace, savefile: "OffloadCsv | None", metrics: "ClientMetrics") -> "Source":
    if args.dataset is not None:
        from offload.edge.sources import DatasetSource
        from utils.dataset import read_dataset

        rows, facts = read_dataset(args.dataset), _network_facts(args)
        return DatasetSource(rows, savefile, facts, resumes=args.resume, batch_size=args.batch_size)
    from offload.alerts.alert_limit import AlertLimit
    from offload.alerts.traffic_source import TrafficSource

    limit = AlertLimit(args.max_rejected_alerts, args.max_alerts_per_source)
    scale, traffic = traffic_options.load_scaler(args).scale, traffic_options.parse_traffic(args)
    return TrafficSource(traffic, scale, args.batch_size, args.alerts, limit, metrics)


def _network_facts(args: argparse.Namespace) -> "Facts":
    """Return the facts that determine the verdicts, except dataset and thresholds."""
    from offload.edge.resume_file import digest_file

    if args.savefile is None:
        return {}
    if args.release is not None:  # each row is decided by the release of its time, so another one may continue the file
        given = (args.normal_exit1_min_certainty, args.attack_exit1_min_certainty,
                 args.normal_exit2_min_certainty, args.attack_exit2_min_certainty)  # fmt: skip
        return {"network": "releases", "thresholds": list(given), "half_precision": args.half_precision}
    return {"network": digest_file(args.trained_network_file), "half_precision": args.half_precision}


def _shows_release(args: argparse.Namespace) -> bool:
    return args.show_decider and args.release is not None


def _make_savefile(args: argparse.Namespace) -> "OffloadCsv | None":
    from offload.edge.offload_csv import OffloadCsv

    if args.savefile is None:
        return None
    whose = () if args.dataset else IDENTITY
    deciders = (*DECIDER_COLUMNS, RELEASE_COLUMN) if _shows_release(args) else DECIDER_COLUMNS
    return OffloadCsv(args.savefile, (*whose, *OFFLOAD_COLUMNS, *(deciders if args.show_decider else ())))


@contextlib.contextmanager
def _open_second_exit(
    args: argparse.Namespace, network: "Network", metrics: "ClientMetrics"
) -> "Iterator[CloudSecondExit | LocalSecondExit]":
    """Yield the second exit, and serve metrics and health."""
    from offload.edge.second_exit import CloudSecondExit, LocalSecondExit
    from offload.link.client import Client
    from offload.link.pending_requests import RetryPolicy
    from offload.link.protocol import RequestTemplate, make_process_name

    local = None if network.exit_2 is None else LocalSecondExit(network.exit_2)
    if args.process_exit2_locally:
        assert local is not None  # the arguments were checked
        with shared_options.serve_metrics(args, metrics.registry, local):
            yield local
        return
    retry_policy = RetryPolicy.from_options(
        args.request_timeout, args.retries, args.wait_timeout if args.on_cloud_failure == "wait" else None
    )
    client = Client(broker_options.read_broker(args), args.mq_queue, retry_policy, metrics)
    template = RequestTemplate(network.fingerprint, make_process_name(), args.payload, args.half_precision)
    with client, shared_options.serve_metrics(args, metrics.registry, client):
        yield CloudSecondExit(client, template, local, args.on_cloud_failure)
    sent, received = client.bytes_sent, client.bytes_received
    sentence = f"link: {sent / 1e6:.2f} MB sent, {received / 1e6:.2f} MB received"
    logs.report(log, "link", sentence, bytes_sent=sent, bytes_received=received)


def _report(name: str, counts: "VerdictCounts", args: argparse.Namespace, *, table: bool) -> None:
    from tqdm import tqdm

    with tqdm.external_write_mode(sys.stdout):
        if args.log_format == "json":
            logs.report(log, name.split()[0], f"{name}: {counts.summarize()}", figures=counts.to_dict())
        else:
            out = sys.stderr if args.alerts == STDOUT else sys.stdout
            lines = [f"{name}: {counts.summarize()}", *([counts.format_table()] if table else [])]
            try:
                print(*lines, sep="\n", file=out, flush=True)
            except BrokenPipeError:
                raise
            except OSError:  # like a log line, it is lost if the disk is full
                return


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
