#!/usr/bin/env python3
r"""Load generator: many clients send requests to cloud workers; report round trips, events per second and errors.

Run:
    python offload/ee-client-generator.py --mq-hostname localhost --trained-network-file saves/M_calibrated.pth \
        --network mobilenet --dataset dataset/sample/2016_03.csv --clients 16 --batch-size 1 --count 200 \
        --savefile saves/load.csv --picture saves/load.png

Each client sends its own rows again and again, with one request in flight. Start the workers with --cache-size 0;
otherwise they compute these rows once and then answer from the cache. Exit codes: 0 all requests were answered, 2 wrong
arguments or files, 3 some requests were not answered, 4 the broker refuses user, password or certificate.
"""

import argparse
import contextlib
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from offload import broker_options, shared_options
from offload.operations import logs
from utils import cli
from utils.errors import CloudUnavailableError
from utils.files import check_table, check_writable

if TYPE_CHECKING:
    from offload.networks.exits import FloatArray, Network

log = logging.getLogger(__name__)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    cli.add_dataset(parser)
    shared_options.add_network(parser)
    add = parser.add_argument
    add("--clients", type=cli.whole_number(1, 256), default=4, metavar="N", help="(default: %(default)s)")
    add(
        "--batch-size",
        type=cli.whole_number(1, 1024),
        default=100,
        metavar="N",
        help="events of a request (default: %(default)s)",
    )
    add(
        "--interval",
        type=cli.real_number(0, 86400),
        default=0.0,
        metavar="S",
        help="seconds between the starts of a client's requests; 0: the next follows each reply (default: %(default)g)",
    )
    add(
        "--count",
        type=cli.whole_number(1),
        default=100,
        metavar="N",
        help="requests of each client (default: %(default)s)",
    )
    shared_options.add_payload(parser)
    shared_options.add_request_timeout(parser)
    add("--savefile", type=Path, metavar="CSV", help="table to write, a row for each request")
    add("--picture", type=Path, metavar="PICTURE", help="chart of the round trips over time and their distribution")
    broker_options.add_broker(parser)
    shared_options.add_monitoring(parser)
    parser.set_defaults(second_exit_file=None)  # cli.is_exported reads it; here is no such option
    return parser


def run(args: argparse.Namespace) -> None:
    """Run the load test that the arguments describe."""
    import numpy as np
    from tqdm import tqdm

    from offload.link.client import Client
    from offload.link.load import Pace, draw_load, send_requests, summarize_load, tabulate_results
    from offload.link.pending_requests import RetryPolicy
    from offload.link.protocol import RequestTemplate, make_process_name
    from offload.operations.metrics import ClientMetrics
    from utils.dataset import read_dataset
    from utils.plotting import check_format, save_figure
    from utils.results import write_table
    from utils.stopping import Stop

    logs.configure(json=args.log_format == "json", debug=args.debug)
    if args.savefile is not None:
        check_table(args.savefile)
    if args.picture is not None:
        check_format(check_writable(args.picture))
    shared_options.check_payload(args)
    broker = broker_options.read_broker(args)
    network = _open_network(args)
    logs.report(log, "device", f"device: {network.device}", device=network.device)
    dataset = read_dataset(args.dataset)
    rows = np.arange(args.clients * args.batch_size).reshape(args.clients, -1) % len(dataset)
    events = [_compute_payload(args, dataset.features[chosen], network) for chosen in rows]
    digest = network.fingerprint
    metrics = ClientMetrics(network.architecture, digest)
    retry_policy = RetryPolicy.from_options(args.request_timeout, args.retries)
    stop, pace = Stop(), Pace(args.count, args.interval)
    names = [f"{make_process_name()}.{number}" for number in range(args.clients)]
    templates = [RequestTemplate(digest, name, args.payload, args.half_precision) for name in names]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(broker, args.mq_queue, retry_policy, metrics)) for _ in names]
        stack.enter_context(shared_options.serve_metrics(args, metrics.registry, clients[0]))
        stack.enter_context(stop.on_signals())
        bar = stack.enter_context(tqdm(total=len(names) * args.count, desc="requests", unit="request", disable=None))
        results = send_requests(clients, templates, events, pace, stop, lambda done: bar.update(done - bar.n))
    table = tabulate_results(results)
    load = summarize_load(table)
    if args.log_format == "json":
        logs.report(log, "total", load.summarize().replace("\n", "; "), figures=vars(load))
    else:
        print(load.summarize())
    if args.savefile is not None:
        write_table(table, args.savefile)
    if args.picture is not None:
        title = f"{args.clients} clients, {args.batch_size} events a request ({args.payload})"
        save_figure(draw_load(title, table), args.picture)
    if load.errors:
        unanswered = load.requests - load.answered
        raise CloudUnavailableError(f"{unanswered} of {load.requests} requests were not answered: {load.failures}")


def _open_network(args: argparse.Namespace) -> "Network":
    if not cli.is_exported(args, args.trained_network_file):
        from offload.networks.torch_exits import open_checkpoint

        return open_checkpoint(args.trained_network_file, args.network, args.device)
    from offload.networks.onnx_exits import open_exported

    return open_exported(args.trained_network_file, None, args.network)


def _compute_payload(args: argparse.Namespace, features: "FloatArray", network: "Network") -> "FloatArray":
    """Return the tensor of a request about features (n, 58)."""
    import numpy as np

    if args.payload == "features":
        return features
    _, activations = network.exit_1(features)
    return activations(np.arange(len(features)))


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
