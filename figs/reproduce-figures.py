#!/usr/bin/env python3
"""Draw the paper's figures from a folder of results: each as a picture, with its data as CSV and its caption as text.

Run:
    python figs/reproduce-figures.py --results results --output figures

The paper is "An Energy-efficient Intrusion Detection Offloading Based on an Early-Exit DNN for Edge-Cloud Computing".
figs/make-results.py makes a folder of results; the folder that holds the published evaluations/ and nsga2/ can be used,
too. A figure whose files are missing is not drawn, and the script says which files it looked for.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from nsga2.defaults import KNEE, NAMED_POINTS
from nsga2.threshold_options import parse_point
from utils import cli
from utils.errors import InputFileError
from utils.files import make_folder, replacing

if TYPE_CHECKING:
    from figs.figure_data import Inputs, OperatingPoint

NAMES = (
    "single-exit-by-month", "inference-rate", "reliability", "pareto-front", "operating-point-by-month",
    "rejection-by-month", "offload-time", "energy",
)  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--results", required=True, type=Path, metavar="DIR", help="folder of results")
    add("--output", required=True, type=Path, metavar="DIR", help="folder for the figures")
    add(
        "--only",
        nargs="+",
        type=cli.one_of(NAMES),
        default=[],
        metavar="NAME",
        help=f"draw only these: {', '.join(NAMES)} (default: all)",
    )
    add("--format", choices=("png", "pdf", "svg"), default="png", help="format of the pictures (default: %(default)s)")
    add(
        "--operation-point",
        type=parse_point,
        default=KNEE,
        metavar="N",
        help="operating point of the networks: its number, which nsga2/gen-op-point-chart.py prints, or one of "
        f"{', '.join(NAMED_POINTS)} (default: %(default)s)",
    )
    add(
        "--watts",
        type=cli.real_number(0, 1e6, open_ends=True),
        metavar="W",
        help="power of the edge's busy processor, for the figure energy (default: none; processor time stands for "
        "energy)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Draw the figures that the arguments name."""
    from tqdm import tqdm

    from figs.figure_data import Inputs
    from figs.recipes import RECIPES
    from figs.results_folder import find_results

    results = find_results(args.results)
    output = make_folder(args.output)
    for path in results.ignored:
        print(f"ignored: {path} does not have the name of a file in a results folder")
    points = {network: _choose_point(path, args) for network, path in results.fronts.items()}
    inputs = Inputs(results, {name: points[name] for name in results.networks if name in points}, args.watts)
    asked = list(dict.fromkeys(args.only)) or list(NAMES)
    absent = []
    with tqdm(asked, desc="figures", unit="figure", disable=None) as bar:
        for name in bar:
            caption = _write_figure(name, inputs, output, args.format)
            if caption is None:
                absent.append(name)
                caption = f"not drawn: there is no {RECIPES[name].looks_for} in {results.folder}"
            with tqdm.external_write_mode(sys.stdout):
                print(f"{name}: {caption}", flush=True)
    print(f"{len(asked) - len(absent)} of {len(asked)} figures -> {output}")
    if absent and (args.only or len(absent) == len(asked)):
        raise InputFileError(f"{args.results}: lacks the files for {', '.join(absent)}; add the files named above")


def _choose_point(path: Path, args: argparse.Namespace) -> "OperatingPoint":
    from figs.figure_data import OperatingPoint
    from nsga2.operating_point import build_front_table, find_point, get_thresholds, label_point
    from utils.results import read_front

    table = build_front_table(read_front(path))
    row = find_point(table, args.operation_point, path)
    return OperatingPoint(path, table, row, label_point(table, row), get_thresholds(table, row))


def _write_figure(name: str, inputs: "Inputs", output: Path, ending: str) -> str | None:
    """Write a figure's three files; return its caption and path, or None if there is nothing to draw."""
    from figs.recipes import RECIPES, draw_figure, format_caption
    from utils.plotting import save_figure
    from utils.results import write_table

    recipe = RECIPES[name]
    data = recipe.collect(inputs)
    if data.table.empty:
        return None
    text = format_caption(data, inputs.results)
    picture = save_figure(draw_figure(recipe, data, inputs.results), output / f"{name}.{ending}")
    write_table(data.table, output / f"{name}.csv")
    with replacing(output / f"{name}.txt") as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    return f"{text} -> {picture}"


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
