#!/usr/bin/env python3
r"""Train a network further on the labelled months so far, and release it if it is better than the one in use.

Run:
    python dnn/renew-network.py --champion saves/calibrated.pth --dataset-folder dataset/sample --glob "2016_0[1-4]" \
        --output-folder saves/releases
    python dnn/renew-network.py --champion saves/releases --dataset-folder dataset/sample --glob "2016_0[1-5]" \
        --output-folder saves/releases

The challenger is trained on all rows but the latest, which are held back: on one half of these it is calibrated and its
thresholds are chosen, on the other half it is certified, and judged against the champion. Rows of older months weigh
less. Vectors whose labels changed from the month before the last to the last one are not accepted, until a later month
shows that they are stable again.

A release is a folder with the network, its ONNX files, its policy and a manifest; the link "current" names the latest.
A champion without a release is written as the first one; with --first, no challenger is trained. Exit codes: 0
released, 1 the challenger is no better, so that nothing was released, 2 wrong arguments or files.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from dnn.defaults import EPOCHS, REJECT_COST
from nsga2.defaults import LEAST_ERROR, TOLERANCE
from utils import cli
from utils.errors import DatasetError, InputFileError
from utils.files import make_folder

if TYPE_CHECKING:
    from dnn.judgement import Judgement
    from models.early_exit import TwoExits
    from utils.decision import Decisions
    from utils.labelled_rows import LabelledRows
    from utils.policy import Policy
    from utils.release import LabelledFile
    from utils.results import Evaluation
    from utils.schema import Thresholds

NO_BETTER = 1
CONFIDENCE = 0.95
ROWS_TO_COMPARE = 1000  # on which the ONNX files of a release are compared with its checkpoint


def make_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add(
        "--champion",
        type=Path,
        metavar="RELEASE",
        help="release to renew: its folder, a folder of releases, or a calibrated checkpoint (.pth)",
    )
    add("--dataset-folder", type=Path, metavar="D", help="folder of labelled datasets, sorted by time")
    add("--glob", default="*", help="datasets to read from it, a name or pattern (default: all)")
    add("--labelled", type=Path, metavar="CSV", help="labelled dataset of the time after these datasets")
    add("--output-folder", type=Path, default=Path("saves/releases"), metavar="D", help="(default: %(default)s)")
    add("--first", action="store_true", help="only write the champion, a checkpoint, as the first release")
    add("--rollback", action="store_true", help="only make the parent of the current release the current one again")
    add("--epochs", type=cli.whole_number(1), default=EPOCHS, metavar="N", help="(default: %(default)s)")
    add(
        "--hold-back",
        type=cli.whole_number(40),
        default=2000,
        metavar="N",
        help="latest rows to choose, certify and judge on; at most half of a dataset (default: %(default)s)",
    )
    add(
        "--min-acceptance",
        type=cli.real_number(0, 1),
        default=0.9,
        metavar="SHARE",
        help="least share of the trusted events that the thresholds accept (default: %(default)s)",
    )
    add(
        "--reject-cost",
        type=cli.real_number(0, 1),
        default=REJECT_COST,
        metavar="COST",
        help="loss of a rejected event, if that of a wrong one is 1; the lower mean loss is better (default: "
        "%(default)s)",
    )
    cli.add_seed(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Renew the champion, or roll back."""
    if args.rollback:
        _roll_back(args.output_folder)
        return 0
    if args.champion is None or args.dataset_folder is None:
        raise InputFileError("--champion and --dataset-folder are needed, unless --rollback is given")
    return _renew(args)


def _roll_back(releases: Path) -> None:
    from utils.release import point_to, read_release

    release = read_release(releases)
    if release.parent is None:
        raise InputFileError(f"{release.folder}: is the first release, so there is none to go back to")
    read_release(releases / release.parent)  # a damaged release must not become the current one
    point_to(releases, release.parent)
    print(f"current: {release.parent}, no longer {release.name}")


class Champion(NamedTuple):
    """The network to renew; without a release, name and policy are None."""

    network: "TwoExits"
    name: str | None
    policy: "Policy | None"


def _read_champion(path: Path, releases: Path) -> Champion:
    from models.checkpoint import read_two_exits
    from utils.policy import read_policy_for
    from utils.release import NETWORK, POLICY, read_release

    if os.path.isdir(path):  # noqa: PTH112  # Path.is_dir fails if the name is too long
        release = read_release(path)
        if release.folder.parent != releases.resolve():
            raise InputFileError(
                f"{path}: is not in --output-folder {releases}, so that a rollback could not find it; name its folder "
                "of releases there"
            )
        network, _ = read_two_exits(release.get_path(NETWORK))
        return Champion(network, release.name, read_policy_for(release.get_path(POLICY), release.fingerprint))
    network, checkpoint = read_two_exits(path)
    if not checkpoint.calibrated:
        raise InputFileError(f"{path}: is not calibrated; calibrate it with calibration/Calibrate2exits.py")
    return Champion(network, None, None)


def _renew(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from calibration.temperature import fit_by_likelihood
    from dnn.judgement import compute_losses, judge
    from dnn.renewal import RenewalSettings, count_draws, renew
    from utils.labelled_rows import DECAY, hold_back, split_in_half

    releases = make_folder(args.output_folder)
    champion = _read_champion(args.champion, releases)
    if args.first and champion.policy is not None:
        raise InputFileError(f"{args.champion}: is a release already; leave out --first")
    months, data = _read_months(args)
    training, held = hold_back(months, args.hold_back, args.seed)
    choosing, judging = split_in_half(held, args.seed)
    if len(judging) < 2:
        raise DatasetError(f"{args.dataset_folder}: holds too few labelled rows to choose and to judge on; add some")
    if args.first:
        policy = _choose_policy(args, champion.network, choosing, judging, months[-1], data)
        name = _write(releases, champion.network, policy, months[-1], None, data, {})
        print(f"the champion is the first release -> {releases / name}")
        return 0
    settings = RenewalSettings(seed=args.seed + len(months), epochs=args.epochs)
    drawn = args.epochs * sum(count_draws([len(month) for month in training], DECAY))
    print(f"months: {', '.join(month.name for month in months)}; held back: {len(choosing)} + {len(judging)} rows")
    if " " in held.name:
        print(
            f"note: rows of {held.name} are held back, because the latest month has too few; a champion that knows "
            "older ones has an advantage"
        )
    with tqdm(total=drawn, desc="training", unit="row", disable=None) as bar:
        challenger = renew(champion.network, training, choosing, fit_by_likelihood, settings, bar.update)
    old = champion.policy or _choose_policy(args, champion.network, choosing, judging, months[-1], data)
    policy = _choose_policy(args, challenger, choosing, judging, months[-1], data, training)
    decided = _decide(challenger, policy, judging), _decide(champion.network, old, judging)
    ours, theirs = (compute_losses(one, args.reject_cost) for one in decided)
    judgement = judge(ours, theirs, args.seed)
    _print_judgement(judgement, *decided)
    if champion.policy is None:
        name = _write(releases, champion.network, old, months[-1], None, data, {})
        champion = champion._replace(name=name)
        print(f"the champion is the first release -> {releases / name}")
    if not judgement.is_better:
        print("not released: the challenger is not better with a confidence of 0.95")
        return NO_BETTER
    numbers = {**vars(judgement), "reject_cost": args.reject_cost}
    name = _write(releases, challenger, policy, months[-1], champion.name, data, numbers)
    print(f"released: {name}, renewed from {champion.name} -> {releases / name}")
    return 0


def _read_months(args: argparse.Namespace) -> "tuple[list[LabelledRows], list[LabelledFile]]":
    from utils.dataset import find_datasets
    from utils.files import compute_digest
    from utils.labelled_rows import read_rows
    from utils.release import LabelledFile

    paths = find_datasets(args.dataset_folder, args.glob)
    if args.labelled is not None:
        paths = [*paths, args.labelled]
    months = [read_rows(path) for path in paths]
    files = [LabelledFile(path.name, len(rows), compute_digest(path)) for path, rows in zip(paths, months, strict=True)]
    return months, files


def _choose_policy(
    args: argparse.Namespace,
    network: "TwoExits",
    choosing: "LabelledRows",
    judging: "LabelledRows",
    latest: "LabelledRows",
    data: "list[LabelledFile]",
    training: "list[LabelledRows] | tuple[()]" = (),
) -> "Policy":
    """Choose thresholds, certify them on rows that took no part in the choice, and describe the latest month.

    Vectors whose labels change from the month before the last to the last month of ``training`` are distrusted.
    """
    from dataclasses import replace

    import numpy as np

    from models.checkpoint import compute_fingerprint
    from nsga2.certification import bound_error
    from utils.label_drift import find_unstable_vectors
    from utils.labelled_rows import leave_out
    from utils.policy import Certificate, Policy
    from utils.traffic_reference import compute_scores, make_reference

    # Rows that are held back take no part, so that the certificate's rows are independent of what is distrusted.
    unstable = find_unstable_vectors(training[-2], training[-1]) if len(training) > 1 else None
    trusted = choosing if unstable is None else leave_out(choosing, unstable)
    thresholds = _choose_thresholds(_answer(network, trusted), args.min_acceptance)
    answers = _answer(network, latest)
    scores = compute_scores(answers.prediction_1, answers.certainty_1)
    reference = make_reference(latest.features, scores, TOLERANCE, unstable)
    draft = Policy(thresholds, compute_fingerprint(network), None, reference)
    counts = _decide(network, draft, judging).count()
    accepted, wrong = counts.accepted, counts.accepted - counts.correct_1 - counts.correct_2
    bound = float(bound_error(np.array([accepted]), np.array([wrong]), CONFIDENCE)[0])
    digests = tuple(one.sha256 for one in data)
    method = "exact test of thresholds that were chosen on other rows"
    certificate = Certificate(bound, CONFIDENCE, method, "rows", len(judging), accepted, wrong, digests)
    return replace(draft, certificate=certificate)


def _choose_thresholds(evaluation: "Evaluation", min_acceptance: float) -> "Thresholds":
    from nsga2.exact_front import find_exact_front
    from nsga2.objectives import Objectives
    from nsga2.operating_point import build_front_table, find_named_points, get_thresholds

    table = build_front_table(find_exact_front(Objectives(evaluation), min_acceptance).front)
    return get_thresholds(table, find_named_points(table)[LEAST_ERROR])


def _answer(network: "TwoExits", rows: "LabelledRows") -> "Evaluation":
    from dnn.renewal import answer

    return answer(network, rows)


def _decide(network: "TwoExits", policy: "Policy", rows: "LabelledRows") -> "Decisions":
    """Decide rows as a client does with the policy."""
    from utils.policy import decide_by_policy

    return decide_by_policy(policy, rows.features, _answer(network, rows))


def _print_judgement(judgement: "Judgement", challenger: "Decisions", champion: "Decisions") -> None:
    for name, counts in (("champion", champion.count()), ("challenger", challenger.count())):
        print(
            f"{name}: {100 * counts.acceptance:.2f} % accepted, {100 * counts.error:.2f} % of these wrong, "
            f"{100 * counts.offloaded_share:.2f} % offloaded"
        )
    print(
        f"mean loss of the challenger on {judgement.rows} rows: {judgement.loss:.4f}, minus that of the champion: "
        f"{judgement.difference:+.4f} ({judgement.low:+.4f} to {judgement.high:+.4f})"
    )


def _write(
    releases: Path,
    network: "TwoExits",
    policy: "Policy",
    latest: "LabelledRows",
    parent: str | None,
    data: "list[LabelledFile]",
    judgement: dict[str, float],
) -> str:
    from dnn.release_writer import write_release

    facts = {"data": " ".join(one.name for one in data), "calibration": {"data": latest.name}}
    return write_release(
        releases, network, policy, latest.features[:ROWS_TO_COMPARE], facts, parent, data, judgement
    ).name


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
