"""The small JSON file beside a file of verdicts that is needed to continue an interrupted run.

``verdicts.csv.resume.json`` identifies the run that writes ``verdicts.csv`` (its dataset, network, thresholds and
columns), and records how much of that file is on the disk: rows, bytes, and their SHA-256. It is replaced as a whole,
and stays when the run is done, so that the same command with ``--resume`` finds nothing left to do.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from utils.dataset import Dataset
from utils.errors import InputFileError
from utils.files import replacing

FORMAT_VERSION: Final = 1
START_AGAIN: Final = "leave out --resume to start again"

_LARGEST: Final = 1 << 16
_ROWS: Final = 1 << 14
_PHRASES: Final = {
    "dataset": "another dataset",
    "network": "another network file",
    "thresholds": "other thresholds",
    "columns": "other columns",
    "half_precision": "another choice of --half-precision",
}

Facts = Mapping[str, Any]
"""Facts that determine the rows of a run, by the keys of ``_PHRASES``; JSON must represent the values exactly."""


@dataclass(frozen=True)
class Progress:
    """How much of a file is on the disk.

    Attributes:
        rows: whole rows, without the header.
        size: bytes, with the header.
        sha256: SHA-256 of these bytes, in hexadecimal digits.
    """

    rows: int
    size: int
    sha256: str


NO_PROGRESS: Final = Progress(0, 0, hashlib.sha256().hexdigest())


def make_resume_path(path: Path) -> Path:
    """Return the path of the resume file that belongs to a file of verdicts."""
    return path.with_name(f"{path.name}.resume.json")


def write_resume_file(path: Path, facts: Facts, progress: Progress) -> None:
    """Write the resume file of ``path``.

    Raises:
        InputFileError: the resume file cannot be written.
    """
    content = {"format_version": FORMAT_VERSION, "run": facts, "written": vars(progress)}
    with replacing(make_resume_path(path)) as partial:
        partial.write_text(f"{json.dumps(content, indent=1)}\n", encoding="utf-8")


def read_resume_file(path: Path, facts: Facts) -> Progress:
    """Return how much of a file of verdicts its resume file covers.

    Args:
        path: path of the file of verdicts.
        facts: facts of the run that is to continue the file.

    Raises:
        InputFileError: another run wrote the file, or the resume file is missing or damaged.
    """
    resume_path = make_resume_path(path)
    try:
        with resume_path.open("rb") as stream:
            content = json.loads(stream.read(_LARGEST))
        version, run = content["format_version"], content["run"]
        progress = Progress(**content["written"])
        valid = isinstance(run, dict) and _is_valid(progress)
    except FileNotFoundError as problem:
        raise InputFileError(
            f"{path}: cannot be continued without {resume_path.name}, which is missing (older versions wrote none); "
            f"{START_AGAIN}"
        ) from problem
    except OSError as problem:
        raise InputFileError(f"{resume_path}: cannot be read: {problem.strerror}; check its permissions") from problem
    except (ValueError, TypeError, KeyError, RecursionError):
        version, run, progress, valid = None, {}, NO_PROGRESS, False
    if not valid or version != FORMAT_VERSION:
        raise InputFileError(f"{resume_path}: is damaged or of another version; {START_AGAIN}")
    differing = [phrase for key, phrase in _PHRASES.items() if run.get(key) != facts.get(key)]
    if differing:
        raise InputFileError(f"{path}: was written with {' and '.join(differing)}; give the same, or {START_AGAIN}")
    return progress


def _is_valid(progress: Progress) -> bool:
    counts = (progress.rows, progress.size)
    return all(type(count) is int and count >= 0 for count in counts) and isinstance(progress.sha256, str)


def digest_dataset(dataset: Dataset) -> str:
    """Return the SHA-256 (hex) of a dataset's features and labels, independent of its file."""
    digest = hashlib.sha256(f"{len(dataset)} {dataset.labels is None}".encode())
    for start in range(0, len(dataset), _ROWS):  # in parts, because features may be mapped from a file
        digest.update(np.ascontiguousarray(dataset.features[start : start + _ROWS]).data)
    if dataset.labels is not None:
        digest.update(np.ascontiguousarray(dataset.labels).data)
    return digest.hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
