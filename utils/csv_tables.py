"""Read small CSV tables into memory, by pandas; ``utils.dataset`` reads datasets, of any size, in chunks."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from utils.csv_text import describe_row, explain_header, match_names, well_formed_csv
from utils.errors import InputFileError
from utils.files import check_readable
from utils.table_formats import open_table, read_first_lines


def read_csv(
    path: Path, error: type[InputFileError], columns: Sequence[str], kind: str, remedy: str, delimiter: str = ","
) -> pd.DataFrame:
    """Return the table in a CSV file. Blank lines become empty rows, so that row numbers are those of the file.

    Args:
        path: the file, plain or compressed with gzip or bzip2.
        error: class of the exception to raise.
        columns: names of the columns that it must have, in upper or lower case in the header; it may have others.
        kind: what the file should be, for messages, such as ``an evaluation CSV``.
        remedy: what to do if the file is something else or has no rows, for messages.
        delimiter: character between cells.

    Raises:
        InputFileError: (``error``) the file is missing, damaged, not UTF-8 text, or lacks a column; it has no rows, or
            a row has too many cells.
    """
    check_readable(path, error)
    with well_formed_csv(path, error):
        if reason := explain_header(read_first_lines(path, error), columns, delimiter):
            raise error(f"{path}: {reason}")
        with open_table(path, error) as (_, stream), warnings.catch_warnings():
            # pandas drops the cells of row 1 beyond the header with a warning; it refuses later rows itself.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            try:
                frame: pd.DataFrame = pd.read_csv(stream, index_col=False, sep=delimiter, skip_blank_lines=False)
            except pd.errors.ParserWarning as problem:
                raise error(
                    f"{path}: {describe_row(0)} has more cells than the header; correct or remove the row"
                ) from problem
    frame.columns = pd.Index(match_names(map(str, frame.columns), columns))
    if missing := [name for name in columns if name not in frame]:
        found = ", ".join(map(str, frame))[:200]
        raise error(f"{path}: is not {kind}, it lacks {', '.join(missing[:3])} and has {found}; {remedy}")
    if frame.empty:
        raise error(f"{path}: has a header but no rows; {remedy}")
    return frame
