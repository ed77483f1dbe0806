r"""Edge client: decide what exit 1 is certain of, ask the cloud about the rest, reject what neither is certain of.

Run:
    python offload/ee-processor-client.py --mq-hostname localhost --trained-network-file saves/M_calibrated.pth \
        --network mobilenet --dataset dataset/sample/2016_03.csv --savefile saves/verdicts.csv

Rows are written in order, as they are decided. Where the cloud does not answer, the edge runs exit 2 itself, or what
--on-cloud-failure says. SIGTERM or Ctrl-C waits for what is under way, writes it, and ends with exit code 0; --resume
goes on from there. With --process-exit2-locally no RabbitMQ is needed. Exit codes: 0 done, 2 wrong arguments or files,
3 the cloud did not answer (with --on-cloud-failure wait), 4 the broker refuses user, password or certificate.
"""

import argparse
import contextlib
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from offload import logs, options
from utils import cli
from utils.errors import InputFileError
from utils.schema import DECIDER_COLUMNS, OFFLOAD_COLUMNS, Thresholds

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from models.early_exit import TwoExits
    from offload.metrics import ClientMetrics
    from offload.second_exit import SecondExit
    from offload.verdicts import Tally, Verdicts
    from offload.verdicts_file import VerdictsFile

log = logging.getLogger(__name__)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    cli.add_dataset(parser)
    options.add_network(parser)
    cli.add_batch_size(parser)
    add = parser.add_argument
    for exit_number, default in ((1, 0.95), (2, 0.98)):
        for name in ("normal", "attack"):
            add(
                f"--{name}-exit{exit_number}-min-certainty",
                type=cli.real_number(0, 1),
                default=default,
                metavar="C",
                help=f"least certainty at which exit {exit_number}'s answer {name} is accepted (default: %(default)s)",
            )
    add("--savefile", type=Path, metavar="CSV", help="offload CSV to write")
    add("--resume", action="store_true", help="continue the --savefile of an interrupted run")
    add("--show-decider", action="store_true", help="add the columns decider and reason to the CSV")
    add("--process-exit2-locally", action="store_true", help="run exit 2 here, without RabbitMQ")
    options.add_broker(parser, required=False)
    options.add_asking(parser)
    options.add_watching(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Decide as the arguments say."""
    from tqdm import tqdm

    from models.checkpoint import fingerprint, read_two_exits
    from models.packing import pack_linear_layers
    from models.prediction import select_device
    from offload.edge import Edge
    from offload.metrics import ClientMetrics
    from offload.verdicts import Tally, verdict_table
    from offload.verdicts_file import resume
    from utils.dataset import read_dataset
    from utils.stopping import Stop

    logs.configure(json=args.log_format == "json", debug=args.debug)
    savefile = _savefile(args)
    device = select_device(args.device)
    network, checkpoint = read_two_exits(args.trained_network_file, args.network)
    network.to(device)
    pack_linear_layers(network)
    dataset = read_dataset(args.dataset)
    metrics = ClientMetrics(checkpoint.architecture.name, fingerprint(network))
    stop, done, total = Stop(args.drain_timeout), 0, Tally.of_nothing(labelled=dataset.labels is not None)
    with contextlib.ExitStack() as stack:
        stack.enter_context(stop.on_signals())
        second_exit = stack.enter_context(_second_exit(args, network, device, metrics))
        edge = Edge(network, _thresholds(args), second_exit, device)
        if savefile is not None:
            stack.enter_context(savefile)
            done = resume(savefile, dataset, edge) if args.resume else 0
        bar = stack.enter_context(tqdm(total=len(dataset), initial=done, desc="events", unit="event", disable=None))
        batches = (dataset.features[i : i + args.batch_size] for i in range(done, len(dataset), args.batch_size))
        for number, verdicts in enumerate(edge.decide_all(batches, args.window, stop), 1):
            labels = None if dataset.labels is None else dataset.labels[done : done + len(verdicts)]
            if savefile is not None:
                savefile.append(verdict_table(verdicts, labels, deciders=args.show_decider))
            done += len(verdicts)
            _count(verdicts, metrics)
            counted = Tally.of(verdicts, labels)
            total += counted
            with tqdm.external_write_mode(sys.stdout):
                _report(f"batch {number}", counted, args)
            bar.update(counted.events)
    _report("total", total, args)
    if stop.requested:
        log.warning("stopped after %d of %d events%s", done, len(dataset), "; go on with --resume" if savefile else "")
    if savefile is not None and savefile.rows:
        logs.report(log, "saved", f"{savefile.rows} rows -> {savefile.path}", rows=savefile.rows)


def _savefile(args: argparse.Namespace) -> "VerdictsFile | None":
    from offload.verdicts_file import VerdictsFile

    if not args.process_exit2_locally and args.mq_hostname is None:
        raise InputFileError("no --mq-hostname: name the host of RabbitMQ, or add --process-exit2-locally")
    options.check_payload(args)
    if args.savefile is None:
        if args.resume:
            raise InputFileError("--resume continues a --savefile; name it")
        return None
    return VerdictsFile(args.savefile, (*OFFLOAD_COLUMNS, *DECIDER_COLUMNS) if args.show_decider else OFFLOAD_COLUMNS)


def _thresholds(args: argparse.Namespace) -> Thresholds:
    return Thresholds(
        args.normal_exit1_min_certainty,
        args.attack_exit1_min_certainty,
        args.normal_exit2_min_certainty,
        args.attack_exit2_min_certainty,
    )


@contextlib.contextmanager
def _second_exit(
    args: argparse.Namespace, network: "TwoExits", device: "torch.device", metrics: "ClientMetrics"
) -> "Iterator[SecondExit]":
    """Yield who answers for exit 2, while the process can be watched."""
    from models.checkpoint import fingerprint
    from offload.client import Client, Patience
    from offload.second_exit import CloudSecondExit, LocalSecondExit, Sending

    local = LocalSecondExit(network, device)
    if args.process_exit2_locally:
        with options.watched(args, metrics.registry, local):
            yield local
        return
    patience = Patience.of(
        args.request_timeout, args.retries, args.wait_timeout if args.on_cloud_failure == "wait" else None
    )
    client = Client(options.broker(args), args.mq_queue, patience, metrics)
    sending = Sending(fingerprint(network), options.own_name(), args.payload, args.half_precision)
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


def _report(name: str, counted: "Tally", args: argparse.Namespace) -> None:
    if args.log_format == "json":
        logs.report(log, name.split()[0], f"{name}: {counted.summary()}", figures=counted.fields())
    else:
        print(f"{name}: {counted.summary()}\n{counted.table()}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
