"""A feature table that grows piece by piece: in memory while it is small, in an unnamed file once it is not."""

import io
import mmap
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from utils.errors import DatasetError
from utils.schema import FEATURE_COUNT

MOST_IN_MEMORY: Final = 128 * 2**20
"""Bytes of features beyond which they are kept in a file; a fixed number, so that a run is the same on any machine."""


class Spool:
    """Features (N, 58) float32 on their way into memory or a file, within ``with``.

    The file has no name: it is gone with the process, however that ends. It lies in TMPDIR.
    """

    def __init__(self) -> None:
        self._pieces: list[NDArray[np.float32]] = []
        self._bytes = 0
        self._file: io.FileIO | None = None
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, features: NDArray[np.float32], share: float) -> None:
        """Add rows (n, 58).

        Args:
            features: the rows.
            share: of the whole, how much there is with them, within (0, 1]; tells how much room is needed.

        Raises:
            DatasetError: there is no room in the folder for temporary files.
        """
        self._bytes += features.nbytes
        self._pieces.append(features)
        if self._file is None and self._bytes > MOST_IN_MEMORY:
            self._begin(self._bytes / share)
        if self._file is not None:
            self._write()

    def finish(self) -> tuple[NDArray[np.float32], Path | None]:
        """Return the whole table and the folder that its file lies in, None where it is in memory.

        A table in a file is read-only, and what was read of it can be dropped from memory again.

        Raises:
            DatasetError: the file cannot be mapped.
        """
        if self._file is None:
            return (self._pieces[0] if len(self._pieces) == 1 else np.concatenate(self._pieces)), None
        try:
            mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as problem:
            raise self._no_room(problem.strerror) from problem
        if hasattr(mmap, "MADV_RANDOM"):
            # A batch is a few rows from everywhere; reading ahead would fetch a hundred times as much.
            mapped.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(mapped, dtype=np.float32).reshape(-1, FEATURE_COUNT), self._folder

    def _begin(self, needed: float) -> None:
        try:
            self._folder = Path(tempfile.gettempdir())
        except OSError as problem:
            raise self._no_room(problem.strerror or "there is no writable folder for temporary files") from problem
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise self._no_room(f"{free / 1e6:.0f} MB are free, about {needed / 1e6:.0f} MB are needed")
        try:
            # Without a buffer, which would be written once more when a full disk is given up.
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115  # closed by __exit__
        except OSError as problem:
            raise self._no_room(problem.strerror) from problem

    def _write(self) -> None:
        assert self._file is not None
        try:
            for piece in self._pieces:
                rest = np.ascontiguousarray(piece).data.cast("B")
                while rest:
                    rest = rest[self._file.write(rest) :]
        except OSError as problem:
            raise self._no_room(problem.strerror) from problem
        self._pieces.clear()

    def _no_room(self, reason: str | None) -> DatasetError:
        return DatasetError(
            f"{self._folder or 'TMPDIR'}: cannot hold the features, which are too large for memory: {reason}; "
            f"make room or set TMPDIR to another folder"
        )
