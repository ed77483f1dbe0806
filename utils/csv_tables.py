"""Read CSV tables by pandas: small ones into memory, others in chunks; ``utils.dataset`` reads datasets."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pandas as pd

from utils.csv_text import describe_row, explain_header, match_names, split_line, well_formed_csv
from utils.errors import InputFileError
from utils.files import ByteProgress, check_readable, ignore_progress
from utils.table_formats import open_table, read_first_lines

CHUNK_ROWS: Final = 2**17


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
        with open_table(path, error) as (_, stream), _all_cells(path, error):
            frame: pd.DataFrame = pd.read_csv(stream, index_col=False, sep=delimiter, skip_blank_lines=False)
    frame.columns = pd.Index(match_names(map(str, frame.columns), columns))
    if missing := [name for name in columns if name not in frame]:
        found = ", ".join(map(str, frame))[:200]
        raise error(f"{path}: is not {kind}, it lacks {', '.join(missing[:3])} and has {found}; {remedy}")
    if frame.empty:
        raise error(f"{path}: has a header but no rows; {remedy}")
    return frame


def read_header(path: Path, error: type[InputFileError], known: Sequence[str]) -> list[str]:
    """Return the column names of a CSV file; known names in their known spelling.

    Raises:
        InputFileError: (``error``) the file is missing, is not UTF-8 text, its first line is not the header,
            or a known name is repeated.
    """
    check_readable(path, error)
    with well_formed_csv(path, error):
        lines = read_first_lines(path, error)
        if reason := explain_header(lines, known):
            raise error(f"{path}: {reason}")
        names = match_names(split_line(lines[0]), known)
    if repeated := [name for name in known if names.count(name) > 1]:
        raise error(f"{path}: row 0: repeated column {repeated[0]!r}; remove or rename one")
    return names


def read_text_in_chunks(
    path: Path, error: type[InputFileError], columns: Sequence[str], progress: ByteProgress = ignore_progress
) -> Iterator[pd.DataFrame]:
    """Yield some columns of a CSV file as text, in chunks of at most ``CHUNK_ROWS`` rows.

    Args:
        path: the file, plain or compressed with gzip or bzip2; see ``read_header``.
        error: class of the exception to raise.
        columns: names of the columns to read, all of which it has. Blank lines become rows of empty cells.
        progress: called after each chunk with the number of the file's bytes that have been read so far, and of all.

    Raises:
        InputFileError: (``error``) the file is damaged, or a row has too many cells.
    """
    names, size = read_header(path, error, columns), path.stat().st_size
    with well_formed_csv(path, error), open_table(path, error) as (raw, stream):
        reader = pd.read_csv(
            stream, index_col=False, dtype=str, na_filter=False, skip_blank_lines=False,
            skipinitialspace=True, chunksize=CHUNK_ROWS,
        )  # fmt: skip
        while True:
            with _all_cells(path, error):
                chunk = next(reader, None)
            if chunk is None:
                return
            chunk.columns = pd.Index(names)
            progress(raw.tell(), size)
            yield chunk[list(columns)]


@contextmanager
def _all_cells(path: Path, error: type[InputFileError]) -> Iterator[None]:
    """Refuse cells of row 1 beyond the header, which pandas drops with a warning; it refuses later rows itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            yield
        except pd.errors.ParserWarning as problem:
            raise error(
                f"{path}: {describe_row(0)} has more cells than the header; correct or remove the row"
            ) from problem
