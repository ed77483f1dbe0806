"""Collect features in memory, or in a temporary file once they exceed a limit."""

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
"""Largest number of bytes of features kept in memory. It is constant, so that a run is the same on any machine."""


class FeatureBuffer:
    """A growing table of features (N, 58) float32, to be used in a ``with`` block.

    The temporary file is in TMPDIR. It has no name, so it disappears when the process ends, for whatever reason.
    """

    def __init__(self) -> None:
        self._chunks: list[NDArray[np.float32]] = []
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
            share: fraction of the whole table that has been added so far, with these rows, within (0, 1]; the needed
                disk space is computed from it.

        Raises:
            DatasetError: the folder for temporary files has too little space, or cannot be written to.
        """
        self._bytes += features.nbytes
        self._chunks.append(features)
        if self._file is None and self._bytes > MOST_IN_MEMORY:
            self._open_file(self._bytes / share)
        if self._file is not None:
            self._write()

    def finish(self) -> tuple[NDArray[np.float32], Path | None]:
        """Return the whole table, and the folder of its temporary file; None if the table is in memory.

        A table in a file is mapped read-only, so that the system can evict its pages from memory.

        Raises:
            DatasetError: the file cannot be mapped.
        """
        if self._file is None:
            return (self._chunks[0] if len(self._chunks) == 1 else np.concatenate(self._chunks)), None
        try:
            mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as problem:
            raise self._make_error(problem.strerror) from problem
        if hasattr(mmap, "MADV_RANDOM"):
            # A batch has rows from all over the file; reading ahead would fetch a hundred times as much.
            mapped.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(mapped, dtype=np.float32).reshape(-1, FEATURE_COUNT), self._folder

    def _open_file(self, needed: float) -> None:
        try:
            self._folder = Path(tempfile.gettempdir())
        except OSError as problem:
            raise self._make_error(problem.strerror or "there is no writable folder for temporary files") from problem
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise self._make_error(f"{free / 1e6:.0f} MB are free, about {needed / 1e6:.0f} MB are needed")
        try:
            # Unbuffered: closing a buffered file on a full disk would try to write the rest again.
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115  # closed by __exit__
        except OSError as problem:
            raise self._make_error(problem.strerror) from problem

    def _write(self) -> None:
        assert self._file is not None
        try:
            for chunk in self._chunks:
                rest = np.ascontiguousarray(chunk).data.cast("B")
                while rest:
                    rest = rest[self._file.write(rest) :]
        except OSError as problem:
            raise self._make_error(problem.strerror) from problem
        self._chunks.clear()

    def _make_error(self, reason: str | None) -> DatasetError:
        return DatasetError(
            f"{self._folder or 'TMPDIR'}: cannot hold the features, which are too large for memory: {reason}; "
            "free disk space, or set TMPDIR to another folder"
        )
