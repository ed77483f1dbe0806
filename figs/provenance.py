"""The origin of the data in a results folder: its ``about.json``, which captions quote."""

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from utils.errors import InputFileError
from utils.files import check_readable, replacing

FILE_NAME: Final = "about.json"
MONTH: Final = re.compile(r"\d{4}_(?:0[1-9]|1[0-2])")


@dataclass(frozen=True)
class Provenance:
    """The origin of a folder's data.

    Attributes:
        dataset: name of the dataset folder.
        synthetic: whether its records are simulated.
        made: date of the results, ISO 8601.
        training_month, calibration_month: YYYY_MM.
        epochs: of training.
        batch_size: events evaluated at once.
        seed: of training.
        toolkit: versions and facts about the machine, which no program reads.
    """

    dataset: str
    synthetic: bool
    made: str
    training_month: str
    calibration_month: str
    epochs: int
    batch_size: int
    seed: int
    toolkit: dict[str, str]


def is_month(word: str) -> bool:
    """Return whether a word is a month, YYYY_MM."""
    return MONTH.fullmatch(word) is not None


def read_provenance(folder: Path) -> Provenance | None:
    """Return the origin of a folder's data; None if the folder has no ``about.json``.

    Raises:
        InputFileError: the file is damaged.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    check_readable(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        provenance = Provenance(**{field.name: content[field.name] for field in fields(Provenance)})
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        remedy = "make the folder again with figs/make-results.py"
        raise InputFileError(f"{path}: is damaged ({problem}); {remedy}") from problem
    months = (provenance.training_month, provenance.calibration_month)
    are_months = all(isinstance(month, str) and is_month(month) for month in months)
    if not isinstance(provenance.synthetic, bool) or not are_months:
        raise InputFileError(
            f"{path}: synthetic must be true or false, and the months YYYY_MM; make the folder again with "
            "figs/make-results.py"
        )
    return provenance


def write_provenance(provenance: Provenance, folder: Path) -> None:
    """Write the origin of a folder's data.

    Raises:
        InputFileError: the file cannot be written.
    """
    with replacing(folder / FILE_NAME) as partial:
        partial.write_text(json.dumps(vars(provenance), indent=2) + "\n", encoding="utf-8")
