#!/usr/bin/env python3
r"""Choose records of a month that are worth a label: a random part, and those that teach the most.

Run:
    python evaluations/choose-for-labels.py --verdicts saves/2016_03.csv --count 200 --savefile saves/labels.csv

The verdicts are what the client's --savefile or dnn/inference.py wrote. Fill in the column class of the new file with
0 or normal, 1 or attack; leave it empty where you cannot tell. The script fills it in where the verdicts hold the
class. The random records stand for all traffic, each for as many rows as its weight says:
nsga2/certify-thresholds.py --labels certifies thresholds with them. The others are those of which the network is not
certain, a few of each kind; their labels serve training, and propose thresholds.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from evaluations.defaults import RANDOM_SHARE
from utils import cli
from utils.errors import InputFileError
from utils.files import check_apart, check_table

if TYPE_CHECKING:
    import pandas as pd

    from evaluations.label_choice import Choice
    from utils.verdicts import Verdicts


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add(
        "--verdicts",
        required=True,
        nargs="+",
        type=Path,
        metavar="CSV",
        help="verdicts of the month, from the client's --savefile or from dnn/inference.py",
    )
    add("--count", required=True, type=cli.whole_number(1), metavar="N", help="records to choose")
    add(
        "--random-share",
        type=cli.real_number(0, 1),
        default=RANDOM_SHARE,
        metavar="SHARE",
        help="share of the records that is random; only these can test thresholds (default: %(default)s)",
    )
    add("--savefile", required=True, type=Path, metavar="CSV", help="label list to write")
    cli.add_seed(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Choose records, and write the label list."""
    from evaluations.label_choice import choose_rows
    from utils.results import write_table
    from utils.verdicts import join_verdicts

    check_apart(check_table(args.savefile), args.verdicts)
    _check_names(args.verdicts)
    parts = _read_parts(args.verdicts)
    verdicts = join_verdicts(parts)
    choice = choose_rows(verdicts, args.count, args.random_share, args.seed)
    write_table(_make_table(args.verdicts, parts, choice), args.savefile)
    randoms, rejected = int(choice.is_random.sum()), int(verdicts.is_rejected[choice.rows].sum())
    stand_for = f", each of which stands for {choice.weight:,.6g} rows" if randoms else ""
    print(f"random: {randoms}{stand_for}; informative: {len(choice) - randoms}; rejected among all: {rejected}")
    print(f"{len(choice)} of {len(verdicts)} records -> {args.savefile}")


def _check_names(paths: list[Path]) -> None:
    from utils.label_list import name_file

    names = [name_file(path) for path in paths]
    for path, name in zip(paths, names, strict=True):
        if names.count(name) > 1:
            raise InputFileError(f"{path}: another file of verdicts is named {name}, too; rename one of them")


def _read_parts(paths: list[Path]) -> "list[Verdicts]":
    from utils.verdicts import read_verdicts

    parts = []
    for path in paths:
        with cli.draw_byte_bar(path.name) as show:
            parts.append(read_verdicts(path, show))
    return parts


def _make_table(paths: list[Path], parts: "list[Verdicts]", choice: "Choice") -> "pd.DataFrame":
    """Return the label list of the chosen rows, which are counted over all files."""
    import numpy as np
    import pandas as pd

    from utils.label_list import COLUMNS, INFORMATIVE, RANDOM
    from utils.schema import CLASS
    from utils.verdicts import read_identities

    tables, before = [], 0
    for path, part in zip(paths, parts, strict=True):
        start, stop = np.searchsorted(choice.rows, (before, before + len(part)))
        rows, is_random = choice.rows[start:stop] - before, choice.is_random[start:stop]
        table = pd.DataFrame({"file": path.name, "row": rows + 1})
        with cli.draw_byte_bar(f"{path.name}, addresses") as show:
            identities = read_identities(path, rows, show)
        if identities is not None:
            table = table.join(identities)
        table["chosen"] = np.where(is_random, RANDOM, INFORMATIVE)
        table["weight"] = np.where(is_random, choice.weight, 0)
        table["prediction"], table["certainty"] = part.prediction[rows], part.certainty[rows]
        labels = part.labels[rows]
        table[CLASS] = np.where(labels >= 0, labels.astype(object), "")
        tables.append(table)
        before += len(part)
    whole = pd.concat(tables, ignore_index=True)
    return whole[[name for name in COLUMNS if name in whole]]


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
