"""Flow records."""

import numpy as np

from dataset.records.flow_features import flow_features
from tests.captures import SHARED, needs_shared, read_packets
from utils.records import dotted


def test_addresses_are_written_as_people_do() -> None:
    assert dotted(np.array([0, 0x0A000001, 0xFFFFFFFF], np.uint32)) == ["0.0.0.0", "10.0.0.1", "255.255.255.255"]


@needs_shared
def test_a_record_tells_its_first_packet_and_how_many_each_side_sent() -> None:
    packets = read_packets(SHARED / "data" / "pcaps" / "nmap-version-scan.pcap")
    records = flow_features(packets)
    assert records.packets.sum() == len(packets)
    first = packets.take(records.first_packet)
    assert (records.first_seen == first.timestamp).all()
    assert (records.address_a == first.source).all()
    assert (records.protocol == first.protocol).all()
    assert (records.ports == first.ports).all() and records.ports.any()
