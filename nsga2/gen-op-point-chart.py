#!/usr/bin/env python3
r"""Choose an operating point of a front, print its thresholds and the client's command line, and draw the front.

Run:
    python nsga2/gen-op-point-chart.py --datafile saves/M_front.sav --savefile saves/M_front.png --operation-point knee
    python nsga2/gen-op-point-chart.py --datafile saves/M_front.sav --savefile saves/M_front.html --max-error 0.07 \
        --evaluate saves/M_2016_03_evaluation.csv

Columns: the point's number, quality (100 * (1 - (error + time) / 2)), error of the accepted events, normalised time,
and the thresholds of the classes normal (n) and attack (a) at exits 1 and 2. Shares are numbers from 0 to 1. As
published, a point that another point dominates, or that has the same error and time as another, has no number.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from nsga2.defaults import NAMED_POINTS, NUMBERED_POINT
from nsga2.threshold_options import add_cost_model, find_cost_per_offload, parse_point
from utils import cli
from utils.errors import InputFileError

if TYPE_CHECKING:
    import pandas as pd

    from utils.schema import Thresholds

PAGE = ".html"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--datafile", required=True, type=Path, metavar="FILE", help="front to read (.sav)")
    add(
        "--savefile",
        required=True,
        type=Path,
        metavar="FILE",
        help="picture (.png, .pdf, .svg) or interactive page (.html) to write",
    )
    _add_choice(parser.add_argument_group("choice of the point"))
    _add_other_months(parser.add_argument_group("evaluation on other months"))
    add_cost_model(parser)
    return parser


def _add_choice(group: argparse._ArgumentGroup) -> None:
    add, share = group.add_argument, cli.real_number(0, 1)
    add(
        "--operation-point",
        type=parse_point,
        metavar="N",
        help=f"number of the point, or one of {', '.join(NAMED_POINTS)} (default: {NUMBERED_POINT}, or the last)",
    )
    add("--max-error", type=share, metavar="SHARE", help="choose the fastest point with at most this error")
    add(
        "--max-time",
        type=cli.real_number(0, 1e9),
        metavar="T",
        help="choose the point of least error with at most this normalised time; --max-error can be added",
    )
    add(
        "--max-offload",
        type=share,
        metavar="SHARE",
        help="the same for the share of offloaded events; needs --eval-file",
    )
    add(
        "--eval-file",
        action="append",
        type=Path,
        metavar="CSV",
        help="evaluation CSV that the front was found on, or a quoted pattern; adds acceptance and offloaded share to "
        "each point; can be repeated",
    )


def _add_other_months(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--evaluate",
        action="append",
        default=[],
        type=Path,
        metavar="CSV",
        help="evaluation CSV of another month to evaluate the point on; can be repeated",
    )
    add(
        "--single-exit",
        action="append",
        default=[],
        type=Path,
        metavar="CSV",
        help="evaluation CSV of the single-exit network to compare with, one for each --evaluate, in order",
    )
    add("--evaluation-savefile", type=Path, metavar="CSV", help="write the result of --evaluate as a table")


def run(args: argparse.Namespace) -> None:
    """Choose a point as the arguments say, print it, and draw the front."""
    from nsga2.operating_point import build_front_table, format_client_command, get_thresholds, label_point
    from utils.files import check_writable, expand_pattern
    from utils.plotting import check_format
    from utils.results import read_evaluation, read_front, write_table

    savefile = check_format(check_writable(args.savefile), PAGE)
    _check_other_months(args)
    front = read_front(args.datafile)
    files = [path for given in args.eval_file or () for path in expand_pattern(given)]
    table = build_front_table(front, read_evaluation(files) if files else None)
    row = _choose(table, args)
    thresholds = get_thresholds(table, row)
    shown = table.assign(point=table["point"].astype("string").fillna("-"))
    print(shown.to_string(index=False, float_format="{:.4f}".format))
    print(f"\noperation point {label_point(table, row)}:")
    print(table.drop(columns="point").loc[row].map("{:.7g}".format).to_string())
    print(f"\n{format_client_command(thresholds)}\n")
    elsewhere = _evaluate(args, thresholds) if args.evaluate else None
    if elsewhere is not None:
        _print_other_months(elsewhere)
        if args.evaluation_savefile:
            write_table(elsewhere, args.evaluation_savefile)
            print(f"table -> {args.evaluation_savefile}")
    _save(table, row, args.datafile.name, savefile, elsewhere)


def _check_other_months(args: argparse.Namespace) -> None:
    from utils.files import check_apart, check_table

    if args.single_exit and len(args.single_exit) != len(args.evaluate):
        raise InputFileError(
            f"{len(args.single_exit)} --single-exit for {len(args.evaluate)} --evaluate; give one for each, in order"
        )
    if args.evaluation_savefile:
        if not args.evaluate:
            raise InputFileError("--evaluation-savefile needs --evaluate, whose result it holds")
        check_apart(check_table(args.evaluation_savefile), [*args.evaluate, *args.single_exit, *(args.eval_file or ())])


def _choose(table: "pd.DataFrame", args: argparse.Namespace) -> int:
    from nsga2.operating_point import Limits, choose_within, find_point

    limits = Limits(args.max_error, args.max_time, args.max_offload)
    if not limits.list_given():
        return find_point(table, args.operation_point, args.datafile)
    if args.operation_point is not None:
        raise InputFileError("--operation-point names the point; leave it out, or leave out the --max options")
    return choose_within(table, limits)


def _evaluate(args: argparse.Namespace, thresholds: "Thresholds") -> "pd.DataFrame":
    from nsga2.operating_point import CostModel, evaluate_point
    from utils.results import read_evaluation, read_single_exit_evaluation

    evaluations = [read_evaluation([path]) for path in args.evaluate]
    singles = [read_single_exit_evaluation(path) for path in args.single_exit]
    for path, evaluation, single in zip(args.single_exit, evaluations, singles, strict=False):
        if len(evaluation) != len(single) or (evaluation.labels != single.labels).any():
            raise InputFileError(f"{path}: holds other rows than its --evaluate; give them in the same order")
    costs = CostModel(args.cost_model, find_cost_per_offload(args))
    return evaluate_point([path.stem for path in args.evaluate], evaluations, singles, thresholds, costs)


def _print_other_months(elsewhere: "pd.DataFrame") -> None:
    print("on other months (rates of accepted events, cost in µs per event):")
    for record in elsewhere.to_dict("records"):
        print(f"  {record.pop('data')}: {', '.join(_format_rate(str(name), value) for name, value in record.items())}")
    print()


def _format_rate(name: str, value: float) -> str:
    words = name.replace("_", " ")
    if name == "rows":
        return f"{value} {words}"
    return f"{words} {value:.1f} µs" if name == "cost" else f"{words} {100 * value:.2f} %"


def _save(table: "pd.DataFrame", row: int, name: str, savefile: Path, elsewhere: "pd.DataFrame | None") -> None:
    if savefile.suffix.lower() == PAGE:
        from nsga2.front_page import render_front_page
        from utils.page import write_page

        page = render_front_page(table, row, f"Operating points of {name}", elsewhere)
        print(f"page -> {write_page(page, savefile)}")
        return
    from nsga2.front_chart import draw_front
    from utils.plotting import save_figure

    print(f"picture -> {save_figure(draw_front(table, row, name), savefile)}")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
