#!/usr/bin/env python3
r"""Certify four thresholds: with a stated confidence, the error of accepted events is at most a limit.

Run:
    python nsga2/certify-thresholds.py --max-error 0.08 --trained-model saves/calibrated.pth \
        --eval-file saves/evaluation.csv --savefile saves/policy.json --report saves/policy.png

A random part of the rows proposes thresholds, and the others test them. Of the certified thresholds, the script chooses
those that accept the most events or, with --min-acceptance, the cheapest ones that accept this share. The certificate
holds for traffic like that of the evaluation CSV, for as long as the traffic and its labels do not change.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from nsga2.defaults import TOLERANCE
from nsga2.threshold_options import add_cost_model, find_cost_per_offload
from utils import cli
from utils.errors import InputFileError
from utils.files import check_apart, check_writable, expand_pattern

if TYPE_CHECKING:
    from nsga2.certification import Certified, Goal
    from nsga2.objectives import Objectives
    from utils.traffic_reference import Reference

METHOD = "learn-then-test, fixed sequence, exact for the next events, as many as accepted"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add(
        "--eval-file",
        required=True,
        action="append",
        type=Path,
        metavar="CSV",
        help="evaluation CSV of labelled rows, or a quoted pattern; can be repeated, rows are pooled",
    )
    add(
        "--max-error",
        required=True,
        type=cli.real_number(0, 1, open_ends=True),
        metavar="SHARE",
        help="limit of the error of accepted events",
    )
    add(
        "--confidence",
        type=cli.real_number(0.5, 1, open_ends=True),
        default=0.95,
        metavar="SHARE",
        help="probability with which the limit holds (default: %(default)s)",
    )
    add(
        "--min-acceptance",
        type=cli.real_number(0, 1),
        metavar="SHARE",
        help="choose the cheapest certified thresholds that accept this share (default: those that accept the most)",
    )
    add(
        "--propose-from",
        action="append",
        type=Path,
        metavar="CSV",
        help="evaluation CSV of other rows to propose thresholds from, so that all rows of --eval-file test them; can "
        "be repeated",
    )
    _add_policy(parser.add_argument_group("policy"))
    add_cost_model(parser)
    cli.add_seed(parser)
    return parser


def _add_policy(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--trained-model", type=Path, metavar="FILE", help="the network (.pth), whose fingerprint the policy then holds"
    )
    add(
        "--dataset",
        action="append",
        type=Path,
        metavar="CSV",
        help="dataset that --eval-file evaluates, so that the client can watch whether the traffic changes; one for "
        "each file, in order",
    )
    add(
        "--tolerance",
        type=cli.real_number(0, 0.5, open_ends=True),
        default=TOLERANCE,
        metavar="SHARE",
        help="largest change of the share of a kind of event that is not reported (default: %(default)s)",
    )
    add("--savefile", required=True, type=Path, metavar="JSON", help="policy to write")
    add("--report", type=Path, metavar="FILE", help="picture of certified error against acceptance (.png, .pdf, .svg)")


def run(args: argparse.Namespace) -> None:
    """Certify thresholds, and write the policy."""
    from nsga2.certification import Goal, certify
    from utils.plotting import check_format, save_figure
    from utils.policy import Certificate, Policy, compute_digests, write_policy

    files, others = _list_files(args.eval_file), _list_files(args.propose_from or [])
    inputs = [*files, *others, *(args.dataset or []), *([args.trained_model] if args.trained_model else [])]
    for output in (args.savefile, args.report):
        if output is not None:
            check_apart(check_writable(output), inputs)
    if args.report is not None:
        check_format(args.report)
    fingerprint = None if args.trained_model is None else _read_fingerprint(args.trained_model)
    goal = Goal(args.max_error, args.confidence, args.min_acceptance)
    reference = None if args.dataset is None else _make_reference(args, files)
    proposing, testing = _read_rows(args, files, others)
    certified = certify(proposing, testing, goal)
    certificate = Certificate(
        goal.max_error, goal.confidence, METHOD, "rows", testing.rows, certified.accepted, certified.wrong,
        compute_digests(files),
    )  # fmt: skip
    write_policy(Policy(certified.thresholds, fingerprint, certificate, reference), args.savefile)
    _print_result(certified, goal, testing)
    print(f"policy -> {args.savefile}")
    if args.report is not None:
        from nsga2.certificate_chart import draw_certificate

        print(f"picture -> {save_figure(draw_certificate(certified, goal), args.report)}")


def _list_files(given: list[Path]) -> list[Path]:
    return [path for pattern in given for path in expand_pattern(pattern)]


def _read_fingerprint(path: Path) -> str:
    from models.checkpoint import compute_fingerprint, read_two_exits

    network, _ = read_two_exits(path)
    return compute_fingerprint(network)


def _make_reference(args: argparse.Namespace, files: list[Path]) -> "Reference":
    """Return the reference of the datasets, whose scores are in the evaluation CSVs."""
    import numpy as np

    from utils.dataset import read_dataset
    from utils.results import read_evaluation
    from utils.traffic_reference import compute_scores, make_reference

    if len(args.dataset) != len(files):
        raise InputFileError(
            f"{len(args.dataset)} --dataset for {len(files)} evaluation CSVs; give one for each, in order"
        )
    features, scores = [], []
    for dataset, file in zip(args.dataset, files, strict=True):
        rows, evaluation = read_dataset(dataset), read_evaluation([file])
        if len(rows) != len(evaluation) or (rows.labels is not None and (rows.labels != evaluation.labels).any()):
            raise InputFileError(f"{dataset}: holds other rows than {file}; give the dataset that it evaluates")
        features.append(rows.features)
        scores.append(compute_scores(evaluation.prediction_1, evaluation.certainty_1))
    return make_reference(np.concatenate(features), np.concatenate(scores), args.tolerance)


def _read_rows(args: argparse.Namespace, files: list[Path], others: list[Path]) -> "tuple[Objectives, Objectives]":
    """Return the rows that propose thresholds, and those that test them."""
    from nsga2.certification import split_rows
    from nsga2.objectives import Objectives
    from utils.results import read_evaluation

    cost = args.cost_model, find_cost_per_offload(args)
    rows = read_evaluation(files)
    if others:
        return Objectives(read_evaluation(others), *cost), Objectives(rows, *cost)
    proposing, testing = split_rows(len(rows), args.seed)
    return Objectives(rows.take(proposing), *cost), Objectives(rows.take(testing), *cost)


def _print_result(certified: "Certified", goal: "Goal", testing: "Objectives") -> None:
    from nsga2.operating_point import format_client_command

    counts = testing.evaluation.decide(certified.thresholds).count()
    print(
        f"certified: with confidence {goal.confidence:g}, at most {100 * goal.max_error:g} % of the accepted events "
        "are wrong in traffic like that of these rows"
    )
    print(
        f"{certified.rows} rows tested: {100 * counts.acceptance:.2f} % accepted, {100 * counts.error:.2f} % of these "
        f"wrong (lowest limit {100 * certified.bound:.2f} %), {100 * counts.offloaded_share:.2f} % offloaded"
    )
    print(f"{len(certified.passed)} sets of thresholds were certified together")
    print(format_client_command(certified.thresholds))


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
