"""What the scripts' command lines share: argument types, common options, and how a run ends."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from utils.errors import ToolkitError

EXIT_INTERRUPTED: Final = 130


def run(
    parser: argparse.ArgumentParser, body: Callable[[argparse.Namespace], int | None], argv: list[str] | None
) -> int:
    """Parse ``argv``, call ``body`` and turn the way it ends into an exit code.

    What ``body`` returns is the code, None being 0. A ToolkitError becomes one line on stderr and its own exit code; an
    interrupt or SIGTERM, 130. Anything else is a fault of ours and keeps its traceback.
    """
    args = parser.parse_args(argv)
    # As an interrupt, SIGTERM too lets every open `with` block clean up.
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = body(args)
        sys.stdout.flush()
        return code or 0
    except ToolkitError as error:
        line = " ".join(str(error).split())
        print(f"{parser.prog}: error: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left (`... | head`); nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        signal.signal(signal.SIGTERM, former)


def new_parser(docstring: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows a script's own docstring above its options."""
    return argparse.ArgumentParser(
        description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return an argparse type: an integer of at least ``least`` and at most ``most``."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < least or (most is not None and value > most):
            upper = "" if most is None else f" and at most {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}{upper}")
        return value

    return convert


def real_number(least: float, most: float, *, open_ends: bool = False) -> Callable[[str], float]:
    """Return an argparse type: a number within [least, most], or within (least, most)."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        inside = least < value < most if open_ends else least <= value <= most
        if not inside:
            between = "between" if not open_ends else "strictly between"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {between} {least:g} and {most:g}")
        return value

    return convert


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """Return an argparse type: one of ``choices``, in any case."""

    def convert(text: str) -> str:
        name = text.lower()
        if name not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is unknown; choose from {', '.join(choices)}")
        return name

    return convert


def add_trained_model(parser: argparse.ArgumentParser, families: Sequence[str]) -> None:
    """Add ``--trained-model`` and the ``--model`` that it is checked against."""
    parser.add_argument("--trained-model", required=True, type=Path, metavar="FILE", help="checkpoint (.pth)")
    parser.add_argument(
        "--model",
        type=one_of(families),
        metavar="{" + ",".join(families) + "}",
        help="network that the checkpoint must hold (default: what the file says)",
    )


def add_dataset(parser: argparse._ActionsContainer, *, required: bool = True) -> None:
    """Add the dataset CSV argument."""
    parser.add_argument("--dataset", required=required, type=Path, metavar="CSV", help="dataset CSV")


def add_batch_size(parser: argparse.ArgumentParser, default: int = 1000) -> None:
    """Add ``--batch-size``, with its underscore spelling of the published scripts."""
    parser.add_argument(
        "--batch-size",
        "--batch_size",
        type=whole_number(1),
        default=default,
        metavar="N",
        help="events computed at once (default: %(default)s)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add ``--seed``."""
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**32 - 1),
        default=1,
        metavar="N",
        help="repeats a run exactly (default: %(default)s)",
    )


@contextmanager
def byte_bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Draw a progress bar of bytes on a terminal, nothing elsewhere.

    Yields:
        what to call with the bytes that are here and those that there will be, None where that is unknown.
    """
    from tqdm import tqdm

    with tqdm(desc=name, unit="B", unit_scale=True, disable=None) as bar:

        def show(received: int, total: int | None) -> None:
            bar.total = total
            bar.update(received - bar.n)

        yield show
