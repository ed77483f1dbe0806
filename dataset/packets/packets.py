"""IPv4 packets as columns, one array for each field."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

_DTYPES: Final = ("i8", "u4", "u4", "i8", "u1", "u1", "u4")
_KEY: Final = tuple(np.uint64(secrets.randbits(64) | 1) for _ in range(2))
"""Odd factors, of this process alone; see ``_scramble``."""


@dataclass(frozen=True)
class Packets:
    """IPv4 packets, in the order of the capture; arrays of one length P.

    Attributes:
        timestamp: (P,) int64, microseconds since the epoch.
        source: (P,) uint32, IPv4 address.
        destination: (P,) uint32, IPv4 address.
        size: (P,) int64, bytes of the frame on the wire, not only the captured ones; less than 2**32.
        protocol: (P,) uint8, of the IPv4 header.
        tcp_flags: (P,) uint8, FIN in the lowest bit; 0 where unknown or not TCP.
        ports: (P,) uint32, source port in the upper 16 bits, destination port in the lower; of ICMP, type and code;
            0 where unknown.
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
        if len(self) and not 0 <= self.size.min() <= self.size.max() < 1 << 32:
            raise ValueError(f"sizes from {self.size.min()} to {self.size.max()}; they lie within [0, 2**32)")

    def __len__(self) -> int:
        return len(self.timestamp)

    @property
    def pairs(self) -> NDArray[np.uint64]:
        """Keys (P,) of the unordered address pairs; they differ from process to process.

        A sender chooses its packets' addresses. Secret factors keep it from choosing pairs whose keys collide in a
        hash table, which would make the table slow.
        """
        pairs = np.minimum(self.source, self.destination).astype(np.uint64)
        pairs <<= np.uint64(32)
        pairs |= np.maximum(self.source, self.destination)
        return _scramble(pairs)

    def take(self, chosen: NDArray[np.intp]) -> Self:
        """Return the packets at indices (K,), in that order."""
        return type(self)(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Return the packets of one or more parts, one after another."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


NO_PACKETS: Final = Packets(*(np.empty(0, dtype) for dtype in _DTYPES))


def _scramble(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Replace numbers (N,) in place by distinct ones that no other process can predict."""
    # Every step is invertible, so different numbers stay different. Python's hash of an integer has no key.
    upper = np.empty_like(numbers)
    for factor, shift in zip(_KEY, (32, 29), strict=True):
        numbers *= factor
        numbers ^= np.right_shift(numbers, np.uint64(shift), out=upper)
    return numbers
