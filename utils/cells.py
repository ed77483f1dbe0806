"""What readers of tables share: the endings of their files, the number in a cell, and how messages name it."""

import math
from typing import Final, Literal

from utils.headers import has_decimal_comma

COMPRESSIONS: Final[dict[str, Literal["bz2", "gzip"]]] = {".bz2": "bz2", ".gz": "gzip"}
"""By a file name's ending; a file of any other name is plain text."""

_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r")


def number(cell: str) -> float:
    """Return the number in a cell, NaN where there is none."""
    try:
        # Python takes 1_000 for a number, and the digits of all scripts.
        return float(cell) if cell.isascii() and "_" not in cell else math.nan
    except ValueError:
        return math.nan


def as_text(cell: str) -> str:
    """Return a cell of text so that no spreadsheet takes it for a formula: with an apostrophe in front if need be."""
    mark = "'" if cell.startswith(_FORMULAS) and math.isnan(number(cell)) else ""
    return mark + cell.replace("\r", " ")  # a carriage return would end the row for some readers


def place(row: int) -> str:
    """Return how messages name a row, counted from 0 here and from 1 there."""
    return f"row {row + 1} (line {row + 2})"


def found(cell: object) -> str:
    """Return how messages quote a cell."""
    text = "" if cell is None else str(cell)
    if has_decimal_comma(text):
        return f"holds {text[:40]!r}, with a decimal comma"
    return "is empty or NaN" if text.strip().lower() in {"", "nan"} else f"holds {text[:40]!r}"
