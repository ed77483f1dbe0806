#!/usr/bin/env python3
r"""Certify four thresholds: with a stated confidence, the error of accepted events is at most a limit.

Run:
    python nsga2/certify-thresholds.py --max-error 0.08 --trained-model saves/calibrated.pth \
        --eval-file saves/evaluation.csv --savefile saves/policy.json --report saves/policy.png

A random part of the rows proposes thresholds, and the others test them. Of the certified thresholds, the script chooses
those that accept the most events or, with --min-acceptance, the cheapest ones that accept this share. The certificate
holds for traffic like that of the evaluation CSV, for as long as the traffic and its labels do not change.

Few labels are enough to certify thresholds anew. Choose the records with evaluations/choose-for-labels.py:
    python nsga2/certify-thresholds.py --max-error 0.1 --trained-model saves/calibrated.pth --labels saves/labels.csv \
        --eval-file saves/2016_03.csv --propose-from saves/evaluation.csv --savefile saves/policy.json
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
    from nsga2.certifying_rows import CertifyingRows
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
        help="evaluation CSV of labelled rows, or a quoted pattern; can be repeated, rows are pooled. With --labels "
        "also a CSV of dnn/inference.py",
    )
    add(
        "--labels",
        nargs="+",
        action="extend",
        type=Path,
        metavar="CSV",
        help="label lists of evaluations/choose-for-labels.py, with the column class filled in: only these rows of "
        "--eval-file are used. A list names the file without folder and ending",
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
        help="evaluation CSV of other rows to propose thresholds from, so that all rows of --eval-file, or all random "
        "records of --labels, test them; can be repeated",
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
        "--earlier-dataset",
        type=Path,
        metavar="CSV",
        help="labelled dataset of the month before; the client does not accept frequent vectors of --dataset whose "
        "labels have changed since",
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
    from nsga2.objectives import Objectives
    from utils.plotting import check_format, save_figure
    from utils.policy import Certificate, Policy, compute_digests, write_policy
    from utils.results import read_evaluation

    files, others = _list_files(args.eval_file), _list_files(args.propose_from or [])
    _check_paths(args, [*files, *others])
    if args.report is not None:
        check_format(args.report)
    fingerprint = None if args.trained_model is None else _read_fingerprint(args.trained_model)
    goal = Goal(args.max_error, args.confidence, args.min_acceptance)
    rows = _read_rows(args, files)
    for note in rows.notes:
        print(note)
    reference = None
    if args.dataset is not None or args.earlier_dataset is not None:
        rows, reference = _describe_traffic(args, files, rows)
    cost = args.cost_model, find_cost_per_offload(args)
    proposing = read_evaluation(others) if others else rows.evaluation.take(rows.proposing)
    testing = Objectives(rows.evaluation.take(rows.testing), *cost)
    certified = certify(Objectives(proposing, *cost), testing, goal, remedy=_find_remedy(args))
    certificate = Certificate(
        goal.max_error, goal.confidence, METHOD, "rows", testing.rows, certified.accepted, certified.wrong,
        compute_digests([*files, *(args.labels or [])]),
    )  # fmt: skip
    write_policy(Policy(certified.thresholds, fingerprint, certificate, reference), args.savefile)
    _print_result(certified, goal, testing)
    print(f"policy -> {args.savefile}")
    if args.report is not None:
        from nsga2.certificate_chart import draw_certificate

        print(f"picture -> {save_figure(draw_certificate(certified, goal), args.report)}")


def _check_paths(args: argparse.Namespace, files: list[Path]) -> None:
    """Check that outputs can be written and are no inputs, and that the options go together."""
    singles = [path for path in (args.trained_model, args.earlier_dataset) if path is not None]
    inputs = [*files, *singles, *(args.dataset or []), *(args.labels or [])]
    for output in (args.savefile, args.report):
        if output is not None:
            check_apart(check_writable(output), inputs)
    if args.earlier_dataset is not None and args.dataset is None:
        raise InputFileError("--earlier-dataset: needs --dataset, whose vectors are compared with it; give both")
    if args.earlier_dataset is not None and args.propose_from is not None:
        raise InputFileError(
            "--earlier-dataset: is compared with the rows that propose, which --propose-from takes from another file; "
            "leave one of them out"
        )


def _find_remedy(args: argparse.Namespace) -> str:
    """Return what the user can do if the rows are too few."""
    if args.labels is None:
        return "give more rows"
    return f"label more random records{'' if args.propose_from else ' and let others propose with --propose-from'}"


def _list_files(given: list[Path]) -> list[Path]:
    return [path for pattern in given for path in expand_pattern(pattern)]


def _read_fingerprint(path: Path) -> str:
    from models.checkpoint import compute_fingerprint, read_two_exits

    network, _ = read_two_exits(path)
    return compute_fingerprint(network)


def _read_rows(args: argparse.Namespace, files: list[Path]) -> "CertifyingRows":
    from nsga2.certifying_rows import use_all_rows, use_labelled_rows

    all_test = args.propose_from is not None
    if args.labels is None:
        return use_all_rows(files, args.seed, all_test=all_test)
    return use_labelled_rows(files, args.labels, args.seed, all_test=all_test)


def _describe_traffic(
    args: argparse.Namespace, files: list[Path], rows: "CertifyingRows"
) -> "tuple[CertifyingRows, Reference]":
    """Return the rows without those that the reference distrusts, and the reference of all rows."""
    from nsga2.watched_traffic import find_changed_vectors, read_features, refer
    from utils.labelled_rows import read_rows

    earlier = None if args.earlier_dataset is None else read_rows(args.earlier_dataset)
    features = read_features(args.dataset, files, rows)
    changed = None if earlier is None else find_changed_vectors(earlier, features, rows)
    reference, is_distrusted = refer(features, rows, args.tolerance, changed)
    if earlier is not None:
        vectors, share = len(reference.distrusted), 100 * is_distrusted.mean()
        print(
            f"not trusted: {vectors} frequent vector{'' if vectors == 1 else 's'}, {share:.2f} % of the events, with "
            f"labels that have changed since {args.earlier_dataset.name}"
            f"{'; the client rejects these events, and all rates below are of the others' if vectors else ''}"
        )
    return (rows.leave_out(is_distrusted) if is_distrusted.any() else rows), reference


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
