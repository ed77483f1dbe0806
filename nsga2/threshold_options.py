"""The command-line options that scripts on thresholds share: the cost model, and the point of a front."""

import argparse
from pathlib import Path

from nsga2.defaults import COST_MODEL, COST_MODELS, NAMED_POINTS
from utils import cli
from utils.errors import InputFileError


def parse_point(text: str) -> int | str:
    """Return the name or the number of a front's point; an argparse type."""
    return text if text in NAMED_POINTS else cli.whole_number(0)(text)


def _parse_condition(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form COLUMN=VALUE")
    return name, value


def add_cost_model(parser: argparse.ArgumentParser) -> None:
    """Add ``--cost-model`` and the options of the model ``edge``."""
    add = parser.add_argument
    add(
        "--cost-model",
        choices=COST_MODELS,
        default=COST_MODEL,
        help="paper: the whole path of an event without head 1 if it is offloaded, as published; full: with head 1; "
        "edge: only what the edge spends, segment 1, head 1 and sending (default: %(default)s)",
    )
    add(
        "--cost-per-offload",
        type=cli.real_number(0, 1e6),
        metavar="MS",
        help="milliseconds that the edge spends to send an event; for --cost-model edge",
    )
    add(
        "--offload-timings",
        type=Path,
        metavar="TSV",
        help="table that replaces --cost-per-offload, with the columns batch_size and request_process_time "
        "(milliseconds of the edge's processor time per request)",
    )
    add(
        "--offload-where",
        action="append",
        default=[],
        type=_parse_condition,
        metavar="COLUMN=VALUE",
        help="use only these rows of --offload-timings; can be repeated",
    )


def find_cost_per_offload(args: argparse.Namespace) -> float | None:
    """Return the seconds that the edge spends to send an event; None for the models other than ``edge``.

    Raises:
        InputFileError: the options of ``add_cost_model`` contradict each other, or the table cannot be read.
    """
    from utils.cost_models import MILLISECONDS, read_cost_per_offload

    given = [args.cost_per_offload is not None, args.offload_timings is not None]
    if args.cost_model != "edge":
        if any(given):
            raise InputFileError("--cost-per-offload and --offload-timings belong to --cost-model edge; add it")
        return None
    if sum(given) != 1:
        raise InputFileError("--cost-model edge needs either --cost-per-offload or --offload-timings; give one of them")
    if args.cost_per_offload is not None:
        return float(args.cost_per_offload) * MILLISECONDS
    return read_cost_per_offload(args.offload_timings, dict(args.offload_where))
