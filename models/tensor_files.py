"""Tables of tensors and plain values in files (.pth): written whole or not at all, read without running anything."""

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
    """Write a table of plain values and tensors with torch, whole or not at all.

    Raises:
        InputFileError: the file cannot be written.
    """
    with replacing(path) as partial:
        try:
            torch.save(dict(content), partial)
        except RuntimeError as problem:  # what torch's own writer raises on a full disk
            raise OSError(0, str(problem).splitlines()[0]) from problem


def load_tensors(path: Path) -> dict[str, Any]:
    """Read a table of plain values and tensors; never run code from the file, nor take more memory than its size.

    Raises:
        CheckpointError: the file is missing, damaged or hostile, or not a table with text keys.
    """
    check_memory(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's guesses at what an odd file may be
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        raise CheckpointError(
            f"{path}: is damaged, or holds more than tensors and plain values and is not run{_named(problem)}; save "
            "the state dict alone, or fetch or train it again"
        ) from problem
    except Exception as problem:  # a damaged archive surfaces as any of a dozen types
        raise CheckpointError(f"{path}: is not a checkpoint, or is cut off; fetch or train it again") from problem
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(f"{path}: holds no table of tensors; it is not a checkpoint")
    return content


def check_memory(path: Path) -> None:
    """Refuse a file that would take more memory than its size: torch would unpack it without a limit.

    Raises:
        CheckpointError: it is such a file, or cannot be read.
    """
    check_readable(path, CheckpointError)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        members = []  # torch's older format, or no checkpoint at all
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(
            f"{path}: its parts are compressed, which torch.save never does; save it again with torch"
        )
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError(f"{path}: its parts are larger than the file itself; do not trust it")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # A pickle may ask for bytearray(10**11); state dicts hold none.
        if content.find(b"bytearray") >= 0:
            raise CheckpointError(f"{path}: holds a byte array, which no checkpoint needs; do not trust it")


def _named(problem: pickle.UnpicklingError) -> str:
    """Return in brackets what torch refused to look up, where its message names it."""
    found = re.search(r"Unsupported global: GLOBAL ([\w.]{1,80})", str(problem))
    return f" ({found[1]})" if found else ""
