r"""Search the four thresholds for least error and least time, with NSGA-II.

Run:
    python nsga2/nsga2_2variables.py --min-acceptance 0.9 \
        --eval-file saves/M_2016_02_evaluation.csv --savefile saves/M_front.sav

The result file holds the Pareto front; nsga2/gen-op-point-chart.py shows it.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from utils import cli
from utils.files import check_writable

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
        help="evaluation CSV; given several times, their rows are taken together",
    )
    add("--savefile", required=True, type=Path, metavar="FILE", help="result file to write (.sav)")
    add(
        "--offspring", type=cli.whole_number(1, MOST_CANDIDATES), default=80, metavar="N", help="(default: %(default)s)"
    )
    add(
        "--gen",
        type=cli.whole_number(1),
        default=1000,
        metavar="N",
        help="generations (default: %(default)s)",
    )
    add(
        "--population",
        type=cli.whole_number(2, MOST_CANDIDATES),
        default=100,
        metavar="N",
        help="(default: %(default)s)",
    )
    add(
        "--cost-model",
        choices=("paper", "full"),
        default="paper",
        help="paper: an offloaded event's time leaves out head 1, as published; full: counts it (default: %(default)s)",
    )
    cli.add_seed(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Search as the arguments say."""
    from tqdm import tqdm

    from nsga2.objectives import Objectives
    from nsga2.problem import ThresholdsProblem
    from nsga2.search import search
    from utils.results import read_evaluation, write_front

    savefile = check_writable(args.savefile)
    objectives = Objectives(read_evaluation(args.eval_file), args.cost_model)
    problem = ThresholdsProblem(objectives, args.min_acceptance)
    with tqdm(total=args.gen, desc="NSGA-II", unit="generation", disable=None) as bar:
        front = search(problem, args.population, args.offspring, args.gen, args.seed, bar.update)
    write_front(front, savefile)
    error, time = front.objectives.T
    print(
        f"{len(front)} points: error {100 * error.min():.2f} to {100 * error.max():.2f} % of the accepted, "
        f"normalised time {time.min():.3f} to {time.max():.3f}"
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


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
