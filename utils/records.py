"""Define flow records, which are computed from captures and then get verdicts and alerts."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from utils.schema import FEATURES, IDENTITY

WINDOW_SECONDS: Final = 15

_PACKETS: Final = [FEATURES.index(f"MOORE_total_packets_{direction}") for direction in ("a_b", "b_a")]


@dataclass(frozen=True)
class Records:
    """Flow records, in the order of their first packets; arrays of one length R.

    A record is all traffic between two addresses in a window of ``WINDOW_SECONDS``, of all protocols and ports;
    ``protocol`` and ``ports`` are those of its first packet.

    Attributes:
        window_start: (R,) int64, seconds since the epoch.
        address_a: (R,) uint32, source of the record's first packet.
        address_b: (R,) uint32, destination of the record's first packet.
        features: (R, 58) float64, raw, in the order of ``schema.FEATURES``; times in microseconds, sizes in
            bytes, throughput in bytes per microsecond.
        first_packet: (R,) int64, index of the record's first packet in the capture.
        first_seen: (R,) int64, time of the first packet, microseconds since the epoch.
        protocol: (R,) uint8, protocol of the first packet.
        ports: (R,) uint32, ports of the first packet, as in ``dataset.packets.packets.Packets``.
    """

    window_start: NDArray[np.int64]
    address_a: NDArray[np.uint32]
    address_b: NDArray[np.uint32]
    features: NDArray[np.float64]
    first_packet: NDArray[np.int64]
    first_seen: NDArray[np.int64]
    protocol: NDArray[np.uint8]
    ports: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.window_start)

    @property
    def packets(self) -> NDArray[np.int64]:
        """Numbers of packets that a and b sent, (R, 2) int64."""
        return self.features[:, _PACKETS].astype(np.int64)

    def take(self, chosen: NDArray[np.intp]) -> Self:
        """Return the records at the given indices (K,), in that order."""
        return type(self)(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Return the records of one or more parts, one after another."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def make_identity_columns(records: Records) -> dict[str, NDArray[Any]]:
    """Return the columns of ``schema.IDENTITY``, each (R,), by name."""
    addresses = (np.array(format_addresses(of), dtype=object) for of in (records.address_a, records.address_b))
    return dict(zip(IDENTITY, (records.window_start, *addresses), strict=True))


def format_addresses(addresses: NDArray[np.uint32]) -> list[str]:
    """Return IPv4 addresses (N,) in dotted decimal notation."""
    parts = addresses.astype(">u4").view(np.uint8).reshape(-1, 4)
    return [f"{a}.{b}.{c}.{d}" for a, b, c, d in parts.tolist()]
