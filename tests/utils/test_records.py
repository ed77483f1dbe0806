"""Flow records."""

import numpy as np

from dataset.records.flow_features import compute_records
from tests.captures import SHARED, needs_shared, read_packets
from utils.records import format_addresses


def test_addresses_are_formatted_in_dotted_decimal() -> None:
    assert format_addresses(np.array([0, 0x0A000001, 0xFFFFFFFF], np.uint32)) == [
        "0.0.0.0",
        "10.0.0.1",
        "255.255.255.255",
    ]


@needs_shared
def test_a_record_has_its_first_packet_and_the_packet_count_of_each_side() -> None:
    packets = read_packets(SHARED / "data" / "pcaps" / "nmap-version-scan.pcap")
    records = compute_records(packets)
    assert records.packets.sum() == len(packets)
    first = packets.take(records.first_packet)
    assert (records.first_seen == first.timestamp).all()
    assert (records.address_a == first.source).all()
    assert (records.protocol == first.protocol).all()
    assert (records.ports == first.ports).all() and records.ports.any()
