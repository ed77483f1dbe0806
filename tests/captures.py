"""Captures as the tests' own plain reader sees them, and where the shared ones are."""

from pathlib import Path

import numpy as np

from dataset.packets.packets import Packets
from tests.capture_reader import Frame, ipv4_packet, pcap_frames, pcapng_frames, read_frames
from tests.shared_data import SHARED, needs_shared

__all__ = [
    "SHARED",
    "Frame",
    "ipv4_packet",
    "needs_shared",
    "pcap_frames",
    "pcapng_frames",
    "read_frames",
    "read_packets",
]


def read_packets(path: Path) -> Packets:
    """Return the IPv4 packets of a capture; its first bytes say whether it is gzip, pcap or pcapng."""
    rows = [packet for frame in read_frames(path) if (packet := ipv4_packet(*frame)) is not None]
    columns = zip(*rows, strict=True) if rows else ([] for _ in range(7))
    dtypes = (np.int64, np.uint32, np.uint32, np.int64, np.uint8, np.uint8, np.uint32)
    return Packets(*(np.array(column, dtype) for column, dtype in zip(columns, dtypes, strict=True)))
