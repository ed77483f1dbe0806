"""Show a front of thresholds: as a table, as a picture, and as the client's command line for the chosen point.

Run:
    python nsga2/gen-op-point-chart.py --datafile saves/M_front.sav --savefile saves/M_front.png --operation-point knee

Columns: quality (nearness to least error and least time, 1 is best), error of the accepted events, normalised time,
and the least certainties for the classes normal and attack at exits 1 and 2.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from utils import cli
from utils.errors import InputFileError

KNEE = "knee"
DEFAULT_POINT = 5


def _point(text: str) -> int | str:
    return KNEE if text == KNEE else cli.whole_number(0)(text)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--datafile", required=True, type=Path, metavar="FILE", help="NSGA-II result file (.sav)")
    add("--savefile", required=True, type=Path, metavar="PICTURE", help="picture to write: .png, .pdf or .svg")
    add(
        "--operation-point",
        type=_point,
        metavar="N",
        help=f"row of the table, or {KNEE}: the row of best quality (default: {DEFAULT_POINT}, or the last there is)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Show the front as the arguments say."""
    from nsga2.chart import client_command, front_figure, front_table, thresholds_of
    from utils.files import check_writable
    from utils.plotting import check_format, save_figure
    from utils.results import read_front

    savefile = check_format(check_writable(args.savefile))
    table = front_table(read_front(args.datafile))
    last = len(table) - 1
    if args.operation_point == KNEE:
        point = int(table["quality"].to_numpy().argmax())
    elif args.operation_point is None:
        point = min(DEFAULT_POINT, last)
    elif args.operation_point <= last:
        point = args.operation_point
    else:
        raise InputFileError(
            f"{args.datafile}: has no operation point {args.operation_point}; its front has the points 0 to {last}"
        )
    print(table.to_string(float_format="{:.4f}".format))
    print(f"\noperation point {point}:")
    print(table.loc[[point]].to_string(float_format="{:.6f}".format))
    print(f"\n{client_command(thresholds_of(table, point))}\n")
    print(f"picture -> {save_figure(front_figure(table, point, args.datafile.name), savefile)}")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
