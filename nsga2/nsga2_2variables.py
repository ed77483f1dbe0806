#!/usr/bin/env python3
r"""Find the Pareto front of the four thresholds for least error and least time, with NSGA-II or exactly.

Run:
    python nsga2/nsga2_2variables.py --min-acceptance 0.9 --solver exact \
        --eval-file saves/M_2016_02_evaluation.csv --savefile saves/M_front.sav

nsga2/gen-op-point-chart.py shows the front and chooses a point.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from nsga2.defaults import GRID_SIZE
from nsga2.threshold_options import add_cost_model, find_cost_per_offload
from utils import cli
from utils.files import check_writable, expand_pattern

if TYPE_CHECKING:
    from nsga2.objectives import Objectives
    from utils.results import Front

# NSGA-II compares every two candidates: 10,000 take 2 GB of memory, and ten times as many take a hundred times that.
MOST_CANDIDATES = 10_000


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add(
        "--min-acceptance",
        type=cli.real_number(0, 1),
        default=0.7,
        metavar="SHARE",
        help="least share of the events that must be accepted (default: %(default)s)",
    )
    add(
        "--eval-file",
        required=True,
        action="append",
        type=Path,
        metavar="CSV",
        help="evaluation CSV, or a quoted pattern such as 'saves/*_evaluation.csv'; can be repeated, rows are pooled",
    )
    add("--savefile", required=True, type=Path, metavar="FILE", help="front to write (.sav)")
    add(
        "--solver",
        choices=("nsga2", "exact"),
        default="nsga2",
        help="nsga2: search, as published; exact: the true front (default: %(default)s)",
    )
    add_cost_model(parser)
    _add_exact(parser.add_argument_group("exact"))
    _add_search(parser.add_argument_group("nsga2"))
    cli.add_seed(parser)
    return parser


def _add_exact(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--choices",
        type=cli.whole_number(2, 100_000),
        default=GRID_SIZE,
        metavar="N",
        help="most thresholds of a class at an exit to try; if more make a difference, the script prints by how much "
        "the front can be off (default: %(default)s)",
    )


def _add_search(group: argparse._ArgumentGroup) -> None:
    add, count = group.add_argument, cli.whole_number(2, MOST_CANDIDATES)
    add(
        "--offspring",
        type=cli.whole_number(1, MOST_CANDIDATES),
        default=80,
        metavar="N",
        help="new candidates per generation (default: %(default)s)",
    )
    add("--gen", type=cli.whole_number(1), default=1000, metavar="N", help="generations (default: %(default)s)")
    add("--population", type=count, default=100, metavar="N", help="candidates kept (default: %(default)s)")
    add(
        "--stall",
        type=cli.whole_number(1),
        metavar="N",
        help="stop after this many generations without improvement (default: never)",
    )


def run(args: argparse.Namespace) -> None:
    """Find the front and write it."""
    from nsga2.objectives import Objectives
    from utils.cost_models import MILLISECONDS
    from utils.results import read_evaluation, write_front

    savefile = check_writable(args.savefile)
    cost_per_offload = find_cost_per_offload(args)
    if args.offload_timings is not None and cost_per_offload is not None:
        print(f"the edge spends {cost_per_offload / MILLISECONDS:.3f} ms to send an event, by {args.offload_timings}")
    files = [path for given in args.eval_file for path in expand_pattern(given)]
    objectives = Objectives(read_evaluation(files), args.cost_model, cost_per_offload)
    front = (_solve if args.solver == "exact" else _search)(objectives, args)
    write_front(front, savefile)
    error, time = front.objectives.T
    print(
        f"{len(front)} points from {objectives.rows} rows of {len(files)} files: error {100 * error.min():.2f} to "
        f"{100 * error.max():.2f} % of the accepted, normalised time {time.min():.3f} to {time.max():.3f}"
    )
    print(
        f"all at exit 1: error {100 * (1 - front.accuracy_1):.2f} %, {front.min_time:.1f} µs an event; "
        f"all at exit 2: error {100 * (1 - front.accuracy_2):.2f} %, {front.max_time:.1f} µs"
    )
    if front.max_time < front.min_time:
        print(
            "note: the path to exit 2 counts as the cheaper one here, so less normalised time means more time; "
            "this happens because the cost model leaves out head 1: see --cost-model full"
        )
    print(f"front -> {savefile}")


def _solve(objectives: "Objectives", args: argparse.Namespace) -> "Front":
    from tqdm import tqdm

    from nsga2.exact_front import find_exact_front

    with tqdm(desc="exact", unit="pair", unit_scale=True, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        found = find_exact_front(objectives, args.min_acceptance, args.choices, progress)
    if found.gap:
        slower = f" at a time higher by at most {found.time_gap:.2g}" if found.time_gap else ""
        print(
            f"bounded: no thresholds have an error lower by more than {100 * found.gap:.3f} percentage points{slower}; "
            f"increase --choices (now {args.choices}) to narrow that"
        )
    else:
        print("exact: no thresholds are better than these in error or time without being worse in the other")
    return found.front


def _search(objectives: "Objectives", args: argparse.Namespace) -> "Front":
    from tqdm import tqdm

    from nsga2.problem import ThresholdsProblem
    from nsga2.search import search_front

    problem = ThresholdsProblem(objectives, args.min_acceptance)
    with tqdm(total=args.gen, desc="NSGA-II", unit="generation", disable=None) as bar:

        def progress(area: float) -> None:
            bar.set_postfix(hypervolume=f"{area:.5f}", refresh=False)
            bar.update()

        return search_front(problem, args.population, args.offspring, args.gen, args.seed, args.stall, progress)


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
