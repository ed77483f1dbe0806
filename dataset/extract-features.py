#!/usr/bin/env python3
r"""Turn captures, or the traffic of an interface, into records: a dataset CSV that every other stage reads.

Run:
    python dataset/extract-features.py --pcap capture.pcap --output saves/records.csv

A record is all IPv4 packets between two addresses in one window of 15 seconds, described by 58 features. Captures are
pcap or pcapng, plain or gzip-compressed, of Ethernet, raw IP, Linux cooked or loopback links; several captures are read
as consecutive parts of one. An interface is observed until SIGTERM, Ctrl-C or --duration; then the file is written.
"""

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from dataset import traffic_options
from utils import cli
from utils.errors import CaptureError, InputFileError
from utils.expert_options import add_option
from utils.files import check_apart, check_distinct, check_table_ending, check_writable
from utils.schema import FEATURE_COUNT

if TYPE_CHECKING:
    from dataset.records.dataset_csv import WriteSummary
    from dataset.records.labels import Labels
    from utils.records import Records


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = cli.new_parser(__doc__)
    traffic_options.add_sources(parser.add_mutually_exclusive_group(required=True))
    add = parser.add_argument
    add("--output", required=True, type=Path, metavar="CSV", help="dataset CSV to write; .gz and .bz2 are compressed")
    add(
        "--labels",
        type=Path,
        metavar="CSV",
        help="add the column class; this file, a CSV of MAWILab or a list of addresses or flows, names the attacks",
    )
    add(
        "--fit-scaler",
        type=Path,
        metavar="JSON",
        help="fit a scaler to these records and write it; it scales them unless --scaler or --raw is given",
    )
    add("--raw", action="store_true", help="do not scale: microseconds, bytes and counts")
    add("--identity", action="store_true", help="add window_start, address_a and address_b before the features")
    traffic_options.add_traffic(parser, add_end=add_option)
    return parser


def run(args: argparse.Namespace) -> None:
    """Extract the records and print a summary."""
    from dataset.records.dataset_csv import write_records
    from dataset.records.labels import read_labels
    from dataset.records.scaling import fit_scaler, write_scaler
    from dataset.records.traffic import observe
    from utils.records import Records
    from utils.stopping import Stop

    start = time.perf_counter()
    _check_files(args)
    traffic, labels = traffic_options.parse_traffic(args), read_labels(args.labels) if args.labels else None
    scaler = None if args.raw else traffic_options.load_scaler(args)
    stop, failures = Stop(), list[CaptureError]()
    # A signal completes the CSV of live traffic, but interrupts the extraction of a capture.
    signals = stop.on_signals() if traffic.is_live else contextlib.nullcontext()
    with signals, observe(traffic, lambda: stop.requested) as observation:
        closed = _defer_error(observation.records, failures) if traffic.is_live else observation.records
        records: Iterable[Records] = itertools.chain.from_iterable(closed)
        fit = None
        if args.fit_scaler and (records := list(records)):
            fit = fit_scaler(Records.concatenate(records).features)
            scaler = scaler if args.raw or args.scaler else fit
        written = write_records(
            records, args.output, scaler, labels, identity=args.identity, explain_none=observation.explain_no_ipv4
        )
    if fit is not None:
        write_scaler(fit, args.fit_scaler)
        print(f"scaler -> {args.fit_scaler}")
    print(f"{observation.summarize()}, in {time.perf_counter() - start:.1f} s")
    _print_summary(written, labels)
    print(f"{written.rows} records -> {args.output}")
    if failures:
        raise failures[0]


def _defer_error(lists: "Iterator[list[Records]]", failures: "list[CaptureError]") -> "Iterator[list[Records]]":
    """Yield the lists; add an error that follows records to ``failures``, so that these records are written first."""
    has_records = False
    try:
        for found in lists:
            has_records |= bool(found)
            yield found
    except CaptureError as failure:
        if not has_records:
            raise
        failures.append(failure)


def _check_files(args: argparse.Namespace) -> None:
    if args.raw and args.scaler:
        raise InputFileError("--raw and --scaler exclude each other; leave out one")
    check_distinct((args.output, args.fit_scaler))
    read = [path for path in (*(args.pcap or ()), args.scaler, args.labels) if path is not None]
    for written in (args.output, args.fit_scaler):
        if written is not None:
            check_apart(check_writable(written), read)
    check_table_ending(args.output)


def _print_summary(written: "WriteSummary", labels: "Labels | None") -> None:
    share = 100 * written.outside / (written.rows * FEATURE_COUNT)
    print(f"{written.windows} windows of 15 s; {share:.2f} % of the values lie outside the scaler's range")
    if labels is not None and written.attacks is not None:
        ignored = f"; {labels.ignored} lines about IPv6 ignored" if labels.ignored else ""
        print(f"{written.attacks} labelled attacks ({100 * written.attacks / written.rows:.2f} %){ignored}")


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
