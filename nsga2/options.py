"""Options that scripts on thresholds share: the cost models, and the points of a front that have names."""

import argparse
from pathlib import Path
from typing import Final

from utils import cli
from utils.errors import InputFileError

KNEE: Final = "knee"
LEAST_ERROR: Final = "least-error"
LEAST_COST: Final = "least-cost"
POINTS: Final = (KNEE, LEAST_ERROR, LEAST_COST)
"""Points of a front that people ask for by name."""


def point(text: str) -> int | str:
    """Argparse type: one of ``POINTS``, or the row of a front's table."""
    return text if text in POINTS else cli.whole_number(0)(text)


def _condition(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form COLUMN=VALUE")
    return name, value


def add_cost_model(parser: argparse.ArgumentParser) -> None:
    """Add ``--cost-model`` and what the model of the edge needs."""
    add = parser.add_argument
    add(
        "--cost-model",
        choices=("paper", "full", "edge"),
        default="paper",
        help="paper: an offloaded event's time leaves out head 1, as published; full: counts it; edge: what the edge "
        "pays alone, segment 1, head 1, and the sending of an offloaded event (default: %(default)s)",
    )
    add(
        "--cost-per-offload",
        type=cli.real_number(0, 1e6),
        metavar="MS",
        help="with --cost-model edge: milliseconds that the edge spends to send an event",
    )
    add(
        "--offload-timings",
        type=Path,
        metavar="TSV",
        help="instead: a table with the columns batch_size and request_process_time, milliseconds of the edge's "
        "processor for a request",
    )
    add(
        "--offload-where",
        action="append",
        default=[],
        type=_condition,
        metavar="COLUMN=VALUE",
        help="use only such rows of --offload-timings; also several times",
    )


def cost_per_offload(args: argparse.Namespace) -> float | None:
    """Return the seconds that the edge spends to send an event, by ``add_cost_model``'s options; None: no such model.

    Raises:
        InputFileError: the options do not fit together, or the table is none.
    """
    from utils.cost_models import MILLISECONDS, read_cost_per_offload

    given = [args.cost_per_offload is not None, args.offload_timings is not None]
    if args.cost_model != "edge":
        if any(given):
            raise InputFileError("--cost-per-offload and --offload-timings belong to --cost-model edge; add it")
        return None
    if sum(given) != 1:
        raise InputFileError("--cost-model edge needs either --cost-per-offload or --offload-timings")
    if args.cost_per_offload is not None:
        return float(args.cost_per_offload) * MILLISECONDS
    return read_cost_per_offload(args.offload_timings, dict(args.offload_where))
