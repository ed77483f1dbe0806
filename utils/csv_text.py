"""Parse the cells and headers of CSV files, and describe for messages what is wrong with them."""

import csv
import math
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from utils.errors import InputFileError

_DELIMITERS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_DECIMAL_COMMA: Final = re.compile(r"\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*")
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")
_LEAST_NAMES: Final = 2
"""A line with this many known column names is taken for the header."""


@contextmanager
def well_formed_csv(path: Path, error: type[InputFileError]) -> Iterator[None]:
    """Replace the exceptions that readers and decompressors raise in the block for a damaged CSV file by ``error``."""
    try:
        yield
    except (ValueError, OSError, EOFError, MemoryError, csv.Error, zlib.error) as problem:
        why = str(problem) or type(problem).__name__
        raise error(f"{path}: is not a well-formed CSV: {why}; export it again") from problem


# Cells


def parse_number(cell: str) -> float:
    """Return the number in a cell; NaN if there is none."""
    try:
        # float() would also accept 1_000 and digits of other scripts.
        return float(cell) if cell.isascii() and "_" not in cell else math.nan
    except ValueError:
        return math.nan


def escape_formula(cell: str) -> str:
    """Return a cell's text; with an apostrophe in front if a spreadsheet would take it for a formula."""
    mark = "'" if cell.startswith(_FORMULA_STARTS) and math.isnan(parse_number(cell)) else ""
    return mark + cell.replace("\r", " ")  # for some readers, a carriage return ends the row


def describe_row(index: int) -> str:
    """Return the name of a row for messages, for a file with a header; ``index`` counts from 0, the name from 1."""
    return f"row {index + 1} (line {index + 2})"


def describe_cell(cell: object) -> str:
    """Return a clause for messages that says what a cell holds."""
    text = "" if cell is None else str(cell)
    if _has_decimal_comma(text):
        return f"holds {text[:40]!r}, with a decimal comma"
    return "is empty or NaN" if text.strip().lower() in {"", "nan"} else f"holds {text[:40]!r}"


def split_line(line: str, delimiter: str = ",") -> list[str]:
    """Return the cells of a line; spaces after a delimiter are skipped.

    Raises:
        csv.Error: a quoted cell does not end with its quote.
    """
    return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True), [""])


def _has_decimal_comma(cell: str) -> bool:
    return _DECIMAL_COMMA.fullmatch(cell) is not None


# Headers


def match_names(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return column names, those that are known in their known spelling; case and surrounding spaces do not matter."""
    spelling = {name.lower(): name for name in known}
    return [spelling.get(name.strip().lower(), name.strip()) for name in names]


def explain_header(lines: Sequence[str], known: Collection[str], delimiter: str = ",") -> str | None:
    """Return what is wrong with a table whose first line has no known column name; None if no reason is found.

    Args:
        lines: the first lines of the file, without line ends.
        known: known column names.
        delimiter: the expected delimiter.
    """
    for number, line in enumerate(lines, 1):
        for found, name in _DELIMITERS.items():
            if _count_known_names(line, known, found) < _LEAST_NAMES:
                continue
            problems = []
            if number > 1:
                problems.append(f"the header is in line {number}, below {_describe_line(lines[number - 2])}")
            if found != delimiter:
                problems.append(f"its columns are separated by {name}")
                if any(_has_decimal_comma(cell) for row in lines[number : number + 1] for cell in row.split(found)):
                    problems.append("its numbers have decimal commas")
            remedies = ["remove the lines before it"] if number > 1 else []
            if found != delimiter:
                remedies.append(f"export it with {_DELIMITERS[delimiter]} between columns and points in numbers")
            return f"{' and '.join(problems)}; {' and '.join(remedies)}" if problems else None
    return None


def _count_known_names(line: str, known: Collection[str], delimiter: str) -> int:
    try:
        return len(set(match_names(split_line(line, delimiter), known)) & set(known))
    except csv.Error:
        return 0


def _describe_line(line: str) -> str:
    text = line.strip()
    if not text:
        return "a blank line"
    return "a comment" if text.startswith(("#", "//", "%")) else f"{text[:40]!r}"
