r"""Edge client: decide what exit 1 is certain of, ask the cloud about the rest, reject what neither is certain of.

Run:
    python offload/ee-processor-client.py --mq-hostname localhost --trained-network-file saves/M_calibrated.pth \
        --network mobilenet --dataset dataset/sample/2016_03.csv --savefile saves/verdicts.csv

With --process-exit2-locally the edge runs exit 2 itself and no RabbitMQ is needed. Exit codes: 0 done, 2 wrong
arguments or files, 3 no broker or no worker, 4 user or password refused.
"""

import argparse
import contextlib
import logging
import os
import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from offload import options
from utils import cli
from utils.errors import InputFileError
from utils.files import check_writable, replacing
from utils.schema import Thresholds

if TYPE_CHECKING:
    import torch

    from models.early_exit import TwoExits


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    cli.add_dataset(parser)
    options.add_network(parser)
    cli.add_batch_size(parser)
    for exit_number, default in ((1, 0.95), (2, 0.98)):
        for name in ("normal", "attack"):
            parser.add_argument(
                f"--{name}-exit{exit_number}-min-certainty",
                type=cli.real_number(0, 1),
                default=default,
                metavar="C",
                help=f"least certainty at which exit {exit_number}'s answer {name} is accepted (default: %(default)s)",
            )
    parser.add_argument("--savefile", type=Path, metavar="CSV", help="offload CSV to write")
    parser.add_argument("--process-exit2-locally", action="store_true", help="run exit 2 here, without RabbitMQ")
    parser.add_argument("--debug", action="store_true", help="log each request and RabbitMQ's own reports")
    options.add_broker(parser, required=False)
    parser.add_argument(
        "--payload",
        choices=("features", "activations"),
        default="features",
        help="what is sent of an event: its 58 features (232 bytes), or segment 1's activations (default: %(default)s)",
    )
    parser.add_argument(
        "--request-timeout",
        type=cli.real_number(0.1, 86400),
        default=30.0,
        metavar="S",
        help="seconds to wait for a worker's answer (default: %(default)g)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Decide as the arguments say."""
    from tqdm import tqdm

    from models.checkpoint import read_two_exits
    from models.prediction import select_device
    from offload.edge import decide, tally, verdict_table
    from utils.dataset import read_dataset
    from utils.tables import COMPRESSIONS

    if args.debug:
        logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(name)s %(message)s")
        logging.getLogger("pika").setLevel(logging.INFO)
    if not args.process_exit2_locally and args.mq_hostname is None:
        raise InputFileError("no --mq-hostname: name the host of RabbitMQ, or add --process-exit2-locally")
    if args.savefile is not None:
        check_writable(args.savefile)
    device = select_device(args.device)
    network, _ = read_two_exits(args.trained_network_file, args.network)
    network.to(device)
    thresholds = Thresholds(
        args.normal_exit1_min_certainty,
        args.attack_exit1_min_certainty,
        args.normal_exit2_min_certainty,
        args.attack_exit2_min_certainty,
    )
    dataset = read_dataset(args.dataset)
    total = None
    with contextlib.ExitStack() as stack:
        second_exit = stack.enter_context(_second_exit(args, network, device))
        partial_csv = None if args.savefile is None else stack.enter_context(replacing(args.savefile))
        bar = stack.enter_context(tqdm(total=len(dataset), desc="events", unit="event", disable=None))
        for number, start in enumerate(range(0, len(dataset), args.batch_size), 1):
            rows = slice(start, start + args.batch_size)
            labels = None if dataset.labels is None else dataset.labels[rows]
            verdicts = decide(network, dataset.features[rows], thresholds, second_exit, device)
            counted = tally(verdicts, labels)
            total = counted if total is None else total + counted
            if partial_csv is not None:
                table = verdict_table(verdicts, labels)
                compression = COMPRESSIONS.get(args.savefile.suffix)
                table.to_csv(partial_csv, mode="a", header=start == 0, index=False, compression=compression)
            bar.write(f"batch {number}: {counted.summary()}\n{counted.table()}", file=sys.stdout)
            bar.update(counted.events)
    assert total is not None  # a dataset has rows
    print(f"total: {total.summary()}\n{total.table()}")
    if args.savefile is not None:
        print(f"{total.events} rows -> {args.savefile}")


@contextlib.contextmanager
def _second_exit(args: argparse.Namespace, network: "TwoExits", device: "torch.device"):  # type: ignore[no-untyped-def]
    from models.checkpoint import fingerprint
    from offload.edge import LocalSecondExit, RemoteSecondExit

    if args.process_exit2_locally:
        yield LocalSecondExit(network, device)
        return
    from offload.rabbitmq import RequestChannel

    client_id = f"{socket.gethostname()[:100]}:{os.getpid()}"
    with RequestChannel(options.broker(args), args.mq_queue) as channel:
        ask = partial(channel.ask, timeout=args.request_timeout)
        remote = RemoteSecondExit(ask, fingerprint(network), client_id, args.payload)
        yield remote
        print(f"link: {remote.bytes_sent / 1e6:.2f} MB sent, {remote.bytes_received / 1e6:.2f} MB received")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
