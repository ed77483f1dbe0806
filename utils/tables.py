"""CSV tables, read so that nothing is guessed from a file's name and no cell is dropped."""

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from utils.cells import COMPRESSIONS, place
from utils.errors import InputFileError


def read_csv(path: Path, error: type[InputFileError], **options: Any) -> pd.DataFrame:
    """Read a CSV file. Blank lines are kept, as rows of empty cells, so that row numbers are those of the file.

    Args:
        path: plain or compressed.
        error: what to raise for a file that is no CSV.
        options: pandas's own.

    Raises:
        InputFileError: (the given child of it) the file is damaged, is not UTF-8 text, or a row has too many cells.
    """
    options |= {"skip_blank_lines": False, "compression": COMPRESSIONS.get(path.suffix)}
    with _well_formed(path, error):
        frame: pd.DataFrame = pd.read_csv(path, index_col=False, **options)
    return frame


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
