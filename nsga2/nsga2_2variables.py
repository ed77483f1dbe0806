#!/usr/bin/env python3
r"""Choose the four thresholds for least error and least time: the Pareto front, by NSGA-II or exactly.

Run:
    python nsga2/nsga2_2variables.py --min-acceptance 0.9 --solver exact \
        --eval-file saves/M_2016_02_evaluation.csv --savefile saves/M_front.sav

The result file holds the front; nsga2/gen-op-point-chart.py shows it.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from nsga2 import options
from utils import cli
from utils.files import check_writable, expand_pattern

if TYPE_CHECKING:
    from nsga2.objectives import Objectives
    from utils.results import Front

# NSGA-II compares all candidates with each other: 10,000 take 2 GB, ten times as many a hundred times that.
MOST_CANDIDATES = 10_000


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
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
        help="evaluation CSV, or a quoted pattern such as 'saves/*_evaluation.csv'; also several times: their rows are "
        "taken together",
    )
    add("--savefile", required=True, type=Path, metavar="FILE", help="result file to write (.sav)")
    add(
        "--solver",
        choices=("nsga2", "exact"),
        default="nsga2",
        help="nsga2: search, as published; exact: the true front (default: %(default)s)",
    )
    options.add_cost_model(parser)
    exact = parser.add_argument_group("exact")
    exact.add_argument(
        "--choices",
        type=cli.whole_number(2, 100_000),
        default=512,
        metavar="N",
        help="thresholds of a class at an exit that are tried; where more make a difference, it is said by how much "
        "the front can be off (default: %(default)s)",
    )
    nsga2 = parser.add_argument_group("nsga2")
    add = nsga2.add_argument
    add(
        "--offspring", type=cli.whole_number(1, MOST_CANDIDATES), default=80, metavar="N", help="(default: %(default)s)"
    )
    add("--gen", type=cli.whole_number(1), default=1000, metavar="N", help="generations (default: %(default)s)")
    add(
        "--population",
        type=cli.whole_number(2, MOST_CANDIDATES),
        default=100,
        metavar="N",
        help="(default: %(default)s)",
    )
    add(
        "--stall",
        type=cli.whole_number(1),
        metavar="N",
        help="stop after so many generations that found nothing better (default: do not)",
    )
    cli.add_seed(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Choose as the arguments say."""
    from nsga2.objectives import Objectives
    from utils.cost_models import MILLISECONDS
    from utils.results import read_evaluation, write_front

    savefile = check_writable(args.savefile)
    cost_per_offload = options.cost_per_offload(args)
    if args.offload_timings is not None and cost_per_offload is not None:
        print(f"the edge spends {cost_per_offload / MILLISECONDS:.3f} ms to send an event, by {args.offload_timings}")
    files = [path for given in args.eval_file for path in expand_pattern(given)]
    objectives = Objectives(read_evaluation(files), args.cost_model, cost_per_offload)
    front = (_exact if args.solver == "exact" else _searched)(objectives, args)
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
            "note: exit 2's path counts as the cheaper one here, so less normalised time is more time; "
            "a cost model that leaves head 1 out of it does that: see --cost-model full"
        )
    print(f"front -> {savefile}")


def _exact(objectives: "Objectives", args: argparse.Namespace) -> "Front":
    from tqdm import tqdm

    from nsga2.exact import exact_front

    with tqdm(desc="exact", unit="pair", unit_scale=True, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        found = exact_front(objectives, args.min_acceptance, args.choices, progress)
    if found.gap:
        late = f" at a time later by at most {found.time_gap:.2g}" if found.time_gap else ""
        print(
            f"bounded: no thresholds have an error lower by more than {100 * found.gap:.3f} percentage points{late}; "
            f"a greater --choices than {args.choices} narrows that"
        )
    else:
        print("exact: no thresholds are better than these in error or time without being worse in the other")
    return found.front


def _searched(objectives: "Objectives", args: argparse.Namespace) -> "Front":
    from tqdm import tqdm

    from nsga2.problem import ThresholdsProblem
    from nsga2.search import search

    problem = ThresholdsProblem(objectives, args.min_acceptance)
    with tqdm(total=args.gen, desc="NSGA-II", unit="generation", disable=None) as bar:

        def progress(area: float) -> None:
            bar.set_postfix(hypervolume=f"{area:.5f}", refresh=False)
            bar.update()

        return search(problem, args.population, args.offspring, args.gen, args.seed, args.stall, progress)


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
