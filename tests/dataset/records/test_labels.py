"""Records are labelled by CSVs of MAWILab and plain lists."""

import bz2
import codecs
import gzip
import ipaddress
import lzma
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dataset.records.flow_features import compute_records
from dataset.records.labels import Labels, Rule, read_labels
from tests.captures import SHARED, needs_shared, read_packets
from utils.errors import InputFileError
from utils.records import Records, format_addresses

HEADER = "anomalyID, srcIP, srcPort, dstIP, dstPort, taxonomy, heuristic, distance, nbDetectors, label\n"
TCP, UDP, ICMP = 6, 17, 1
FLOWS = [
    ("10.0.0.1", 4000, "10.0.0.2", 80, TCP),
    ("10.0.0.2", 80, "10.0.0.1", 4000, TCP),
    ("10.0.0.1", 4000, "10.0.0.3", 53, UDP),
    ("10.0.0.4", 8, "10.0.0.5", 0, ICMP),
    ("10.0.0.6", 0, "10.0.0.7", 8, UDP),
]


def make_records() -> Records:
    """Return one record for each of ``FLOWS``."""
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


def classify(tmp_path: Path, content: str) -> list[int]:
    path = tmp_path / "labels.csv"
    path.write_text(content)
    found: list[int] = read_labels(path).classify(make_records()).tolist()
    return found


def make_mawilab(*flows: str, label: str = "anomalous") -> str:
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
def test_a_rule_of_mawilab_matches_the_first_packet_and_empty_fields_match_anything(
    tmp_path: Path, flow: str, attacks: list[int]
) -> None:
    assert classify(tmp_path, make_mawilab(flow)) == attacks


def test_an_icmp_packet_has_no_ports_to_match(tmp_path: Path) -> None:
    for port in (0, 8):
        assert classify(tmp_path, make_mawilab(f",{port},,"))[3] == 0
        assert classify(tmp_path, make_mawilab(f",,,{port}"))[3] == 0
    assert classify(tmp_path, make_mawilab(",8,,")) == [0, 0, 0, 0, 0]
    assert classify(tmp_path, make_mawilab(",,,8")) == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("label", ["Anomalous", "ANOMALOUS", "anomalous ", " Suspicious"])
def test_the_case_of_a_label_does_not_matter(tmp_path: Path, label: str) -> None:
    assert classify(tmp_path, make_mawilab("10.0.0.1,,,", label=label)) == [1, 0, 1, 0, 0]
    assert classify(tmp_path, make_mawilab("10.0.0.1,,,", label=label).replace("srcIP", "SRCIP")) == [1, 0, 1, 0, 0]
    assert classify(tmp_path, make_mawilab("10.0.0.1,,,", label="Notice")) == [0] * 5


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("anomolous", "line 2: the label 'anomolous' is unknown .*; correct or delete it"),
        ("", "line 2: the label is empty .*; correct or delete it"),
        ("1", "line 2: the label '1' is unknown"),
        ("attack", r"MAWILab's labels are anomalous, suspicious, notice, benign"),
    ],
)
def test_an_unknown_label_is_refused_with_its_line_number(tmp_path: Path, label: str, message: str) -> None:
    with pytest.raises(InputFileError, match=message):
        classify(tmp_path, make_mawilab("10.0.0.1,,,", label=label))


@pytest.mark.parametrize("content", ["10.0.0.3\n", make_mawilab(",,10.0.0.3,"), "# comment\r\n10.0.0.3\r\n"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (b"", "utf-8"),
    ],
)
def test_a_byte_order_mark_is_not_part_of_the_labels(tmp_path: Path, content: str, mark: bytes, encoding: str) -> None:
    path = tmp_path / "labels"
    path.write_bytes(mark + content.encode(encoding))
    assert read_labels(path).classify(make_records()).tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("before", ["", "\ufeff", "\n  "])
@pytest.mark.parametrize("content", ['<?xml version="1.0"?>\n<admd:annotation/>\n', "<admd:annotation>\n"])
def test_xml_is_reported_as_such(tmp_path: Path, before: str, content: str) -> None:
    with pytest.raises(InputFileError, match=r"labels\.csv: is XML, .* name MAWILab's CSV of the same day"):
        classify(tmp_path, before + content)


def test_compressed_labels_are_reported_as_such(tmp_path: Path) -> None:
    path, zipped = tmp_path / "labels.csv", tmp_path / "labels.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("labels.csv", "10.0.0.1\n")
    for content, message in (
        (gzip.compress(b"10.0.0.1\n"), "is gzip-compressed; unpack it with gzip -d"),
        (bz2.compress(b"10.0.0.1\n"), "is bzip2-compressed; unpack it with bzip2 -d"),
        (lzma.compress(b"10.0.0.1\n"), "is xz-compressed; unpack it with xz -d"),
        (zipped.read_bytes(), "is a zip archive; unpack it with unzip"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputFileError, match=message):
            read_labels(path)


def test_many_rules_match_the_same_records_together_as_one_by_one() -> None:
    generator = random.Random(1)

    def draw_rule() -> Rule:
        a, b = (generator.choice([None, *range(0x0A000001, 0x0A000008)]) for _ in range(2))
        port, other = (generator.choice([None, None, 80, 4000, 53, 8]) for _ in range(2))
        return Rule(a, port, b, other)

    for _ in range(200):
        rules = [rule for rule in (draw_rule() for _ in range(generator.randrange(12))) if rule != (None,) * 4]
        wanted = [int(any(matches(rule, flow) for rule in rules)) for flow in FLOWS]
        assert Labels(rules, 0).classify(make_records()).tolist() == wanted


def matches(rule: Rule, flow: tuple[str, int, str, int, int]) -> bool:
    a, port_a, b, port_b, protocol = flow
    ports = [None, None] if protocol == ICMP else [port_a, port_b]
    has = (int(ipaddress.ip_address(a)), ports[0], int(ipaddress.ip_address(b)), ports[1])
    return all(wanted is None or wanted == value for wanted, value in zip(rule, has, strict=True))


def test_only_anomalous_and_suspicious_traffic_is_an_attack(tmp_path: Path) -> None:
    assert classify(tmp_path, make_mawilab("10.0.0.1,,,", label="suspicious")) == [1, 0, 1, 0, 0]
    assert classify(tmp_path, make_mawilab("10.0.0.1,,,", label="notice")) == [0] * 5
    assert classify(tmp_path, make_mawilab("10.0.0.1,,,", label="benign")) == [0] * 5


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
def test_a_plain_list_matches_records_in_either_direction(tmp_path: Path, content: str, attacks: list[int]) -> None:
    assert classify(tmp_path, content) == attacks


def test_lines_about_ipv6_are_counted_and_ignored(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(make_mawilab("2001:db8::1,,,", "10.0.0.1,,,"))
    labels = read_labels(path)
    assert (labels.ignored, len(labels.rules)) == (1, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (make_mawilab(",,,"), "line 2 names no address and no port"),
        (make_mawilab("10.0.0.1,65536,,"), "line 2: '65536' is not a port"),
        (make_mawilab("10.0.0.1,-1,,"), "line 2: '-1' is not a port"),
        (make_mawilab("10.0.0.256,,,"), "line 2: '10.0.0.256' does not appear to be an IPv4 or IPv6 address"),
        (HEADER + "1, 10.0.0.1\n", "line 2 has 2 fields, not 10"),
        ("10.0.0.1,10.0.0.2,10.0.0.3\n", "line 1 is not address or"),
        ("anomalous\n", "line 1: 'anomalous' does not appear"),
        ('"' + "x" * 200_000 + '"\n', "field larger than field limit"),
        (",\n", "line 1 names no address"),
    ],
)
def test_an_invalid_line_is_refused_with_its_number(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputFileError, match=message):
        classify(tmp_path, content)


@needs_shared
@pytest.mark.parametrize("name", ["nmap-version-scan.pcap", "echo-connections.pcap.gz"])
def test_labels_of_a_real_capture_equal_those_of_its_records_one_by_one(tmp_path: Path, name: str) -> None:
    found = compute_records(read_packets(SHARED / "data" / "pcaps" / name))
    chosen = np.random.default_rng(1).choice(len(found), min(40, len(found)), replace=False)
    a, b, ports = format_addresses(found.address_a), format_addresses(found.address_b), found.ports.tolist()
    whole = {(a[i], ports[i] >> 16, b[i], ports[i] & 0xFFFF) for i in chosen}
    path = tmp_path / "labels.csv"
    path.write_text(make_mawilab(*(",".join(map(str, flow)) for flow in sorted(whole))))
    wanted = [
        int((a[i], ports[i] >> 16, b[i], ports[i] & 0xFFFF) in whole and found.protocol[i] != ICMP)
        for i in range(len(found))
    ]
    assert read_labels(path).classify(found).tolist() == wanted
    assert any(wanted)
