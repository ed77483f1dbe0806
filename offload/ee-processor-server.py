#!/usr/bin/env python3
r"""Cloud worker: answer clients with exit 2 of the events that exit 1 is not certain of.

Run:
    python offload/ee-processor-server.py --mq-hostname localhost --trained-network-file saves/M_calibrated.pth \
        --network mobilenet

A worker of an exported network (M_edge.onnx, with --second-exit-file M_second.onnx) needs no PyTorch. With --release
DIR it serves the networks of several releases: each request is answered by the one that it names.

Several workers on one queue share the load. Waiting requests of all clients are computed together. On SIGTERM or Ctrl-C
the worker finishes its batch, requeues the waiting requests, and ends with exit code 0.
"""

import argparse
import contextlib
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from offload import broker_options, defaults, shared_options
from offload.operations import logs
from utils import cli
from utils.errors import InputFileError
from utils.expert_options import add_expert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from offload.link.batch_report import BatchReport
    from offload.link.responder import Responder
    from offload.link.worker import Worker
    from offload.networks.exits import Network
    from offload.operations.metrics import WorkerMetrics
    from offload.operations.release_watch import Opened, ReleaseWatch
    from utils.release import Release

log = logging.getLogger(__name__)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    shared_options.add_network(parser, has_releases=True)
    group = parser.add_argument_group("computing")
    add = group.add_argument
    add_expert(
        group,
        "--max-batch",
        type=cli.whole_number(1, 4096),
        default=defaults.MAX_BATCH,
        metavar="N",
        meaning="most events of one forward pass",
    )
    add_expert(
        group,
        "--batch-wait-ms",
        type=cli.real_number(0, 1000),
        default=1000 * defaults.BATCH_WAIT,
        metavar="MS",
        meaning="most milliseconds to wait for as many requests as the last batch had",
    )
    add_expert(
        group,
        "--prefetch",
        type=cli.whole_number(1, 1000),
        default=defaults.PREFETCH,
        metavar="N",
        meaning="most requests that the worker holds; reduced until the largest ones fit into 512 MiB",
    )
    add(
        "--second-segment-only",
        action="store_true",
        help="accept only activations, not features; nothing is cached",
    )
    cli.add_second_exit_file(group, "which a worker needs as well as the first half")
    cli.add_quantize_linear(group)
    shared_options.add_cache_size(group)
    add_expert(
        group, "--threads", type=cli.whole_number(1, 1024), metavar="N", meaning="threads per inference (all cores)"
    )
    add("--quiet", action="store_true", help="log no line for each batch")
    add(
        "--queue-type",
        choices=defaults.QUEUE_TYPES,
        default=defaults.QUEUE_TYPES[0],
        help="quorum: replicated over the nodes of a cluster (default: %(default)s)",
    )
    broker_options.add_broker(parser)
    shared_options.add_monitoring(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Answer requests until a signal stops the worker."""
    from offload.link.worker import Worker
    from offload.link.worker_settings import WorkerSettings, bound_prefetch
    from offload.operations.metrics import WorkerMetrics

    logs.configure(json=args.log_format == "json", debug=args.debug)
    broker = broker_options.read_broker(args)
    shared_options.check_release(args, "--quantize")
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(shared_options.watch_release(args, lambda release: _open_release(args, release)))
        network = _open_network(args) if watch is None else watch.open_first().content
        logs.report(log, "device", f"device: {network.device}", device=network.device)
        architecture = network.architecture
        metrics = WorkerMetrics(architecture, network.fingerprint)
        make_responder = _prepare_responders(args, metrics)
        responder = make_responder(network)
        if watch is not None:
            responder = stack.enter_context(_follow(watch, responder, make_responder, metrics))
        largest = responder.limits.largest_body
        prefetch = bound_prefetch(args.prefetch, largest)
        if prefetch < args.prefetch:
            log.warning(
                "--prefetch %d: reduced to %d, because each request may have %d bytes",
                args.prefetch, prefetch, largest,
            )  # fmt: skip
        settings = WorkerSettings(args.max_batch, args.batch_wait_ms / 1000, prefetch, args.queue_type, largest)
        worker = Worker(
            broker, args.mq_queue, responder, settings, metrics, (lambda _batch: None) if args.quiet else _report
        )

        def announce() -> None:
            now = responder.limits.fingerprint  # later than at the start if a connection was lost
            precision = "" if args.quantize is None else f" ({args.quantize})"
            sentence = (
                f"ready: {architecture} {now[:12]}{precision} on {network.device}, queue {args.mq_queue} at {broker}"
            )
            facts = {"architecture": architecture, "fingerprint": now, "queue": args.mq_queue}
            logs.report(log, "ready", sentence, **facts, precision=args.quantize or "float32")

        stack.enter_context(shared_options.serve_metrics(args, metrics.registry, worker))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stop())
        worker.run(announce)
    _report_end(worker)


def _report_end(worker: "Worker") -> None:
    logs.report(
        log,
        "stopped",
        f"stopped: {worker.answered} requests answered, {worker.events} events, {worker.refused} refused, "
        f"{worker.dropped} dropped",
        answered=worker.answered,
        events=worker.events,
        refused=worker.refused,
        dropped=worker.dropped,
    )


def _prepare_responders(args: argparse.Namespace, metrics: "WorkerMetrics") -> "Callable[[Network], Responder]":
    """Return a function that makes a responder, with a cache of its own, for a network."""
    from offload.link.protocol import ACTIVATIONS, Limits, make_process_name
    from offload.link.responder import Responder
    from offload.networks.cache import Cache

    payloads = (ACTIVATIONS,) if args.second_segment_only else defaults.PAYLOADS
    caches = args.cache_size > 0 and not args.second_segment_only

    def make_responder(network: "Network") -> Responder:
        assert network.exit_2 is not None
        cache = Cache(args.cache_size, metrics.count_lookup) if caches else None
        limits = Limits(network.fingerprint, network.activation_shape, payloads)
        return Responder(network.exit_2, limits, make_process_name(), cache)

    return make_responder


@contextlib.contextmanager
def _follow(
    watch: "ReleaseWatch[Network]",
    first: "Responder",
    make_responder: "Callable[[Network], Responder]",
    metrics: "WorkerMetrics",
) -> "Iterator[Responder]":
    """Yield a responder that also serves later releases, and those that requests name."""
    from offload.link.release_responder import ReleaseResponder

    def change_over(opened: "Opened[Network]") -> None:
        responder.add(make_responder(opened.content), newest=True)
        metrics.name_network(opened.content.architecture, opened.content.fingerprint)
        opened.report_use()

    def add(opened: "Opened[Network]") -> None:
        responder.add(make_responder(opened.content), newest=False)
        sentence = f"a request names release {opened.release.name}, which was opened in {opened.seconds:.3f} s"
        logs.report(log, "release-opened", sentence, release=opened.release.name, seconds=round(opened.seconds, 6))

    def find(fingerprint: str) -> None:
        watch.open_for(fingerprint, add, lambda: responder.is_open(fingerprint))

    responder = ReleaseResponder(first, find)
    with watch.follow(change_over):
        yield responder


def _open_release(args: argparse.Namespace, release: "Release") -> "Network":
    from models.onnx_runtime import get_default_threads
    from offload.networks.release_network import open_release

    return open_release(release, args.network, args.threads or get_default_threads(), most=args.max_batch)


def _open_network(args: argparse.Namespace) -> "Network":
    """Open the network: a checkpoint, or an exported network, which needs no torch."""
    if cli.is_exported(args, args.trained_network_file):
        from models.onnx_runtime import get_default_threads
        from offload.networks.onnx_exits import open_exported

        if args.quantize is not None:
            raise InputFileError("--quantize is for a checkpoint; quantise an exported network when you export it")
        if args.second_exit_file is None:
            raise InputFileError("an exported network has its exit 2 in a second file; name it with --second-exit-file")
        threads = args.threads or get_default_threads()
        halves = args.trained_network_file, args.second_exit_file
        return open_exported(*halves, args.network, threads, most=args.max_batch)
    from offload.networks.torch_exits import open_checkpoint

    return open_checkpoint(
        args.trained_network_file, args.network, args.device, args.threads, most=args.max_batch,
        int8=args.quantize is not None,
    )  # fmt: skip


def _report(batch: "BatchReport") -> None:
    """Log a line for a batch, and one for each refusal in it."""
    for refusal in batch.refusals:
        logs.report(log, "refused", f"refused: {refusal.code}: {refusal.text}", code=refusal.code, text=refusal.text)
    if batch.requests:
        milliseconds, waited = 1000 * batch.seconds, 1000 * batch.waited
        logs.report(
            log,
            "batch",
            f"{batch.events} events of {batch.requests} requests, {batch.clients} clients in {milliseconds:.1f} ms, "
            f"waited {waited:.1f} ms",
            events=batch.events,
            requests=batch.requests,
            clients=batch.clients,
            milliseconds=round(milliseconds, 3),
            waited_milliseconds=round(waited, 3),
        )


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
