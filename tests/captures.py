"""The plain reader of captures, and the folder of published data."""

from pathlib import Path

import numpy as np

from dataset.packets.packets import Packets
from tests.capture_reader import Frame, parse_ipv4_packet, read_frames, read_pcap_frames, read_pcapng_frames
from tests.shared_data import SHARED, needs_shared

__all__ = [
    "SHARED",
    "Frame",
    "needs_shared",
    "parse_ipv4_packet",
    "read_frames",
    "read_packets",
    "read_pcap_frames",
    "read_pcapng_frames",
]


def read_packets(path: Path) -> Packets:
    """Return the IPv4 packets of a pcap or pcapng, plain or gzip-compressed, by the plain reader."""
    rows = [packet for frame in read_frames(path) if (packet := parse_ipv4_packet(*frame)) is not None]
    columns = zip(*rows, strict=True) if rows else ([] for _ in range(7))
    dtypes = (np.int64, np.uint32, np.uint32, np.int64, np.uint8, np.uint8, np.uint32)
    return Packets(*(np.array(column, dtype) for column, dtype in zip(columns, dtypes, strict=True)))
