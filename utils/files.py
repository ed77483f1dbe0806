"""Check paths before they are used, and write files atomically."""

import glob
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from utils.errors import InputFileError

NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
"""Flag that refuses to open a symbolic link, which anyone can create in a shared folder."""

COMPRESSIONS: Final[dict[str, Literal["bz2", "gzip"]]] = {".bz2": "bz2", ".gz": "gzip"}
"""Maps the ending of a table's name to the compression with which it is written; other tables are plain text."""

ByteProgress = Callable[[int, int | None], object]
"""Called with the number of bytes read from all files so far, and the total size of the files."""

_TABLE_ENDINGS: Final = (".csv", ".txt", "")


def ignore_progress(_done: int, _total: int | None) -> None:
    """Ignore the progress; a ``ByteProgress``."""


def check_readable(path: Path, error: type[InputFileError] = InputFileError) -> Path:
    """Return ``path`` if it is a non-empty file that this process may read.

    Raises:
        InputFileError: (``error``) the file is missing, empty, a folder, or not readable.
    """
    if stat.S_ISDIR(_read_mode(path)):
        raise error(f"{path}: is a folder; name a file in it")
    try:
        with path.open("rb") as stream:
            if not stream.read(1):
                raise error(f"{path}: is empty; it may be an interrupted copy, fetch or make it again")
    except (FileNotFoundError, NotADirectoryError) as problem:
        raise error(f"{path}: no such file; check the path") from problem
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}; check the path and its permissions") from problem
    return path


def _read_mode(path: Path) -> int:
    """Return the type and permissions of a path as in ``stat``; 0 if it is missing or cannot be examined.

    There is no error, because using the path will raise it.
    """
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def compute_digest(path: Path, error: type[InputFileError] = InputFileError) -> str:
    """Return the SHA-256 of a file, hexadecimal.

    Raises:
        InputFileError: (``error``) as for ``check_readable``.
    """
    with check_readable(path, error).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_folder(path: Path) -> Path:
    """Return ``path`` if it is a folder.

    Raises:
        InputFileError: the path is missing, or is not a folder.
    """
    if not stat.S_ISDIR(_read_mode(path)):
        problem = "is a file, not a folder" if os.access(path, os.F_OK) else "no such folder"
        raise InputFileError(f"{path}: {problem}; name a folder")
    return path


def expand_pattern(path: Path) -> list[Path]:
    """Return, sorted, the files that match a pattern; only the path itself if it exists or if nothing matches."""
    found = sorted(map(Path, glob.glob(str(path)))) if glob.has_magic(str(path)) else []  # noqa: PTH207  # any folder
    return [path] if not found or path in found else found


def make_folder(path: Path) -> Path:
    """Create the folder ``path`` with its parents if needed, and check that files can be created in it.

    Raises:
        InputFileError: the folder cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as problem:
        raise InputFileError(f"{path}: cannot be written to: {problem.strerror}; choose another folder") from problem
    return path


def check_writable(path: Path) -> Path:
    """Return ``path`` if a file of that name can be written; create its folder if needed.

    Call it before a long computation, so that a wrong name is reported early.

    Raises:
        InputFileError: the path is a folder, a device or a pipe, or its folder cannot be written to.
    """
    mode = _read_mode(path)
    if stat.S_ISDIR(mode):
        raise InputFileError(f"{path}: is a folder; name the file to write in it")
    if mode and not stat.S_ISREG(mode):
        # The finished file would replace /dev/null itself.
        raise InputFileError(f"{path}: is a device or a pipe, not a file; name a file")
    make_folder(path.parent)
    try:
        # The temporary name is longer, so a name that is too long fails now and not after the computation.
        partial, _ = _create_partial(path)
        partial.unlink()
    except OSError as problem:
        raise InputFileError(f"{path}: cannot be written: {problem.strerror}; choose another name") from problem
    return path


def check_table(path: Path) -> Path:
    """Return ``path`` if a CSV of that name can be written; create its folder if needed.

    Raises:
        InputFileError: as for ``check_writable``, or the ending of the name names another format.
    """
    check_table_ending(path)
    return check_writable(path)


def check_table_ending(path: Path) -> None:
    """Check that the ending of a table's name does not name a format other than CSV.

    Raises:
        InputFileError: the ending names another format. One without letters, as in ``month.01``, names no format.
    """
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    if endings and endings[-1] in COMPRESSIONS:
        endings.pop()
    named = endings[-1] if endings else ""
    if named not in _TABLE_ENDINGS and any(letter.isalpha() for letter in named):
        raise InputFileError(
            f"{path}: tables are written as CSV, not as {named}; end the name in .csv, .csv.gz or .csv.bz2"
        )


def check_apart(output: Path, inputs: Iterable[Path]) -> None:
    """Check that an output is not one of the inputs, which it would replace.

    Raises:
        InputFileError: the output is an input.
    """
    for path in inputs:
        try:
            same = output.samefile(path)
        except OSError:
            continue  # one of them does not exist, or using it will raise the error
        if same:
            raise InputFileError(f"{output}: is an input, too, and would be lost; choose another name for the output")


def check_distinct(outputs: Iterable[Path | None]) -> None:
    """Check that no two of the given outputs are the same file; ignore outputs that are None.

    Raises:
        InputFileError: two outputs are the same file.
    """
    named = [path for path in outputs if path is not None]
    places = [os.path.realpath(path) for path in named]
    for path, place in zip(named, places, strict=True):
        if places.count(place) > 1:
            raise InputFileError(f"{path}: is named for two outputs; choose another name for one")


def is_pipe(path: Path) -> bool:
    """Return whether ``path`` is a named pipe, or a pipe of the shell, as in ``<(zcat capture.gz)``."""
    return stat.S_ISFIFO(_read_mode(path))


def _create_partial(path: Path, permissions: int = 0o666) -> tuple[Path, os.stat_result]:
    """Create an empty file beside ``path`` with a name that cannot be guessed, and return its path and status.

    Raises:
        OSError: the file cannot be created.
    """
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.part{path.suffix}")
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW, permissions)
    try:
        return partial, os.fstat(file)
    finally:
        os.close(file)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file beside ``path``, which replaces ``path`` if the block succeeds.

    A reader sees either the old file or the complete new file, which gets the permissions of the old one. After an
    exception, the temporary file is removed. It has the suffix of ``path``, by which matplotlib chooses the format.

    Raises:
        InputFileError: the file cannot be written, for example because the disk is full.
    """
    path = Path(path)
    check_writable(path)
    mode = _read_mode(path)
    permissions = mode & 0o777 if mode else None
    partial = None
    try:
        # While the file is written, other users must not be able to read the new content of a private file.
        partial, created = _create_partial(path, 0o666 if permissions is None else 0o600)
        yield partial
        _finish(partial, created, permissions)
        partial.replace(path)
    except BrokenPipeError:
        raise  # from printing in the block, not from this file
    except OSError as problem:
        raise InputFileError(
            f"{path}: cannot be written: {problem.strerror or problem}; free disk space or choose another folder"
        ) from problem
    finally:
        if partial is not None:
            with suppress(OSError):
                partial.unlink()


def _finish(partial: Path, created: os.stat_result, permissions: int | None) -> None:
    """Flush a finished file to the disk and set its permissions.

    Raises:
        OSError: the file is empty, or is not the one that was created.
    """
    file = os.open(partial, os.O_RDONLY | NO_FOLLOW)
    try:
        found = os.fstat(file)
        if not os.path.samestat(found, created) or not found.st_size:
            raise OSError(0, "nothing was written to its temporary file")
        if permissions is not None:
            os.fchmod(file, permissions)
        os.fsync(file)
    finally:
        os.close(file)
