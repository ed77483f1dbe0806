"""Define argument types, common options and exit codes for the command lines of the scripts."""

import argparse
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from utils import VERSION
from utils.errors import InputFileError, ToolkitError
from utils.escaping import escape_unprintable
from utils.expert_options import add_expert
from utils.schema import AUTO, DEFAULT_THRESHOLDS, Thresholds
from utils.script_runner import ROOT

EXIT_INTERRUPTED: Final = 130
PUBLISHED_REPOSITORY: Final = "https://raw.githubusercontent.com/jasimioni/ids-ee-offload/main"
_WEB_ADDRESS: Final = re.compile(r"https?://(\[[\da-f:.]+\]|[\w.-]+)(:[1-9]\d*)?(/[^\s?#\\]*)?", re.IGNORECASE)

log = logging.getLogger(__name__)


def run(
    parser: argparse.ArgumentParser, body: Callable[[argparse.Namespace], int | None], argv: list[str] | None
) -> int:
    """Parse ``argv``, call ``body`` and return the exit code.

    The exit code is the one that ``body`` returns, or 0 for None. A ToolkitError is printed on one line on stderr, and
    its ``exit_code`` is returned. A package that is not installed is reported in the same way, with exit code 2, and an
    interrupt or SIGTERM with exit code 130. If the reader of stdout closes it, the exit code is 0. Other exceptions are
    bugs, and keep their traceback. With ``--log-format json``, the line is a JSON object with the exit code.
    """
    args = parser.parse_args(argv)
    # On SIGTERM, as on an interrupt, every open `with` block cleans up.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = body(args)
        sys.stdout.flush()
        return code or 0
    except ToolkitError as error:
        return _report_end(parser.prog, args, "error: ", " ".join(str(error).split()), error.exit_code)
    except ModuleNotFoundError as error:
        if (ROOT / str(error.name).partition(".")[0]).is_dir():
            raise  # a module of the project
        remedy = "activate the virtual environment (source venv/bin/activate), or pip install -r requirements.txt"
        reason = f"the package {error.name} is not installed; {remedy}"
        return _report_end(parser.prog, args, "error: ", reason, InputFileError.exit_code)
    except KeyboardInterrupt:
        return _report_end(parser.prog, args, "", "interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of the output has closed it (`... | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        signal.signal(signal.SIGTERM, previous)


def _report_end(program: str, args: argparse.Namespace, kind: str, reason: str, code: int) -> int:
    """Report why the script ends, on stderr or in the JSON log, and return its exit code."""
    if getattr(args, "log_format", None) == "json":
        log.error(reason, extra={"event": "ended", "exit_code": code})
    else:
        # The reason may quote a file or a broker, whose text must not control the terminal.
        print(f"{program}: {kind}{escape_unprintable(reason)}", file=sys.stderr)
    return code


def new_parser(docstring: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows a script's docstring above its options and prints the version on ``--version``."""
    parser = _Parser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}", help="show the version and exit")
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print the error on one line and exit with 2; the usage, which argparse would also print, would hide it."""
        self.exit(2, f"{self.prog}: error: {escape_unprintable(' '.join(message.split()))}; see --help\n")


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


def web_address(text: str) -> str:
    """Return a plain http(s) address without a trailing slash; an argparse type."""
    if "@" in text:  # messages quote addresses
        raise argparse.ArgumentTypeError("an address may hold no password; put user name and password in ~/.netrc")
    if _WEB_ADDRESS.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address such as https://example.org/folder")
    return text.rstrip("/")


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """Return an argparse type: one of ``choices``, in upper or lower case."""

    def convert(text: str) -> str:
        name = text.lower()
        if name not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is unknown; choose from {', '.join(choices)}")
        return name

    return convert


def or_auto(convert: Callable[[str], int]) -> Callable[[str], int | str]:
    """Return an argparse type: a value that ``convert`` accepts, or ``auto``."""

    def converted(text: str) -> int | str:
        return AUTO if text.lower() == AUTO else convert(text)

    return converted


def add_thresholds(parser: argparse._ActionsContainer, otherwise: str = "") -> None:
    """Add ``--policy`` and the options for the four thresholds.

    Args:
        parser: parser or group that gets the options.
        otherwise: text that follows each default in the help, such as another source of the thresholds.
    """
    parser.add_argument(
        "--policy",
        type=Path,
        metavar="JSON",
        help="thresholds that nsga2/certify-thresholds.py certified for this network; those given here take precedence",
    )
    defaults = vars(DEFAULT_THRESHOLDS)
    for exit_number in (1, 2):
        for name in ("normal", "attack"):
            parser.add_argument(
                f"--{name}-exit{exit_number}-min-certainty",
                type=real_number(0, 1),
                metavar="C",
                help=f"least certainty at which exit {exit_number}'s answer {name} is accepted (default: "
                f"{defaults[f'{name}_exit_{exit_number}']:g}{otherwise})",
            )


def parse_thresholds(args: argparse.Namespace, otherwise: Thresholds = DEFAULT_THRESHOLDS) -> Thresholds:
    """Return the thresholds that the arguments give, and those of ``otherwise`` for the others."""
    pairs = zip(_given_thresholds(args), vars(otherwise).values(), strict=True)
    return Thresholds(*(other if given is None else given for given, other in pairs))


def has_thresholds(args: argparse.Namespace) -> bool:
    """Return whether the arguments give at least one threshold."""
    return any(one is not None for one in _given_thresholds(args))


def _given_thresholds(args: argparse.Namespace) -> tuple[float | None, ...]:
    return (
        args.normal_exit1_min_certainty,
        args.attack_exit1_min_certainty,
        args.normal_exit2_min_certainty,
        args.attack_exit2_min_certainty,
    )


def add_trained_model(
    parser: argparse.ArgumentParser, families: Sequence[str], what: str = "checkpoint (.pth)"
) -> None:
    """Add ``--trained-model``, and ``--model``, the network that the file must hold."""
    parser.add_argument("--trained-model", required=True, type=Path, metavar="FILE", help=what)
    parser.add_argument(
        "--model",
        type=one_of(families),
        metavar="{" + ",".join(families) + "}",
        help="network that the checkpoint must hold (default: what the file says)",
    )


def add_dataset(parser: argparse._ActionsContainer, *, required: bool = True) -> None:
    """Add ``--dataset``."""
    parser.add_argument("--dataset", required=required, type=Path, metavar="CSV", help="dataset, CSV or Parquet")


def add_batch_size(parser: argparse._ActionsContainer, default: int = 1000) -> None:
    """Add ``--batch-size``, which can also be written with an underscore, as in the published scripts."""
    parser.add_argument(
        "--batch-size",
        "--batch_size",
        type=whole_number(1),
        default=default,
        metavar="N",
        help="events computed at once (default: %(default)s)",
    )


def add_runtime(parser: argparse._ActionsContainer, what_for: str) -> None:
    """Add ``--runtime`` and ``--second-exit-file``.

    Args:
        parser: parser or group that gets the options.
        what_for: a clause for the help that says what the second half of an exported network is needed for.
    """
    add_expert(
        parser,
        "--runtime",
        type=one_of(("torch", "onnx")),
        metavar="{torch,onnx}",
        meaning="how the network is saved: `torch`, a checkpoint, or `onnx`, an exported one (by the file's ending)",
    )
    add_second_exit_file(parser, what_for)


def add_second_exit_file(parser: argparse._ActionsContainer, what_for: str) -> None:
    """Add ``--second-exit-file``; the arguments are those of ``add_runtime``."""
    parser.add_argument(
        "--second-exit-file", type=Path, metavar="ONNX", help=f"second half of an exported network, {what_for}"
    )


def add_quantize_linear(group: argparse._ActionsContainer) -> None:
    """Add ``--quantize``, for the linear layers of exit 2."""
    group.add_argument(
        "--quantize",
        choices=("int8",),
        help="multiply 8-bit integers in exit 2's large linear layers, on the CPU (AlexNet's, which is then faster): "
        "certainties move, of trained networks by thousandths",
    )


def is_exported(args: argparse.Namespace, network_file: Path) -> bool:
    """Return whether the network is an exported one, which ONNX Runtime computes.

    Raises:
        InputFileError: ``--second-exit-file`` or ``--device`` does not fit the kind of network.
    """
    runtime = getattr(args, "runtime", None)
    exported = bool(network_file.suffix == ".onnx" if runtime is None else runtime == "onnx")
    if args.second_exit_file is not None and not exported:
        raise InputFileError("--second-exit-file is for an exported network; a checkpoint holds its second half")
    if exported and args.device not in {AUTO, "cpu"}:
        raise InputFileError("--device is for PyTorch; ONNX Runtime computes on the processor here, leave it out")
    return exported


def add_device(parser: argparse._ActionsContainer) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device",
        default=AUTO,
        help="auto (CUDA where PyTorch sees a GPU, else cpu), cpu, cuda or cuda:N (default: %(default)s)",
    )


def add_download(
    parser: argparse.ArgumentParser,
    folder: Path,
    base_url: str = PUBLISHED_REPOSITORY,
    what: str = "the repository's files, branch last, or a mirror of them",
) -> None:
    """Add the options of a script that downloads published files.

    Args:
        parser: the parser.
        folder: default output folder.
        base_url: default address.
        what: what the address names, for the help.
    """
    add = parser.add_argument
    add("--output-folder", type=Path, default=folder, metavar="FOLDER", help="default: %(default)s")
    add("--base-url", type=web_address, default=base_url, metavar="URL", help=f"{what} (default: %(default)s)")
    add("--force", action="store_true", help="download also what is there already")


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
def draw_byte_bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar of bytes if stderr is a terminal.

    Yields:
        a function to call with the number of bytes received and their total; None if the total is unknown.
    """
    from tqdm import tqdm

    with tqdm(desc=name, unit="B", unit_scale=True, disable=None) as bar:

        def show(received: int, total: int | None) -> None:
            bar.total = total
            bar.update(received - bar.n)

        yield show
