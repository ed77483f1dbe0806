r"""Turn captures into flow records: a dataset CSV that every other stage takes as it is.

Run:
    python dataset/extract-features.py --pcap capture.pcap --output saves/records.csv

A record is all IPv4 packets between two addresses in one window of 15 seconds, described by 58 features. Captures are
pcap or pcapng, in either byte order, plain or gzipped, of Ethernet, raw IP, Linux cooked or loopback links; several are
read one after the other, as the parts of one.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from utils import cli
from utils.errors import InputFileError
from utils.files import check_apart, check_readable, check_writable
from utils.schema import FEATURE_COUNT

if TYPE_CHECKING:
    from collections.abc import Callable

    from dataset.captures import Tally
    from dataset.extraction import Written


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--pcap", required=True, nargs="+", type=Path, metavar="FILE", help="captures, in the order of time")
    add("--output", required=True, type=Path, metavar="CSV", help="dataset CSV to write; .gz and .bz2 are compressed")
    add("--scaler", type=Path, metavar="JSON", help="scale by this file (default: as published)")
    add(
        "--fit-scaler",
        type=Path,
        metavar="JSON",
        help="write the least and greatest values of these records to this file, and scale by them unless told "
        "otherwise",
    )
    add("--raw", action="store_true", help="do not scale: microseconds, bytes and counts")
    add(
        "--clamp-size",
        action="store_true",
        help="bring frame sizes to 60 to 1514 bytes: frames captured on the host that sends them lie outside",
    )
    add("--identity", action="store_true", help="put window_start, address_a and address_b in front of the features")
    return parser


def run(args: argparse.Namespace) -> None:
    """Extract as the arguments say."""
    from dataset.captures import Tally
    from dataset.extraction import capture_records, write_records
    from dataset.scaling import PUBLISHED, fitted, read_scaler, write_scaler
    from dataset.windows import Windows
    from utils.records import Records

    start = time.perf_counter()
    if args.raw and args.scaler:
        raise InputFileError("--raw leaves the features as they are, and --scaler scales them; leave out one")
    output = check_writable(args.output)
    for written_to in (output, *([args.fit_scaler] if args.fit_scaler else [])):
        check_apart(written_to, [*args.pcap, *([args.scaler] if args.scaler else [])])
    scaler = read_scaler(args.scaler) if args.scaler else None if args.raw else PUBLISHED
    if args.fit_scaler:
        check_writable(args.fit_scaler)
    tally, windows = Tally(), Windows()
    with _bar(args.pcap) as progress:
        found = capture_records(args.pcap, tally, windows, clamp=args.clamp_size, progress=partial(progress, tally))
        records: Iterable[Records] = found
        fit = None
        if args.fit_scaler and (records := list(found)):
            fit = fitted(Records.joined(records).features)
            scaler = scaler if args.raw or args.scaler else fit
        written = write_records(records, output, scaler, identity=args.identity)
    if fit is not None:
        write_scaler(fit, args.fit_scaler)
        print(f"scaler -> {args.fit_scaler}")
    _summary(tally, windows.late, written, time.perf_counter() - start)
    print(f"{written.rows} records -> {output}")


@contextmanager
def _bar(paths: Sequence[Path]) -> "Iterator[Callable[[Tally, int, int], None]]":
    """Draw a progress bar of the bytes of some files; yield what to call with tally, file number and bytes read."""
    from tqdm import tqdm

    from utils.errors import CaptureError

    sizes = [check_readable(path, CaptureError).stat().st_size for path in paths]
    with tqdm(desc="captures", total=sum(sizes), unit="B", unit_scale=True, disable=None) as bar:

        def show(tally: "Tally", number: int, read: int) -> None:
            bar.set_postfix(packets=tally.packets, refresh=False)
            bar.update(sum(sizes[:number]) + read - bar.n)

        yield show


def _summary(tally: "Tally", late: int, written: "Written", seconds: float) -> None:
    truncated = f"; {tally.truncated} files end within a frame" if tally.truncated else ""
    print(
        f"{tally.packets} packets in {seconds:.1f} s: {tally.ipv4} IPv4, {tally.other} other, {tally.malformed} "
        f"malformed, {late} too late for their window{truncated}"
    )
    share = 100 * written.outside / (written.rows * FEATURE_COUNT)
    print(f"{written.windows} windows of 15 s; {share:.2f} % of the values lie outside the scaler's range")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
