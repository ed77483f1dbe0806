"""Where the data of a results folder come from: its ``about.json``, which captions quote."""

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from utils.errors import InputFileError
from utils.files import check_readable, replacing

ABOUT: Final = "about.json"
MONTH: Final = re.compile(r"\d{4}_(?:0[1-9]|1[0-2])")


@dataclass(frozen=True)
class About:
    """Where a folder's data come from.

    Attributes:
        dataset: the dataset folder's name.
        synthetic: whether its records are simulated.
        made: date of the results, ISO 8601.
        training_month, calibration_month: YYYY_MM.
        epochs: of training.
        batch_size: events evaluated at once.
        seed: of training.
        toolkit: versions and facts of the machine, for people.
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


def read_about(folder: Path) -> About | None:
    """Return where a folder's data come from; None where it does not say.

    Raises:
        InputFileError: the file is damaged.
    """
    path = folder / ABOUT
    if not path.exists():
        return None
    check_readable(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        about = About(**{field.name: content[field.name] for field in fields(About)})
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise InputFileError(f"{path}: does not say where the data come from ({problem}); make it again") from problem
    months = (about.training_month, about.calibration_month)
    if not isinstance(about.synthetic, bool) or not all(isinstance(month, str) and is_month(month) for month in months):
        raise InputFileError(f"{path}: synthetic must be true or false, and the months YYYY_MM; make it again")
    return about


def write_about(about: About, folder: Path) -> None:
    """Write where a folder's data come from.

    Raises:
        InputFileError: the file cannot be written.
    """
    with replacing(folder / ABOUT) as partial:
        partial.write_text(json.dumps(vars(about), indent=2) + "\n", encoding="utf-8")
