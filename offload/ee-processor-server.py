r"""Cloud worker: answers for exit 2 what the edge is not certain of.

Run:
    python offload/ee-processor-server.py --mq-hostname localhost --trained-network-file saves/M_calibrated.pth \
        --network mobilenet

Start as many as needed on one queue: they share the load. SIGTERM or Ctrl-C finishes the running request, gives the
waiting ones back, and ends with exit code 0.
"""

import argparse
import os
import signal
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from offload import options
from utils import cli


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    options.add_network(parser)
    options.add_broker(parser, required=True)
    parser.add_argument("--quiet", action="store_true", help="leave out the line for each request")
    return parser


def run(args: argparse.Namespace) -> None:
    """Serve as the arguments say."""
    from models.checkpoint import read_two_exits
    from models.prediction import select_device
    from offload.cloud import Cloud
    from offload.worker import Worker

    broker = options.broker(args)
    device = select_device(args.device)
    network, checkpoint = read_two_exits(args.trained_network_file, args.network)
    cloud = Cloud(network.to(device), device, f"{socket.gethostname()[:100]}:{os.getpid()}")

    def answer(body: bytes, request_id: str) -> bytes:
        reply, line = cloud.answer(body, request_id)
        if not args.quiet:
            print(line, flush=True)
        return reply

    def announce() -> None:
        print(
            f"ready: {checkpoint.architecture.name} {cloud.limits.fingerprint[:12]} on {device}, "
            f"queue {args.mq_queue} at {broker}",
            flush=True,
        )

    worker = Worker(broker, args.mq_queue, answer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run(announce)
    print(
        f"stopped: {worker.answered} requests answered, {cloud.events} events, {cloud.refused} refused, "
        f"{worker.dropped} dropped"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
