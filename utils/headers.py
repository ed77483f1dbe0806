"""Headers of text tables: names matched in any case, and the reason why a first line is no header."""

import csv
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final

_DELIMITERS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_DECIMAL_COMMA: Final = re.compile(r"\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*")
_LEAST_NAMES: Final = 2


def has_decimal_comma(cell: str) -> bool:
    """Return whether a cell holds a number written with a decimal comma."""
    return _DECIMAL_COMMA.fullmatch(cell) is not None


def match_names(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return column names spelled as the known ones, whatever their case and the spaces around them."""
    spelled = {name.lower(): name for name in known}
    return [spelled.get(name.strip().lower(), name.strip()) for name in names]


def split_line(line: str, delimiter: str = ",") -> list[str]:
    """Return the cells of a line; a space may follow a delimiter.

    Raises:
        csv.Error: a quote does not end.
    """
    return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True), [""])


def explain_header(lines: Sequence[str], known: Collection[str], delimiter: str = ",") -> str | None:
    """Return what is wrong with the head of a table whose first line has no known column; None where nothing is seen.

    Args:
        lines: the first of the file, without their ends.
        known: names of the columns.
        delimiter: between them, as it should be.
    """
    for number, line in enumerate(lines, 1):
        for found, name in _DELIMITERS.items():
            if _known_names(line, known, found) < _LEAST_NAMES:
                continue
            problems = []
            if number > 1:
                problems.append(f"the header stands in line {number}, below {_described(lines[number - 2])}")
            if found != delimiter:
                problems.append(f"its columns are separated by {name}")
                if any(has_decimal_comma(cell) for row in lines[number : number + 1] for cell in row.split(found)):
                    problems.append("its numbers have decimal commas")
            return f"{' and '.join(problems)}; {_remedy(number, found != delimiter, delimiter)}" if problems else None
    return None


def _known_names(line: str, known: Collection[str], delimiter: str) -> int:
    try:
        return len(set(match_names(split_line(line, delimiter), known)) & set(known))
    except csv.Error:
        return 0


def _described(line: str) -> str:
    text = line.strip()
    if not text:
        return "a blank line"
    return "a comment" if text.startswith(("#", "//", "%")) else f"{text[:40]!r}"


def _remedy(number: int, exports: bool, delimiter: str) -> str:
    export = f"export it with {_DELIMITERS[delimiter]} between columns and points in numbers"
    remove = "remove the lines before it"
    return " and ".join([remove] * (number > 1) + [export] * exports)
