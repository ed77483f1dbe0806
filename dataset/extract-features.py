#!/usr/bin/env python3
r"""Turn captures, or an interface's traffic, into flow records: a dataset CSV that every other stage takes as it is.

Run:
    python dataset/extract-features.py --pcap capture.pcap --output saves/records.csv

A record is all IPv4 packets between two addresses in one window of 15 seconds, described by 58 features. Captures are
pcap or pcapng, in either byte order, plain or gzipped, of Ethernet, raw IP, Linux cooked or loopback links; several are
read one after the other, as the parts of one. An interface is observed until SIGTERM, Ctrl-C or --duration, and then
the file is written.
"""

import argparse
import contextlib
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
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    traffic_options.add_sources(parser.add_mutually_exclusive_group(required=True))
    add = parser.add_argument
    add("--output", required=True, type=Path, metavar="CSV", help="dataset CSV to write; .gz and .bz2 are compressed")
    add(
        "--labels",
        type=Path,
        metavar="CSV",
        help="add the column class: attacks are what this CSV of MAWILab, or list of addresses or flows, names",
    )
    add(
        "--fit-scaler",
        type=Path,
        metavar="JSON",
        help="write the least and greatest values of these records to this file, and scale by them unless told "
        "otherwise",
    )
    add("--raw", action="store_true", help="do not scale: microseconds, bytes and counts")
    add("--identity", action="store_true", help="put window_start, address_a and address_b in front of the features")
    traffic_options.add_traffic(parser, ends=add_option)
    return parser


def run(args: argparse.Namespace) -> None:
    """Extract as the arguments say."""
    from dataset.records.dataset_csv import write_records
    from dataset.records.labels import read_labels
    from dataset.records.scaling import fit_scaler, write_scaler
    from dataset.records.traffic import observe
    from utils.records import Records
    from utils.stopping import Stop

    start = time.perf_counter()
    _check_files(args)
    traffic, labels = traffic_options.traffic(args), read_labels(args.labels) if args.labels else None
    scaler = None if args.raw else traffic_options.scaler(args)
    stop, failures = Stop(), list[CaptureError]()
    # The records of live traffic until a signal are worth writing; half of a capture is not.
    signals = stop.on_signals() if traffic.is_live else contextlib.nullcontext()
    with signals, observe(traffic, lambda: stop.requested) as observation:
        coming = _until_it_fails(observation.records, failures) if traffic.is_live else observation.records
        records: Iterable[Records] = (some for found in coming for some in found)
        fit = None
        if args.fit_scaler and (records := list(records)):
            fit = fit_scaler(Records.joined(records).features)
            scaler = scaler if args.raw or args.scaler else fit
        written = write_records(
            records, args.output, scaler, labels, identity=args.identity, explain_none=observation.explain_no_ipv4
        )
    if fit is not None:
        write_scaler(fit, args.fit_scaler)
        print(f"scaler -> {args.fit_scaler}")
    print(f"{observation.summarize()}, in {time.perf_counter() - start:.1f} s")
    _summary(written, labels)
    print(f"{written.rows} records -> {args.output}")
    if failures:
        raise failures[0]


def _until_it_fails(lists: "Iterator[list[Records]]", failures: "list[CaptureError]") -> "Iterator[list[Records]]":
    """Yield what is observed until an error, and note the error where there were records: they are worth writing."""
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
        raise InputFileError("--raw leaves the features as they are, and --scaler scales them; leave out one")
    check_distinct((args.output, args.fit_scaler))
    read = [path for path in (*(args.pcap or ()), args.scaler, args.labels) if path is not None]
    for written in (args.output, args.fit_scaler):
        if written is not None:
            check_apart(check_writable(written), read)
    check_table_ending(args.output)


def _summary(written: "WriteSummary", labels: "Labels | None") -> None:
    share = 100 * written.outside / (written.rows * FEATURE_COUNT)
    print(f"{written.windows} windows of 15 s; {share:.2f} % of the values lie outside the scaler's range")
    if labels is not None and written.attacks is not None:
        ignored = f"; {labels.ignored} lines on IPv6 left out" if labels.ignored else ""
        print(f"{written.attacks} attacks by the labels ({100 * written.attacks / written.rows:.2f} %){ignored}")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
