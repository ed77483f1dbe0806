"""Captured frames: where they lie in a piece of a file, and what is read of all of them at once."""

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from utils.errors import CaptureError

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

LARGEST_FRAME: Final = 262_144
"""Captured bytes of a frame at most, as libpcap has it; more is damage."""

SAVE_THE_REST: Final = "what comes before can be saved with editcap or tcpdump"
"""What to do with a capture that cannot be read to its end."""


@dataclass(frozen=True)
class Frames:
    """Frames of one link type, in the file's order; arrays of one length N.

    Attributes:
        content: (B,) uint8, a piece of the file.
        start: (N,) int64, where in it each frame begins.
        captured: (N,) int64, how many of its bytes are there.
        size: (N,) int64, how many it had on the wire.
        timestamp: (N,) int64, microseconds since the epoch, rounded down.
        link_type: of all, a LINKTYPE_ number.
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
    """How a file's frames lie in it.

    Attributes:
        untimed: packets so far that came without a timestamp, and are left out.
        only_link_type: of all frames, a LINKTYPE_ number, where the file's header says it; else None.
    """

    untimed: int
    only_link_type: int | None

    def take(self, piece: bytes, place: int, /) -> tuple[list[Frames], int]:
        """Return the frames that are whole in a piece, those of each link type together, and how much is done with.

        Args:
            piece: what follows the part that was done with.
            place: of the piece in the file, for messages.

        Raises:
            CaptureError: the file is damaged.
        """


def layout(**fields: tuple[str, int]) -> np.dtype[np.void]:
    """Return the type of structures that have fields of some types at some places, which may overlap."""
    formats, offsets = zip(*fields.values(), strict=True)
    return np.dtype({"names": list(fields), "formats": formats, "offsets": offsets})


def structures(content: Bytes, at: Integers, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return what stands at places (N,) of a piece, aligned or not, as a type.

    Raises:
        IndexError: it is not whole in the piece.
    """
    # As bytes of no type a structure is copied at once, not field by field.
    untyped = np.dtype((np.void, dtype.itemsize))
    everywhere = np.ndarray((max(len(content) - dtype.itemsize + 1, 0),), untyped, content.data, strides=(1,))
    return everywhere[at].view(dtype)


def words(content: Bytes, at: Integers, dtype: str) -> Integers:
    """Return the numbers of a type, such as ``>u2``, that stand at places (N,) of a piece, as int64."""
    return structures(content, at, np.dtype(dtype)).astype(np.int64)


def damaged(place: int, found: str) -> CaptureError:
    """Return the error that a capture is damaged at a byte."""
    return CaptureError(f"is damaged at byte {place}: {found}; {SAVE_THE_REST}")
