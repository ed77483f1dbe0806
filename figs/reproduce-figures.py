#!/usr/bin/env python3
"""Draw the paper's figures from a folder of results: each a picture, its numbers as CSV, and its caption.

Run:
    python figs/reproduce-figures.py --results results --output figures

The paper is "An Energy-efficient Intrusion Detection Offloading Based on an Early-Exit DNN for Edge-Cloud Computing".
A folder of results is what figs/make-results.py makes, or the published evaluations/ and nsga2/. What is not there is
left out, and named.
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
    from figs.figure_data import Material, OperatingPoint

NAMES = (
    "single-exit-by-month",
    "inference-rate",
    "reliability",
    "pareto-front",
    "operating-point-by-month",
    "rejection-by-month",
    "offload-time",
    "energy",
)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--results", required=True, type=Path, metavar="DIR", help="folder of results")
    add("--output", required=True, type=Path, metavar="DIR", help="where the figures go")
    add(
        "--only",
        nargs="+",
        type=cli.one_of(NAMES),
        default=[],
        metavar="NAME",
        help=f"draw these alone: {', '.join(NAMES)}",
    )
    add("--format", choices=("png", "pdf", "svg"), default="png", help="of the pictures (default: %(default)s)")
    add(
        "--operation-point",
        type=parse_point,
        default=KNEE,
        metavar="N",
        help="number of the front's point at which the networks are shown (nsga2/gen-op-point-chart.py prints it), "
        f"or one of {', '.join(NAMED_POINTS)} (default: %(default)s)",
    )
    add(
        "--watts",
        type=cli.real_number(0, 1e6, open_ends=True),
        metavar="W",
        help="power of the edge's processor when busy, with which its time is turned into energy in the figure energy "
        "(default: none is assumed, processor time stands for energy)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Draw as the arguments say."""
    from tqdm import tqdm

    from figs.figure_data import Material
    from figs.recipes import RECIPES
    from figs.results_folder import find_results

    results = find_results(args.results)
    output = make_folder(args.output)
    for path in results.ignored:
        print(f"ignored: {path} is not named as a file of a results folder is")
    points = {network: _operating_point(path, args) for network, path in results.fronts.items()}
    material = Material(results, {name: points[name] for name in results.networks if name in points}, args.watts)
    asked = list(dict.fromkeys(args.only)) or list(NAMES)
    absent = []
    with tqdm(asked, desc="figures", unit="figure", disable=None) as bar:
        for name in bar:
            caption = _make(name, material, output, args.format)
            if caption is None:
                absent.append(name)
                caption = f"not drawn, nothing is there to draw: {RECIPES[name].looks_for} in {results.folder}"
            with tqdm.external_write_mode(sys.stdout):
                print(f"{name}: {caption}", flush=True)
    print(f"{len(asked) - len(absent)} of {len(asked)} figures -> {output}")
    if absent and (args.only or len(absent) == len(asked)):
        raise InputFileError(f"{args.results}: has nothing to draw {', '.join(absent)} from; the files are named above")


def _operating_point(path: Path, args: argparse.Namespace) -> "OperatingPoint":
    from figs.figure_data import OperatingPoint
    from nsga2.operating_point import find_point, front_table, label_point, thresholds_of
    from utils.results import read_front

    table = front_table(read_front(path))
    row = find_point(table, args.operation_point, path)
    return OperatingPoint(path, table, row, label_point(table, row), thresholds_of(table, row))


def _make(name: str, material: "Material", output: Path, ending: str) -> str | None:
    """Write a figure's three files; return its caption and path, or None where there is nothing to draw."""
    from figs.recipes import RECIPES, caption, figure_of
    from utils.plotting import save_figure
    from utils.results import write_table

    recipe = RECIPES[name]
    numbers = recipe.numbers(material)
    if numbers.table.empty:
        return None
    text = caption(numbers, material.results)
    picture = save_figure(figure_of(recipe, numbers, material.results), output / f"{name}.{ending}")
    write_table(numbers.table, output / f"{name}.csv")
    with replacing(output / f"{name}.txt") as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    return f"{text} -> {picture}"


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
