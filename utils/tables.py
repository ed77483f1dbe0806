"""CSV tables, read so that nothing is guessed from a file's name and no cell is dropped."""

import csv
import warnings
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from utils.cells import place
from utils.errors import InputFileError
from utils.headers import explain_header, match_names, split_line
from utils.table_files import open_table, read_head


def read_csv(path: Path, error: type[InputFileError], columns: Collection[str], delimiter: str = ",") -> pd.DataFrame:
    """Read a CSV file. Blank lines are kept, as rows of empty cells, so that row numbers are those of the file.

    Args:
        path: plain or compressed.
        error: what to raise for a file that is no CSV.
        columns: that it should have, among others; in the header their case does not matter.
        delimiter: between cells.

    Raises:
        InputFileError: (the given child of it) the file is damaged, is not UTF-8 text, or a row has too many cells; or
            its first line is no header, for a reason that can be seen.
    """
    with _well_formed(path, error):
        head = read_head(path, error)
        if not set(columns) & set(_names(head, columns, delimiter)):
            reason = explain_header(head, columns, delimiter)
            if reason:
                raise error(f"{path}: {reason}")
        with open_table(path, error) as (_, stream):
            frame: pd.DataFrame = pd.read_csv(stream, index_col=False, sep=delimiter, skip_blank_lines=False)
    frame.columns = pd.Index(match_names(map(str, frame.columns), columns))
    return frame


def _names(head: list[str], columns: Collection[str], delimiter: str) -> list[str]:
    try:
        return match_names(split_line(head[0], delimiter) if head else [], columns)
    except csv.Error:
        return []


@contextmanager
def _well_formed(path: Path, error: type[InputFileError]) -> Iterator[None]:
    """Turn what pandas raises of a CSV file in the block into one clear message.

    Raises:
        InputFileError: (the given child of it) as ``read_csv``.
    """
    try:
        with warnings.catch_warnings():
            # pandas drops what row 1 holds beyond the header, and only warns; a later row it refuses itself.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield
    except pd.errors.ParserWarning as problem:
        raise error(f"{path}: {place(0)} has more cells than the header; mend or drop the row") from problem
    except (ValueError, OSError, EOFError, zlib.error) as problem:
        raise error(f"{path}: is not a well-formed CSV: {problem}; export it again") from problem
