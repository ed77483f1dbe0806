"""Read small CSV tables into memory, whatever the name of the file, and without dropping cells."""

import csv
import warnings
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from utils.csv_text import describe_row, explain_header, match_names, split_line, well_formed_csv
from utils.errors import InputFileError
from utils.table_formats import open_table, read_first_lines


def read_csv(path: Path, error: type[InputFileError], columns: Collection[str], delimiter: str = ",") -> pd.DataFrame:
    """Return the table in a CSV file. Blank lines become empty rows, so that row numbers are those of the file.

    Args:
        path: the file, plain or compressed with gzip or bzip2.
        error: class of the exception to raise.
        columns: names of expected columns, in upper or lower case in the header; the table may have other columns.
        delimiter: character between cells.

    Raises:
        InputFileError: (``error``) the file is damaged or not UTF-8 text, a row has too many cells, or the first line
            has no expected column and the reason is known.
    """
    with well_formed_csv(path, error):
        lines = read_first_lines(path, error)
        if not set(columns) & set(_read_names(lines, columns, delimiter)):
            reason = explain_header(lines, columns, delimiter)
            if reason:
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
    return frame


def _read_names(lines: list[str], columns: Collection[str], delimiter: str) -> list[str]:
    try:
        return match_names(split_line(lines[0], delimiter) if lines else [], columns)
    except csv.Error:
        return []
