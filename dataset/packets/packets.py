"""The IPv4 packets of a capture, as a table of columns."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

SIZE_BITS: Final = 32
_DTYPES: Final = ("i8", "u4", "u4", "i8", "u1", "u1", "u4")
_KEY: Final = tuple(np.uint64(secrets.randbits(64) | 1) for _ in range(2))
"""Odd factors, of this process alone; see ``_scramble``."""


@dataclass(frozen=True)
class Packets:
    """Packets of a capture, in its order; arrays of one length P.

    Attributes:
        timestamp: (P,) int64, microseconds since the epoch.
        source: (P,) uint32, IPv4 address.
        destination: (P,) uint32, IPv4 address.
        size: (P,) int64, bytes of the frame on the wire, however few of them were captured; less than 2**32.
        protocol: (P,) uint8, of the IPv4 header.
        tcp_flags: (P,) uint8, FIN in the lowest bit; 0 where not known or not TCP.
        ports: (P,) uint32, of the source in the upper 16 bits, of the destination in the lower; of ICMP, type and code;
            0 where not known.
    """

    timestamp: NDArray[np.int64]
    source: NDArray[np.uint32]
    destination: NDArray[np.uint32]
    size: NDArray[np.int64]
    protocol: NDArray[np.uint8]
    tcp_flags: NDArray[np.uint8]
    ports: NDArray[np.uint32]

    def __post_init__(self) -> None:
        for field, dtype in zip(fields(self), _DTYPES, strict=True):
            column = getattr(self, field.name)
            if column.dtype != np.dtype(dtype) or column.shape != (len(self),):
                raise ValueError(f"{field.name} is {column.dtype} {column.shape}, not {np.dtype(dtype)} ({len(self)},)")
        if len(self) and not 0 <= self.size.min() <= self.size.max() < 1 << SIZE_BITS:
            raise ValueError(f"sizes from {self.size.min()} to {self.size.max()}; they lie within [0, 2**32)")

    def __len__(self) -> int:
        return len(self.timestamp)

    @property
    def pairs(self) -> NDArray[np.uint64]:
        """A number (P,) of the two addresses, whichever is the source; another one in each process.

        Whoever sends packets chooses their addresses. The numbers are keyed, so that nobody can choose pairs whose
        numbers collide in a hash table, which would make it slow.
        """
        pairs = np.minimum(self.source, self.destination).astype(np.uint64)
        pairs <<= np.uint64(32)
        pairs |= np.maximum(self.source, self.destination)
        return _scramble(pairs)

    def take(self, chosen: NDArray[np.intp]) -> Self:
        """Return the packets at some places (K,), in that order."""
        return type(self)(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the packets of several parts, at least one, one after another."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


NO_PACKETS: Final = Packets(*(np.empty(0, dtype) for dtype in _DTYPES))


def _scramble(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Replace numbers (N,) in place by others that only this process can foretell, different ones by different ones."""
    # Every step can be undone, so no two numbers become one. Python's own hashes of integers have no key.
    upper = np.empty_like(numbers)
    for factor, shift in zip(_KEY, (32, 29), strict=True):
        numbers *= factor
        numbers ^= np.right_shift(numbers, np.uint64(shift), out=upper)
    return numbers
