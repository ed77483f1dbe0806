import csv
import dataclasses
import gzip
import io
import ipaddress
import struct

import dpkt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.packets.packets import Packets
from dataset.records.flow_features import compute_records
from tests.captures import SHARED, needs_shared, read_frames, read_packets, read_pcap_frames, read_pcapng_frames
from tests.flow_features_reference import ACK, FIN, PSH, SYN, Packet, Record, compute_reference_records
from utils.records import Records
from utils.schema import FEATURES

CAPTURES = (
    "dhcp-flood.pcap",
    "echo-connections.pcap.gz",
    "ipv4-fragmented.pcap",
    "ipv6-only.pcap",
    "nmap-version-scan.pcap",
    "nmap-version-scan.pcapng",
    "syn-ecn-cwr-flood.pcapng",
    "syn-flood-small.pcap",
    "synack-reflection.nsec.pcap",
    "synack-reflection.pcap",
)
FOLDER = SHARED / "data" / "pcaps"
SECOND = 1_000_000
A, B, C = 0x0A000001, 0x0A000002, 0x0A000003


def make_packets(packets: list[Packet]) -> Packets:
    dtypes = (np.int64, np.uint32, np.uint32, np.int64, np.uint8, np.uint8, np.uint32)
    columns = zip(*packets, strict=True) if packets else ([] for _ in dtypes)
    return Packets(*(np.array(column, dtype) for column, dtype in zip(columns, dtypes, strict=True)))


def compute_rows(*packets: Packet) -> list[dict[str, float]]:
    return [
        dict(zip(FEATURES, row.tolist(), strict=True)) for row in compute_records(make_packets(list(packets))).features
    ]


def compute_feature(name: str, *packets: Packet) -> float:
    (record,) = compute_rows(*packets)
    return record["MOORE_" + name]


def assert_same(records: Records, wanted: list[Record]) -> None:
    assert len(records) == len(wanted)
    assert records.window_start.tolist() == [record.window_start for record in wanted]
    assert records.address_a.tolist() == [record.address_a for record in wanted]
    assert records.address_b.tolist() == [record.address_b for record in wanted]
    features = np.array([record.features for record in wanted], dtype=np.float64).reshape(-1, len(FEATURES))
    unequal = np.argwhere(records.features != features)
    first = [(FEATURES[column], records.features[row, column], features[row, column]) for row, column in unequal]
    assert not first, f"of {len(first)} cells that differ, the first is {first[0]}"


def read_expected(capture: str) -> list[Record]:
    path = FOLDER / "expected" / (capture.partition(".")[0] + ".csv")
    with path.open(newline="") as stream:
        return [
            Record(
                int(row["window_start"]),
                int(ipaddress.IPv4Address(row["address_a"])),
                int(ipaddress.IPv4Address(row["address_b"])),
                [float(row[name]) for name in FEATURES],
            )
            for row in csv.DictReader(stream)
        ]


@needs_shared
@pytest.mark.parametrize("capture", CAPTURES)
def test_real_captures_give_the_expected_records_bit_for_bit(capture: str) -> None:
    assert_same(compute_records(read_packets(FOLDER / capture)), read_expected(capture))


@needs_shared
@pytest.mark.parametrize("capture", CAPTURES)
def test_the_reference_gives_the_expected_records_too(capture: str) -> None:
    columns = [getattr(read_packets(FOLDER / capture), field.name) for field in dataclasses.fields(Packets)]
    packets = [Packet(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
    assert compute_reference_records(packets) == read_expected(capture)


@needs_shared
@pytest.mark.parametrize("capture", CAPTURES)
def test_the_plain_reader_reads_the_same_frames_as_dpkt(capture: str) -> None:
    content = (FOLDER / capture).read_bytes()
    content = gzip.decompress(content) if capture.endswith(".gz") else content
    seen = list(dpkt.pcap.UniversalReader(io.BytesIO(content)))
    read = list(read_frames(FOLDER / capture))
    assert [frame for _, _, frame in read] == [bytes(frame) for _, frame in seen]
    # dpkt's seconds are floats, good to a quarter of a microsecond; ours are rounded down to a whole one.
    assert all(-0.5 < float(seconds) * 1e6 - time < 1.5 for (time, _, _), (seconds, _) in zip(read, seen, strict=True))
    assert all(size >= len(frame) for _, size, frame in read)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "fraction"), [(0xA1B2C3D4, 123_456), (0xA1B23C4D, 123_456_999)])
def test_a_pcap_of_either_byte_order_and_clock_is_read_to_the_microsecond(
    order: str, magic: int, fraction: int
) -> None:
    header = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, 1)
    packet = struct.pack(order + "IIII", 1_700_000_000, fraction, 4, 1500) + b"abcd"
    assert list(read_pcap_frames(header + packet)) == [(1_700_000_000_123_456, 1500, b"abcd")]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("resolution", "units"), [(None, 10**6), (9, 10**9), (0x80 | 20, 2**20)])
def test_a_pcapng_of_any_resolution_is_read_to_the_microsecond(order: str, resolution: int | None, units: int) -> None:
    def block(kind: int, body: bytes) -> bytes:
        length = struct.pack(order + "I", 12 + len(body))
        return struct.pack(order + "I", kind) + length + body + length

    options = b"" if resolution is None else struct.pack(order + "HHB3x", 9, 1, resolution)
    time = 1_700_000_000 * units + units // 2
    content = (
        block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
        + block(1, struct.pack(order + "HHI", 1, 0, 65535) + options)
        + block(6, struct.pack(order + "IIIII", 0, time >> 32, time & 0xFFFFFFFF, 3, 60) + b"abc\0")
    )
    assert list(read_pcapng_frames(content)) == [(1_700_000_000_500_000, 60, b"abc")]


def test_a_lone_packet_has_no_steps_and_one_size() -> None:
    (record,) = compute_rows(Packet(17 * SECOND, A, B, 60, 6, SYN))
    assert record.pop("MOORE_syn_pkts_sent_a_b") == 1
    assert record.pop("MOORE_total_packets_a_b") == 1
    for name, value in record.items():
        of_sizes = "DataWire" in name and not name.endswith("_b_a") and "variance" not in name
        empty_minimum = "minimum" in name and not of_sizes
        assert value == (60 if of_sizes else 2000 if empty_minimum else 0), name


def test_no_packets_make_no_records() -> None:
    records = compute_records(make_packets([]))
    assert len(records) == 0
    assert records.features.shape == (0, 58)


def test_windows_are_aligned_to_the_epoch_and_independent() -> None:
    records = compute_records(make_packets([Packet(15 * SECOND - 1, A, B, 60), Packet(15 * SECOND, A, B, 70)]))
    assert records.window_start.tolist() == [0, 15]
    assert records.features[:, FEATURES.index("MOORE_total_packets_a_b")].tolist() == [1, 1]


def test_records_are_in_the_order_of_their_first_packets() -> None:
    packets = [Packet(40 * SECOND, B, C, 60), Packet(5, A, C, 60), Packet(3, A, B, 60), Packet(4, B, A, 60)]
    records = compute_records(make_packets(packets))
    assert records.window_start.tolist() == [30, 0, 0]
    assert records.address_a.tolist() == [B, A, A]
    assert records.address_b.tolist() == [C, C, B]
    assert records.first_packet.tolist() == [0, 1, 2]


def test_direction_a_is_that_of_the_first_packet_of_the_capture_even_if_a_later_one_is_older() -> None:
    (record,) = compute_rows(Packet(9, B, A, 60), Packet(2, A, B, 70), Packet(5, A, B, 80))
    assert record["MOORE_total_packets_a_b"] == 1
    assert record["MOORE_maximumDataWire_b_a"] == 80


def test_packets_from_a_host_to_itself_are_all_of_direction_a() -> None:
    assert compute_feature("total_packets_a_b", Packet(1, A, A, 60), Packet(2, A, A, 60)) == 2


def test_steps_back_in_time_are_skipped_and_steps_of_zero_count_over_both_directions_only() -> None:
    packets = [Packet(time, A, B, 60) for time in (100, 100, 50, 80)]
    assert compute_feature("minimumInterArrivalTime", *packets) == 0
    assert compute_feature("medianInterArrivalTime", *packets) == 15  # of 0 and 30
    assert compute_feature("minimumInterArrivalTime_a_b", *packets) == 30


def test_throughput_is_negative_if_time_runs_back_and_truncated_toward_zero() -> None:
    backward = [Packet(110, A, B, 60), Packet(90, B, A, 60), Packet(100, A, B, 65)]
    assert compute_feature("throughput_a_b", *backward) == -12
    assert compute_feature("throughput_b_a", *backward) == -12
    forward = [Packet(100, A, B, 60), Packet(110, A, B, 65)]
    assert compute_feature("throughput_a_b", *forward) == 12
    assert compute_feature("throughput_a_b", Packet(100, A, B, 60), Packet(100, A, B, 65)) == 0


def test_a_pure_ack_is_64_bytes_and_has_no_syn_fin_or_rst() -> None:
    packets = [
        Packet(1, A, B, 64, 6, ACK),
        Packet(2, A, B, 64, 6, ACK | PSH),
        Packet(3, A, B, 60, 6, ACK),
        Packet(4, A, B, 64, 6, ACK | FIN),
    ]
    assert compute_feature("pure_acks_sent_a_b", *packets) == 2
    assert compute_feature("ack_pkts_sent_a_b", *packets) == 4
    assert compute_feature("fin_pkts_sent_a_b", *packets) == 1


def test_flags_are_counted_for_tcp_only() -> None:
    assert compute_feature("syn_pkts_sent_a_b", Packet(1, A, B, 60, 17, 0xFF)) == 0


@pytest.mark.parametrize(("last", "wanted"), [((61, 73), 18.63), ((60, 86), 75.12)])
def test_a_variance_is_rounded_to_hundredths_as_in_the_published_data(last: tuple[int, int], wanted: float) -> None:
    # 18.625 goes up. 75.125 goes down, because its root, squared again, is a little less.
    packets = [Packet(time, A, B, size) for time, size in enumerate((60,) * 7 + last)]
    assert compute_feature("varianceDataWire", *packets) == wanted


def test_squares_wrap_to_32_bits_so_that_a_large_variance_vanishes() -> None:
    assert compute_feature("varianceDataWire", Packet(1, A, B, 0), Packet(2, A, B, 46_340)) == 1_073_697_792
    assert compute_feature("varianceDataWire", Packet(1, A, B, 0), Packet(2, A, B, 46_341)) == 0


def test_quartiles_are_the_quarter_and_three_quarter_percentiles() -> None:
    packets = [Packet(7, A, B, size) for size in range(1000, 1600)]
    assert compute_feature("quartileFirstDataWire", *packets) == 1002  # index floor(1.5 + 0.5)
    assert compute_feature("quartileThirdDataWire", *packets) == 1005  # index floor(4.5 + 0.5)


times = st.one_of(
    st.integers(-20, 40),
    st.integers(15 * SECOND - 3, 15 * SECOND + 3),
    st.integers(0, 60 * SECOND),
    st.integers(2**50, 2**50 + 5000),
)
sizes = st.one_of(
    st.sampled_from((0, 60, 64, 1514)),
    st.integers(54, 1514),
    st.integers(46_330, 46_350),
    st.integers(2**31 - 5, 2**32 - 1),
)
addresses = st.sampled_from((A, A, A, B, B, B, C, 0, 2**32 - 1))
some_packets = st.builds(
    Packet, times, addresses, addresses, sizes, st.sampled_from((1, 6, 6, 6, 17)), st.integers(0, 255),
    st.integers(0, 2**32 - 1),
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=300, database=None)
@given(st.lists(some_packets, max_size=40))
def test_any_packets_in_any_order_give_the_records_of_the_reference(packets: list[Packet]) -> None:
    assert_same(compute_records(make_packets(packets)), compute_reference_records(packets))


@pytest.mark.parametrize("hosts", [2, 3, 12])
@pytest.mark.parametrize("in_order", [True, False])
def test_long_records_equal_those_of_the_reference(hosts: int, in_order: bool) -> None:
    random = np.random.default_rng(hosts)
    n = 6000
    time = random.integers(0, 30 * SECOND, n)
    packets = Packets(
        np.sort(time) if in_order else time,
        random.integers(1, 1 + hosts, n).astype(np.uint32),
        random.integers(1, 1 + hosts, n).astype(np.uint32),
        random.choice([60, 64, 1514, 65_000], n) + random.integers(0, 3, n),
        np.full(n, 6, dtype=np.uint8),
        random.integers(0, 64, n).astype(np.uint8),
        np.zeros(n, dtype=np.uint32),
    )
    columns = [getattr(packets, field.name).tolist() for field in dataclasses.fields(Packets)]
    assert_same(
        compute_records(packets), compute_reference_records([Packet(*row) for row in zip(*columns, strict=True)])
    )


def test_more_records_than_16_bits_can_number_keep_their_order_and_their_packets() -> None:
    count = 70_000
    host = np.random.default_rng(1).permutation(count).astype(np.uint32) + 10
    there, back = np.arange(count), np.arange(count)[::-1]
    pair = host[np.concatenate((there, back))]
    server = np.zeros(2 * count, np.uint32)
    is_back = np.arange(2 * count) >= count
    packets = Packets(
        np.full(2 * count, 7),
        np.where(is_back, server, pair),
        np.where(is_back, pair, server),
        60 + np.concatenate((there, back)),
        np.full(2 * count, 17, np.uint8),
        np.zeros(2 * count, np.uint8),
        np.zeros(2 * count, np.uint32),
    )
    records = compute_records(packets)
    assert records.address_a.tolist() == host.tolist()
    assert records.packets.tolist() == [[1, 1]] * count
    sizes = (60 + there).tolist()
    assert records.features[:, FEATURES.index("MOORE_maximumDataWire_a_b")].tolist() == sizes
    assert records.features[:, FEATURES.index("MOORE_medianDataWire_b_a")].tolist() == sizes


def test_a_column_of_another_type_or_length_is_refused_by_name() -> None:
    good = make_packets([Packet(1, A, B, 60)])
    with pytest.raises(ValueError, match=r"^size is int32"):
        dataclasses.replace(good, size=good.size.astype(np.int32))
    with pytest.raises(ValueError, match=r"^protocol is uint8 \(0,\)"):
        dataclasses.replace(good, protocol=good.protocol[:0])
    with pytest.raises(ValueError, match=r"sizes from -1 to -1"):
        dataclasses.replace(good, size=np.array([-1]))


@needs_shared
def test_every_shared_capture_is_tested_here() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == set(CAPTURES)
