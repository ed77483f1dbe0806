"""Write tables of tensors and plain values (.pth) atomically, and read them without running code from them."""

import mmap
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from utils.errors import CheckpointError
from utils.files import check_readable, replacing


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write a table of plain values and tensors with torch, atomically.

    Raises:
        InputFileError: the file cannot be written.
    """
    with replacing(path) as partial:
        try:
            torch.save(dict(content), partial)
        except RuntimeError as problem:  # torch raises it on a full disk
            raise OSError(0, str(problem).splitlines()[0]) from problem


def load_tensors(path: Path) -> dict[str, Any]:
    """Read a table of plain values and tensors without running code from the file, in no more memory than its size.

    Raises:
        CheckpointError: the file is missing, damaged or hostile, or not a table with text keys.
    """
    check_memory(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about unusual files
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        raise CheckpointError(
            f"{path}: is damaged, or holds more than tensors and plain values{_quote_refused(problem)}. Save the state "
            "dict alone, or fetch or train it again."
        ) from problem
    except Exception as problem:  # a damaged archive raises any of a dozen types
        raise CheckpointError(f"{path}: is not a checkpoint, or is truncated. Fetch or train it again.") from problem
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(f"{path}: holds no table of tensors. Name a checkpoint.")
    return content


def check_memory(path: Path) -> None:
    """Check that reading a file takes no more memory than its size; torch itself unpacks without a limit.

    Raises:
        CheckpointError: reading the file would take more memory, or the file cannot be read.
    """
    check_readable(path, CheckpointError)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        members = []  # torch's older format, or not a checkpoint
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(
            f"{path}: its parts are compressed, which torch.save never does. Save it again with torch."
        )
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError(f"{path}: its parts are larger than the file itself. Do not trust it.")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # A pickle may request bytearray(10**11); state dicts hold no byte arrays.
        if content.find(b"bytearray") >= 0:
            raise CheckpointError(f"{path}: holds a byte array, which no checkpoint needs. Do not trust it.")


def _quote_refused(problem: pickle.UnpicklingError) -> str:
    """Return, in brackets, the name that torch refused to look up; an empty text if its message does not give it."""
    found = re.search(r"Unsupported global: GLOBAL ([\w.]{1,80})", str(problem))
    return f" ({found[1]})" if found else ""
