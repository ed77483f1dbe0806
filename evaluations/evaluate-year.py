#!/usr/bin/env python3
r"""Choose the thresholds of trained networks on one month, and evaluate the networks on all later months.

Run:
    python evaluations/evaluate-year.py --trained-model saves/M_seed_1.pth saves/M_seed_2.pth saves/M_seed_3.pth \
        --dataset-folder dataset/sample --output saves/year

The networks must be calibrated and of one architecture, and should differ only in their training seed. They are
compared with baselines trained on the same months, and with each exit alone. The script prints whether exit 2 and
offloading pay off, and writes report.html, with pictures and tables, and year.csv, with every rate of every month.

With --policy, the script instead decides the later months in order of time, and reacts to what becomes known in
between; it writes policy.csv and policy.png. frozen: nothing changes. watched: kinds of events that become more
frequent are rejected, without labels. recertified: thresholds are certified again on the labels of past months.
renewed: the network is trained further on these labels, too. Gradient boosting does the same for comparison.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

import models
from evaluations import year_options
from evaluations.defaults import TRAIN_MONTH
from nsga2.defaults import KNEE, LEAST_ERROR, NAMED_POINTS, TOLERANCE
from nsga2.threshold_options import add_cost_model, find_cost_per_offload
from utils import cli
from utils.errors import InputFileError
from utils.files import check_writable, make_folder

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from dnn.renewal import RenewableNetwork
    from evaluations.later_months import Chooser
    from evaluations.networks import Origin
    from evaluations.policies import MonthResult, PolicySettings
    from evaluations.year_evaluation import Months, YearEvaluation
    from utils.labelled_rows import LabelledRows
    from utils.results import Evaluation
    from utils.schema import Thresholds


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add(
        "--trained-model",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE",
        help="calibrated checkpoints with two exits (.pth), one for each training seed; 3 or more are better",
    )
    add(
        "--model",
        type=cli.one_of(models.FAMILIES),
        metavar="{" + ",".join(models.FAMILIES) + "}",
        help="network that the checkpoints must hold (default: what the first says)",
    )
    add(
        "--single-exit",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="single-exit checkpoints of the same family to compare with: one, or one for each --trained-model",
    )
    add("--output", required=True, type=Path, metavar="D", help="folder for year.csv and report.html")
    _add_months(parser)
    year_options.add_intervals(parser)
    year_options.add_policy(parser.add_argument_group("policy"))
    add_cost_model(parser)
    cli.add_seed(parser)
    return parser


def _add_months(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dataset-folder", required=True, type=Path, metavar="D", help="folder of labelled CSVs, sorted by time")
    add(
        "--train-month",
        metavar="GLOB",
        help=f"months that the networks were trained on (default: what the checkpoints say, else {TRAIN_MONTH})",
    )
    add(
        "--choose-month",
        default="2016_02",
        metavar="MONTH",
        help="month that thresholds are chosen on; all later months are evaluated (default: %(default)s)",
    )
    add(
        "--min-acceptance",
        type=cli.real_number(0, 1),
        default=0.9,
        metavar="SHARE",
        help="least share of that month's events that the two exits must accept (default: %(default)s)",
    )
    add(
        "--operation-point",
        choices=NAMED_POINTS,
        help=f"point of the exact front (default: {KNEE}; with --policy {LEAST_ERROR})",
    )


def run(args: argparse.Namespace) -> None:
    """Evaluate the networks, write the report and print its conclusion."""
    import pandas as pd

    from evaluations.comparisons import build_year_table
    from evaluations.monthly_rates import average_months
    from evaluations.networks import read_origins, read_single_exit
    from evaluations.year_report import Method, Report
    from utils.page import write_page
    from utils.results import write_table

    start = time.perf_counter()
    folder = make_folder(args.output)
    args.operation_point = args.operation_point or (LEAST_ERROR if args.policy else KNEE)
    if args.policy:
        args.policy = list(dict.fromkeys(args.policy))
        _run_policies(args, folder)
        return
    table_file, page_file = (check_writable(folder / name) for name in ("year.csv", "report.html"))
    single_files = _check_single_exits(args)
    cost_per_offload = find_cost_per_offload(args)
    origins = read_origins(args.trained_model, args.model)
    singles = [read_single_exit(path, origins) for path in single_files]
    months = _read_months(args, origins)
    evaluation, comparisons = _evaluate(args, months, origins, singles, cost_per_offload)
    reference = "the single-exit network's" if singles else "the path to exit 2's"
    method = Method(args.min_acceptance, args.operation_point, args.bootstrap, args.resample == "vectors", reference)
    report = Report(origins, months, evaluation, comparisons, method)
    rates = pd.concat(
        (evaluation.on_choice, evaluation.on_later, average_months(evaluation.on_later)), ignore_index=True
    )
    write_table(build_year_table(rates, comparisons), table_file)
    write_page(report.render_page(), page_file)
    print(report.render_text())
    rows = sum(map(len, months.later))
    print(
        f"total: networks {len(origins)}, later months {len(months.later)}, rows {rows}, resamples {args.bootstrap}, "
        f"{time.perf_counter() - start:.0f} s -> {table_file}, {page_file}"
    )


def _check_single_exits(args: argparse.Namespace) -> list[Path]:
    if len(args.single_exit) not in {0, 1, len(args.trained_model)}:
        raise InputFileError(
            f"{len(args.single_exit)} --single-exit for {len(args.trained_model)} --trained-model; give one, or one "
            "for each, in order"
        )
    return list(args.single_exit)


def _read_months(args: argparse.Namespace, origins: "list[Origin]") -> "Months":
    from evaluations.months import find_training_files, make_calendar, read_month
    from evaluations.networks import find_training_months
    from evaluations.year_evaluation import Months

    files = find_training_files(args.dataset_folder, args.train_month, find_training_months(origins))
    training = read_month(files)
    plan = make_calendar(args.dataset_folder, files, args.choose_month)
    for origin in origins:
        plan.check_unused(origin.trained, origin.calibrated)
        said = " ".join(origin.trained)
        if said not in ("", training.name):
            print(f"note: {origin.path} says that it was trained on {said}, not on {training.name}")
    later = tuple(read_month([path], training) for path in plan.later)
    return Months(training, read_month([plan.choice], training), later)


def _evaluate(
    args: argparse.Namespace,
    months: "Months",
    origins: "list[Origin]",
    singles: "list[nn.Module]",
    cost_per_offload: float | None,
) -> "tuple[YearEvaluation, pd.DataFrame]":
    from tqdm import tqdm

    from dataset.records.scaling import PUBLISHED
    from evaluations.comparisons import compare
    from evaluations.year_evaluation import EvaluationSettings, evaluate_year

    system, exit_1_alone = (
        _make_chooser(point, args, cost_per_offload) for point in (args.operation_point, LEAST_ERROR)
    )
    settings = EvaluationSettings(
        args.min_acceptance, args.cost_model, cost_per_offload, system, exit_1_alone, PUBLISHED.unscale
    )
    vectors = sum(len(month.first) for month in (months.choice, *months.later))
    with tqdm(total=vectors * (len(origins) + len(singles)), desc="answers", unit="vector", disable=None) as bar:
        evaluation = evaluate_year(months, origins, singles, settings, bar.update)
    with tqdm(total=args.bootstrap * len(months.later), desc="bootstrap", unit="resample", disable=None) as bar:
        by_vector = args.resample == "vectors"
        return evaluation, compare(months.later, evaluation.decided, by_vector, args.bootstrap, args.seed, bar.update)


def _run_policies(args: argparse.Namespace, folder: Path) -> None:
    """Decide the later months with the policies, write the table and the picture, and print the summary."""
    from tqdm import tqdm

    from evaluations.networks import read_origins
    from evaluations.policies import MonthResult, run_policy
    from evaluations.policy_report import build_policy_table, draw_policies, list_certificates, summarise
    from evaluations.renewable_boosting import RenewableBoosting
    from utils.labelled_rows import read_rows
    from utils.plotting import save_figure
    from utils.results import write_table

    start = time.perf_counter()
    if args.single_exit:
        raise InputFileError("--single-exit: no policy renews single-exit networks; leave it or --policy out")
    table_file, picture = (check_writable(folder / name) for name in ("policy.csv", "policy.png"))
    origins = read_origins(args.trained_model, args.model)
    past, later = (list(map(read_rows, files)) for files in _find_policy_files(args, origins))
    settings = _make_policy_settings(args)
    results: list[MonthResult] = []
    rounds = len(args.policy) * (len(origins) + 1)
    with tqdm(total=rounds * len(later), desc="months", unit="month", disable=None) as bar:

        def report(result: MonthResult) -> None:
            results.append(result)
            tqdm.write(_describe_month(result))
            bar.update()

        for policy in args.policy:
            run_policy(policy, RenewableBoosting(past[:1]), past, later, settings, report)
        for number, origin in enumerate(origins, 1):
            learner = _make_learner(origin, number, past[-1], args.seed)
            for policy in args.policy:
                run_policy(policy, learner, past, later, settings, report)
                write_table(build_policy_table(results), table_file)
    write_table(build_policy_table(results), table_file)
    save_figure(draw_policies(results), picture)
    print(*list_certificates(results, args.max_error), sep="\n")
    print(summarise(results).to_string(index=False, float_format=lambda value: f"{value:.2f}", na_rep="-"))
    print(
        f"total: networks {len(origins)}, later months {len(later)}, policies {len(args.policy)}, "
        f"{time.perf_counter() - start:.0f} s -> {table_file}, {picture}"
    )


def _describe_month(result: "MonthResult") -> str:
    alarm = f", alarm after {result.until_alarm} events" if result.until_alarm else ""
    return (
        f"{result.network} {result.seed}, {result.policy}, {result.month}: accepted "
        f"{100 * result.counts.acceptance:.1f} %, error {100 * result.counts.error:.2f} %{alarm}"
    )


def _find_policy_files(args: argparse.Namespace, origins: "list[Origin]") -> tuple[list[Path], list[Path]]:
    """Return the files of training, of the months up to that of the choice, and of the later months."""
    from evaluations.months import find_training_files, make_calendar
    from evaluations.networks import find_training_months
    from utils.dataset import find_datasets

    training = find_training_files(args.dataset_folder, args.train_month, find_training_months(origins))
    plan = make_calendar(args.dataset_folder, training, args.choose_month)
    for origin in origins:
        plan.check_unused(origin.trained, origin.calibrated)
    known = [path for path in find_datasets(args.dataset_folder, "*") if path not in plan.later]
    return known[known.index(training[0]) :], list(plan.later)


def _make_policy_settings(args: argparse.Namespace) -> "PolicySettings":
    from evaluations.policies import PolicySettings
    from nsga2.certification import Goal, certify, split_rows
    from nsga2.objectives import Objectives

    cost = args.cost_model, find_cost_per_offload(args)
    choose = _make_chooser(args.operation_point, args, cost[1])

    def choose_certified(evaluation: "Evaluation") -> "Thresholds":
        proposing, testing = (
            Objectives(evaluation.take(rows), *cost) for rows in split_rows(len(evaluation), args.seed)
        )
        return certify(proposing, testing, Goal(args.max_error, 0.95)).thresholds

    return PolicySettings(
        lambda evaluation: choose(evaluation, args.min_acceptance), choose_certified, args.labels_per_month, TOLERANCE,
        args.seed,
    )  # fmt: skip


def _make_learner(origin: "Origin", number: int, choice: "LabelledRows", seed: int) -> "RenewableNetwork":
    """Return a network that can be renewed, with the costs of its parts, measured on the month of the choice."""
    import torch

    from calibration.temperature import fit_by_likelihood
    from dnn.renewal import RenewableNetwork, RenewalSettings
    from evaluations.exit_timing import measure_parts, split_network
    from evaluations.networks import read_network
    from utils.schema import EVALUATION_COLUMNS

    network = read_network(origin)
    table = measure_parts(split_network(network, torch.device("cpu")), choice.features, choice.labels, 1000)
    segment_1, exit_1, segment_2, exit_2 = (float(table[name].mean()) for name in EVALUATION_COLUMNS if "time" in name)
    family = models.ARCHITECTURES[origin.architecture].family
    costs = segment_1, exit_1, segment_2, exit_2
    return RenewableNetwork(
        network, family, origin.seed or str(number), costs, fit_by_likelihood, RenewalSettings(seed)
    )


def _make_chooser(point: str, args: argparse.Namespace, cost_per_offload: float | None) -> "Chooser":
    """Return the function that chooses a point of the exact front."""
    from nsga2.exact_front import find_exact_front
    from nsga2.objectives import Objectives
    from nsga2.operating_point import build_front_table, find_named_points, get_thresholds

    def choose(evaluation: "Evaluation", min_acceptance: float) -> "Thresholds":
        objectives = Objectives(evaluation, args.cost_model, cost_per_offload)
        found = find_exact_front(objectives, min_acceptance)
        if found.gap:
            print(
                f"note: with so many rows, the front is only exact to {100 * found.gap:.3f} percentage points of error"
            )
        table = build_front_table(found.front)
        return get_thresholds(table, find_named_points(table)[point])

    return choose


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
