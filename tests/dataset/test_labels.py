"""Labels of records: MAWILab's CSVs and plain lists."""

import ipaddress
from pathlib import Path

import numpy as np
import pytest

from dataset.flow_features import flow_features
from dataset.labels import read_labels
from tests.captures import SHARED, needs_shared, read_packets
from utils.errors import InputFileError
from utils.records import Records, dotted

HEADER = "anomalyID, srcIP, srcPort, dstIP, dstPort, taxonomy, heuristic, distance, nbDetectors, label\n"
TCP, UDP, ICMP = 6, 17, 1
FLOWS = [
    ("10.0.0.1", 4000, "10.0.0.2", 80, TCP),
    ("10.0.0.2", 80, "10.0.0.1", 4000, TCP),
    ("10.0.0.1", 4000, "10.0.0.3", 53, UDP),
    ("10.0.0.4", 8, "10.0.0.5", 0, ICMP),
    ("10.0.0.6", 0, "10.0.0.7", 8, UDP),
]


def records() -> Records:
    """Return a record of each of the flows."""
    count = len(FLOWS)
    a, port_a, b, port_b, protocol = zip(*FLOWS, strict=True)
    zeros = np.zeros(count, np.int64)
    return Records(
        zeros,
        np.array([int(ipaddress.ip_address(address)) for address in a], np.uint32),
        np.array([int(ipaddress.ip_address(address)) for address in b], np.uint32),
        np.zeros((count, 58)),
        zeros,
        zeros,
        np.array(protocol, np.uint8),
        np.array([a << 16 | b for a, b in zip(port_a, port_b, strict=True)], np.uint32),
    )


def classes(tmp_path: Path, content: str) -> list[int]:
    path = tmp_path / "labels.csv"
    path.write_text(content)
    found: list[int] = read_labels(path).of(records()).tolist()
    return found


def mawilab(*flows: str, label: str = "anomalous") -> str:
    return HEADER + "".join(f"{number}, {flow}, scan, 20, 1.5, 3, {label}\n" for number, flow in enumerate(flows))


@pytest.mark.parametrize(
    ("flow", "attacks"),
    [
        ("10.0.0.1,,,", [1, 0, 1, 0, 0]),
        ("10.0.0.1,4000,10.0.0.2,80", [1, 0, 0, 0, 0]),
        ("10.0.0.1,4000,10.0.0.2,81", [0, 0, 0, 0, 0]),
        (",80,,", [0, 1, 0, 0, 0]),
        (",,10.0.0.5,", [0, 0, 0, 1, 0]),
        (",,,53", [0, 0, 1, 0, 0]),
        ("10.0.0.2,,10.0.0.1,", [0, 1, 0, 0, 0]),
    ],
)
def test_a_rule_of_mawilab_fits_records_whose_first_packet_it_names_and_empty_is_anything(
    tmp_path: Path, flow: str, attacks: list[int]
) -> None:
    assert classes(tmp_path, mawilab(flow)) == attacks


def test_an_icmp_packet_has_no_ports_to_fit(tmp_path: Path) -> None:
    for port in (0, 8):
        assert classes(tmp_path, mawilab(f",{port},,"))[3] == 0
        assert classes(tmp_path, mawilab(f",,,{port}"))[3] == 0
    assert classes(tmp_path, mawilab(",8,,")) == [0, 0, 0, 0, 0]
    assert classes(tmp_path, mawilab(",,,8")) == [0, 0, 0, 0, 1]


def test_only_anomalous_and_suspicious_traffic_is_an_attack(tmp_path: Path) -> None:
    assert classes(tmp_path, mawilab("10.0.0.1,,,", label="suspicious")) == [1, 0, 1, 0, 0]
    assert classes(tmp_path, mawilab("10.0.0.1,,,", label="notice")) == [0] * 5
    assert classes(tmp_path, mawilab("10.0.0.1,,,", label="benign")) == [0] * 5


@pytest.mark.parametrize(
    ("content", "attacks"),
    [
        ("10.0.0.3\n", [0, 0, 1, 0, 0]),
        ("# attackers\n\n10.0.0.4 # the scanner\n10.0.0.7\n", [0, 0, 0, 1, 1]),
        ("10.0.0.2,10.0.0.1\n", [1, 1, 0, 0, 0]),
        ("10.0.0.3,53,10.0.0.1,4000\n", [0, 0, 1, 0, 0]),
        ("10.0.0.1,,10.0.0.2,80\n", [1, 1, 0, 0, 0]),
        ("# no attackers\n", [0, 0, 0, 0, 0]),
    ],
)
def test_a_plain_list_fits_records_in_either_direction(tmp_path: Path, content: str, attacks: list[int]) -> None:
    assert classes(tmp_path, content) == attacks


def test_lines_of_ipv6_are_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(mawilab("2001:db8::1,,,", "10.0.0.1,,,"))
    labels = read_labels(path)
    assert (labels.ignored, len(labels.rules)) == (1, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (mawilab(",,,"), "line 2 names no address and no port"),
        (mawilab("10.0.0.1,65536,,"), "line 2: '65536' is no port"),
        (mawilab("10.0.0.1,-1,,"), "line 2: '-1' is no port"),
        (mawilab("10.0.0.256,,,"), "line 2: '10.0.0.256' does not appear to be an IPv4 or IPv6 address"),
        (HEADER + "1, 10.0.0.1\n", "line 2 has 2 fields, not 10"),
        ("10.0.0.1,10.0.0.2,10.0.0.3\n", "line 1 is neither an address"),
        ("anomalous\n", "line 1: 'anomalous' does not appear"),
        ('"' + "x" * 200_000 + '"\n', "field larger than field limit"),
        (",\n", "line 1 names no address"),
    ],
)
def test_a_line_that_says_nothing_is_refused_by_its_number(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputFileError, match=message):
        classes(tmp_path, content)


@needs_shared
@pytest.mark.parametrize("name", ["nmap-version-scan.pcap", "echo-connections.pcap.gz"])
def test_labels_of_a_real_capture_are_those_of_its_records_one_by_one(tmp_path: Path, name: str) -> None:
    found = flow_features(read_packets(SHARED / "data" / "pcaps" / name))
    chosen = np.random.default_rng(1).choice(len(found), min(40, len(found)), replace=False)
    a, b, ports = dotted(found.address_a), dotted(found.address_b), found.ports.tolist()
    whole = {(a[i], ports[i] >> 16, b[i], ports[i] & 0xFFFF) for i in chosen}
    path = tmp_path / "labels.csv"
    path.write_text(mawilab(*(",".join(map(str, flow)) for flow in sorted(whole))))
    wanted = [
        int((a[i], ports[i] >> 16, b[i], ports[i] & 0xFFFF) in whole and found.protocol[i] != ICMP)
        for i in range(len(found))
    ]
    assert read_labels(path).of(found).tolist() == wanted
    assert any(wanted)
