"""Captured frames as arrays, and helpers that read all frames of a chunk at once."""

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from utils.errors import CaptureError

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

LARGEST_FRAME: Final = 262_144
"""Largest captured length in bytes, the limit of libpcap; a greater one means damage."""

SAVE_THE_BEGINNING: Final = "what comes before can be saved with editcap or tcpdump"
"""What to do with a capture that is damaged from some byte on."""


@dataclass(frozen=True)
class Frames:
    """Frames of one link type, in the order of the file; arrays of one length N.

    Attributes:
        content: (B,) uint8, a chunk of the file.
        start: (N,) int64, offset of each frame in ``content``.
        captured: (N,) int64, captured bytes of each frame.
        size: (N,) int64, bytes of each frame on the wire.
        timestamp: (N,) int64, microseconds since the epoch, rounded down.
        link_type: of all frames, a LINKTYPE_ number.
    """

    content: Bytes
    start: Integers
    captured: Integers
    size: Integers
    timestamp: Integers
    link_type: int

    def __len__(self) -> int:
        return len(self.start)


class CaptureFormat(Protocol):
    """Parses the frames of one capture file.

    Attributes:
        untimed: packets so far that have no timestamp and are left out.
        only_link_type: of all frames, a LINKTYPE_ number, if the file header states it; else None.
    """

    untimed: int
    only_link_type: int | None

    def parse(self, chunk: bytes, offset: int, /) -> tuple[list[Frames], int]:
        """Return the complete frames of a chunk, grouped by link type, and the number of bytes that were parsed.

        Args:
            chunk: the bytes that follow those parsed before.
            offset: of the chunk in the file, for error messages.

        Raises:
            CaptureError: the file is damaged.
        """


def define_structure(**fields: tuple[str, int]) -> np.dtype[np.void]:
    """Return the dtype of a structure from the type and offset of each field; fields may overlap."""
    formats, offsets = zip(*fields.values(), strict=True)
    return np.dtype({"names": list(fields), "formats": formats, "offsets": offsets})


def read_structures(content: Bytes, at: Integers, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the structures of a dtype at offsets (N,), aligned or not.

    Raises:
        IndexError: one lies beyond the end of the content.
    """
    # As untyped bytes a structure is copied at once, not field by field.
    untyped = np.dtype((np.void, dtype.itemsize))
    everywhere = np.ndarray((max(len(content) - dtype.itemsize + 1, 0),), untyped, content.data, strides=(1,))
    return everywhere[at].view(dtype)


def read_numbers(content: Bytes, at: Integers, dtype: str) -> Integers:
    """Return the numbers of a dtype, such as ``>u2``, at offsets (N,) as int64."""
    return read_structures(content, at, np.dtype(dtype)).astype(np.int64)


def make_damage_error(offset: int, found: str) -> CaptureError:
    """Return the error for a capture that is damaged at a byte."""
    return CaptureError(f"is damaged at byte {offset}: {found}; {SAVE_THE_BEGINNING}")
