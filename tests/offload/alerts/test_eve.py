"""Events have the form that Suricata documents, describe their record, and are limited in number."""

import hashlib
import ipaddress
import json
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dpkt
import numpy as np
import pytest
from communityid import CommunityID, FlowTuple
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from dataset.packets.packets import Packets
from dataset.packets.traffic_counts import TrafficCounts
from dataset.records.flow_features import compute_records
from dataset.records.scaling import PUBLISHED
from offload.alerts.alert_limit import AlertLimit
from offload.alerts.eve import Event, compute_community_id, make_alerts, make_stats
from offload.defaults import ALL_SOURCES_FACTOR
from offload.edge.batch import Batch
from offload.edge.edge import Edge
from offload.edge.second_exit import LocalSecondExit
from tests.captures import SHARED, needs_shared, parse_ipv4_packet, read_frames, read_packets
from tests.networks import calibrated_network
from tests.offload.edge.test_edge import MOBILENET, THRESHOLDS
from tests.offload.exits import exits_of
from utils.records import Records
from utils.schema import ATTACK, FEATURE_COUNT, NORMAL

FOLDER = SHARED / "data" / "pcaps"
CAPTURES = sorted(path.name for path in FOLDER.glob("*.pcap*") if "ipv6" not in path.name)
SCHEMA = json.loads((Path(__file__).parent / "eve.schema.json").read_text())
VALID = Draft202012Validator(SCHEMA)
SECOND = 1_000_000
NOW = 1_600_000_005  # where a window begins
NO_LIMIT = 10**9
A, B = (int(ipaddress.IPv4Address(text)) for text in ("128.232.110.120", "66.35.250.204"))
LOCAL_USE = range(1_000_000, 2_000_000)
# From etc/classification.config of github.com/OISF/suricata.
PRIORITIES = {"Misc Attack": 2, "Unknown Traffic": 3}
# Those of IPv4 in baseline/baseline_deflt.json of github.com/corelight/community-id-spec.
PUBLISHED_IDS = [
    (1, "192.168.0.89", "192.168.0.1", 8, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    (1, "192.168.0.1", "192.168.0.89", 0, 8, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    (1, "10.0.0.1", "10.0.0.2", 11, 0, "1:YHxtAirCG//0OzkcVAukqKQN9xM="),
    (132, "192.168.170.8", "192.168.170.56", 7, 7, "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs="),
    (132, "192.168.170.56", "192.168.170.8", 7, 7, "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs="),
    (6, "128.232.110.120", "66.35.250.204", 34855, 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    (6, "66.35.250.204", "128.232.110.120", 80, 34855, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    (17, "192.168.1.52", "8.8.8.8", 54585, 53, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
    (17, "8.8.8.8", "192.168.1.52", 53, 54585, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
    (46, "10.1.12.1", "10.1.12.2", 0, 0, "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw="),
    (46, "10.1.12.2", "10.1.12.1", 0, 0, "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw="),
]


def packets_of(
    protocol: int = 6, ports: int = 34855 << 16 | 80, a: int = A, b: int = B, seconds: float = 1.25, answers: int = 2
) -> Packets:
    """Return one packet from a to b and some back, a millisecond apart."""
    count = 1 + answers
    times = NOW * SECOND + round(seconds * SECOND) + 1000 * np.arange(count)
    back = np.arange(count) > 0
    swapped = ports if protocol == 1 else ports >> 16 | (ports & 0xFFFF) << 16
    return Packets(
        times.astype(np.int64),
        np.where(back, b, a).astype(np.uint32),
        np.where(back, a, b).astype(np.uint32),
        np.full(count, 60, np.int64),
        np.full(count, protocol, np.uint8),
        np.zeros(count, np.uint8),
        np.where(back, swapped, ports).astype(np.uint32),
    )


def records_of(count: int, seconds: float = 0.0) -> Records:
    """Return so many records of one window, from different hosts."""
    return compute_records(Packets.concatenate([packets_of(a=host, seconds=seconds) for host in range(1, count + 1)]))


def scan_of(count: int, source: int = A, seconds: float = 0.0) -> Records:
    """Return so many records of one window, from one host to different ones."""
    hosts = range(1, count + 1)
    return compute_records(
        Packets.concatenate([packets_of(a=source, b=host, answers=0, seconds=seconds) for host in hosts])
    )


def decided_of(records: Records, seed: int = 0) -> Batch:
    """Return records with every kind of verdict."""
    batch, rng, count = batch_of(records), np.random.default_rng(seed), len(records)
    batch.uncertain[:] = rng.random(count) < 0.6
    batch.answered_by[:] = np.where(batch.uncertain, rng.choice(["cloud", "local", ""], count), "edge")
    answered = np.isin(batch.answered_by, ["cloud", "local"])
    batch.prediction_1[:] = rng.integers(0, 2, count)
    batch.certainty_1[:] = rng.uniform(0.5, 1, count)
    batch.prediction_2[:] = np.where(answered, rng.integers(0, 2, count), -1)
    batch.certainty_2[:] = np.where(answered, rng.uniform(0.5, 1, count), np.nan)
    batch.failure[:] = np.where(batch.uncertain & (batch.answered_by != "cloud"), "timed-out", "")
    batch.rejected[:] = batch.uncertain & ((batch.answered_by == "") | (rng.random(count) < 0.3))
    return batch


def all_decided(records: Records, prediction: int = ATTACK, *, rejected: bool = False) -> Batch:
    """Return records with the same verdict: decided by exit 1, or rejected after the cloud's exit 2."""
    batch = batch_of(records)
    batch.prediction_1[:], batch.certainty_1[:] = prediction, 0.987654321
    if rejected:
        batch.prediction_2[:], batch.certainty_2[:], batch.answered_by[:] = prediction, 0.51, "cloud"
        batch.uncertain[:] = batch.rejected[:] = True
    return batch


def batch_of(records: Records) -> Batch:
    return Batch(np.zeros((len(records), FEATURE_COUNT), np.float32), records=records)


def alert_of(packets: Packets) -> Event:
    """Return the event on a record that was decided to be an attack."""
    (event,) = make_alerts(all_decided(compute_records(packets)), AlertLimit())
    VALID.validate(event)
    return event


def faults_of(event: object) -> list[str]:
    return [fault.message for fault in VALID.iter_errors(event)]


OWN_COUNTS = {
    "records": 7, "alerts": 5, "offloaded": 4, "rejected": 3, "attack_suppressed": 1, "rejected_suppressed": 2,
    "unwritten": 0,
}  # fmt: skip


def some_stats(
    seconds: int = NOW, uptime: int = 1, *, late: int = 0, left_out: int = 0, dropped: int | None = None
) -> Event:
    traffic = TrafficCounts(ipv4=8, malformed=1, late=late, left_out=left_out, dropped=dropped)
    return make_stats(traffic, OWN_COUNTS, seconds * SECOND, uptime)


@needs_shared
@pytest.mark.parametrize("name", CAPTURES)
def test_a_real_capture_gives_a_valid_event_for_each_attack_and_rejected_record(name: str) -> None:
    records = compute_records(read_packets(FOLDER / name))
    batch = decided_of(records)
    limit = AlertLimit(NO_LIMIT, 0)
    events = make_alerts(batch, limit, "eth0")
    assert [fault for event in events for fault in faults_of(event)] == []
    assert json.loads(json.dumps(events, allow_nan=False)) == events
    told = np.flatnonzero(batch.rejected | (batch.prediction == ATTACK))
    assert [event["early_exit"]["decider"] for event in events] == batch.decider[told].tolist()
    assert [int(ipaddress.IPv4Address(event["src_ip"])) for event in events] == records.address_a[told].tolist()
    assert [int(ipaddress.IPv4Address(event["dest_ip"])) for event in events] == records.address_b[told].tolist()
    assert limit.suppressed.total() == 0


@needs_shared
@pytest.mark.parametrize("name", CAPTURES)
def test_the_time_of_an_event_is_that_of_its_first_packet_in_its_window(name: str) -> None:
    records = compute_records(read_packets(FOLDER / name))
    times = [time for frame in read_frames(FOLDER / name) if parse_ipv4_packet(*frame) for time in frame[:1]]
    events = make_alerts(all_decided(records), AlertLimit(NO_LIMIT, 0))
    for event, first in zip(events, records.first_packet.tolist(), strict=True):
        moment = datetime.strptime(event["timestamp"], "%Y-%m-%dT%H:%M:%S.%f%z")
        whole, fraction = divmod(times[first], SECOND)
        assert moment == datetime.fromtimestamp(whole, UTC).replace(microsecond=fraction)
        window = datetime.strptime(event["early_exit"]["window_start"], "%Y-%m-%dT%H:%M:%S.%f%z")
        assert 0 <= (moment - window).total_seconds() < 15 and window.timestamp() % 15 == 0
        assert event["flow"]["start"] == event["timestamp"]


@needs_shared
def test_events_of_a_real_network_are_valid_and_name_the_decider() -> None:
    records = compute_records(read_packets(FOLDER / "synack-reflection.pcap")).take(np.arange(300))
    network = calibrated_network(MOBILENET)
    edge = Edge(exits_of(network).first, THRESHOLDS[MOBILENET], LocalSecondExit(exits_of(network).second))
    batch = edge.decide(Batch(PUBLISHED.scale(records.features).astype(np.float32), records=records))
    events = make_alerts(batch, AlertLimit(NO_LIMIT, 0))
    assert [fault for event in events for fault in faults_of(event)] == []
    deciders = batch.count_deciders()
    for decider in ("edge", "local", "rejected"):
        told = sum(event["early_exit"]["decider"] == decider for event in events)
        assert told == deciders[decider, "rejected" if decider == "rejected" else "attack"]
    assert events


def test_an_attack_has_the_form_of_a_suricata_alert() -> None:
    (event,) = make_alerts(all_decided(compute_records(packets_of())), AlertLimit(), "eth0")
    assert event == {
        "timestamp": "2020-09-13T12:26:46.250000+0000",
        "flow_id": 249980514565385,
        "in_iface": "eth0",
        "event_type": "alert",
        "src_ip": "128.232.110.120",
        "src_port": 34855,
        "dest_ip": "66.35.250.204",
        "dest_port": 80,
        "proto": "TCP",
        "community_id": "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
        "alert": {
            "action": "allowed",
            "gid": 1,
            "signature_id": 1580001,
            "rev": 1,
            "signature": "early-exit network: attack",
            "category": "Misc Attack",
            "severity": 2,
        },
        "flow": {"pkts_toserver": 1, "pkts_toclient": 2, "start": "2020-09-13T12:26:46.250000+0000"},
        "early_exit": {
            "certainty": 0.987654,
            "exit": 1,
            "decider": "edge",
            "reason": "certain",
            "prediction": "attack",
            "window_start": "2020-09-13T12:26:45.000000+0000",
            "window_seconds": 15,
        },
    }
    VALID.validate(event)


def test_both_signatures_have_local_ids_and_categories_of_suricata() -> None:
    records = records_of(1)
    found = [
        event["alert"]
        for rejected in (False, True)
        for event in make_alerts(all_decided(records, rejected=rejected), AlertLimit())
    ]
    assert [alert["severity"] for alert in found] == [PRIORITIES[alert["category"]] for alert in found] == [2, 3]
    assert {alert["signature_id"] in LOCAL_USE for alert in found} == {True}
    assert len({alert["signature_id"] for alert in found}) == len({alert["signature"] for alert in found}) == 2


def test_normal_records_and_empty_batches_give_no_event() -> None:
    assert make_alerts(all_decided(records_of(9), NORMAL), AlertLimit()) == []
    assert make_alerts(all_decided(records_of(1).take(np.arange(0))), AlertLimit()) == []


def test_a_rejected_record_has_the_prediction_of_the_last_exit_that_answered() -> None:
    answered, unanswered = (all_decided(records_of(1), NORMAL, rejected=True) for _ in range(2))
    unanswered.prediction_2[:], unanswered.certainty_2[:] = -1, np.nan
    unanswered.answered_by[:], unanswered.failure[:] = "", "timed-out"
    found = []
    for batch in (answered, unanswered):
        (event,) = make_alerts(batch, AlertLimit())
        VALID.validate(event)
        decision = event["early_exit"]
        found.append([decision[name] for name in ("exit", "certainty", "prediction", "decider", "reason")])
    assert found == [
        [2, 0.51, "normal", "rejected", "uncertain"],
        [1, 0.987654, "normal", "rejected", "timed-out"],
    ]


@pytest.mark.parametrize(
    ("protocol", "ports", "expected"),
    [
        (6, 1 << 16 | 65535, {"proto": "TCP", "src_port": 1, "dest_port": 65535}),
        (17, 53, {"proto": "UDP", "src_port": 0, "dest_port": 53}),
        (132, 7 << 16 | 7, {"proto": "SCTP", "src_port": 7, "dest_port": 7}),
        (6, 0, {"proto": "TCP"}),
        (1, 8 << 16, {"proto": "ICMP", "icmp_type": 8, "icmp_code": 0}),
        (1, 3 << 16 | 13, {"proto": "ICMP", "icmp_type": 3, "icmp_code": 13}),
        (1, 0, {"proto": "ICMP", "icmp_type": 0, "icmp_code": 0}),
        (47, 0, {"proto": "GRE"}),
        (58, 0, {"proto": "IPv6-ICMP"}),
        (253, 0, {"proto": "253"}),
    ],
)
def test_protocols_have_suricatas_names_with_ports_or_types(
    protocol: int, ports: int, expected: dict[str, object]
) -> None:
    event = alert_of(packets_of(protocol, ports))
    names = ("proto", "src_port", "dest_port", "icmp_type", "icmp_code")
    assert {name: event[name] for name in names if name in event} == expected


def test_a_flow_id_depends_on_the_window_but_not_on_the_direction() -> None:
    forth, back = alert_of(packets_of(answers=0)), alert_of(packets_of(a=B, b=A, answers=0))
    assert forth["flow_id"] == back["flow_id"] != alert_of(packets_of(seconds=15.0))["flow_id"]
    assert alert_of(packets_of(a=A + 1))["flow_id"] != forth["flow_id"]


@needs_shared
def test_all_flow_ids_of_a_real_capture_differ() -> None:
    records = compute_records(read_packets(FOLDER / "syn-ecn-cwr-flood.pcapng"))
    events = make_alerts(all_decided(records), AlertLimit(NO_LIMIT, 0))
    assert len({event["flow_id"] for event in events}) == len(records) > 9000


@pytest.mark.parametrize(("protocol", "source", "destination", "upper", "lower", "expected"), PUBLISHED_IDS)
def test_a_community_id_equals_the_published_value(
    protocol: int, source: str, destination: str, upper: int, lower: int, expected: str
) -> None:
    a, b = int(ipaddress.IPv4Address(source)), int(ipaddress.IPv4Address(destination))
    assert compute_community_id(protocol, a, b, upper << 16 | lower) == expected
    assert alert_of(packets_of(protocol, upper << 16 | lower, a, b))["community_id"] == expected


addresses = st.integers(0, 2**32 - 1)


@given(st.sampled_from([6, 17, 132]), addresses, addresses, st.integers(1, 2**32 - 1))
@example(6, 1, 1, 80 << 16 | 79)
def test_a_community_id_equals_that_of_corelights_implementation(
    protocol: int, source: int, destination: int, ports: int
) -> None:
    assert compute_community_id(protocol, source, destination, ports) == corelights(
        FlowTuple(protocol, source.to_bytes(4), destination.to_bytes(4), ports >> 16, ports & 0xFFFF)
    )


@pytest.mark.parametrize(("source", "destination"), [(A, B), (B, A), (A, A)])
def test_community_ids_of_all_icmp_messages_equal_corelights(source: int, destination: int) -> None:
    for kind in range(256):
        for code in (0, 3):
            expected = corelights(FlowTuple.make_icmp(source.to_bytes(4), destination.to_bytes(4), kind, code))
            assert compute_community_id(1, source, destination, kind << 16 | code) == expected, (kind, code)


@given(st.integers(0, 255).filter(lambda number: number not in {1, 6, 17, 58, 132}), addresses, addresses)
def test_community_ids_of_other_protocols_equal_corelights(protocol: int, source: int, destination: int) -> None:
    ours = compute_community_id(protocol, source, destination, 0)
    assert ours == corelights(FlowTuple.make_ip(source.to_bytes(4), destination.to_bytes(4), protocol))


def corelights(flow: Any) -> str:
    return str(CommunityID().calc(flow))


@pytest.mark.parametrize("protocol", [6, 17, 132])
def test_without_ports_a_community_id_uses_addresses_and_protocol(protocol: int) -> None:
    hashed = bytes(2) + B.to_bytes(4) + A.to_bytes(4) + bytes([protocol, 0])
    expected = f"1:{b64encode(hashlib.sha1(hashed).digest()).decode()}"
    assert compute_community_id(protocol, A, B, 0) == compute_community_id(protocol, B, A, 0) == expected


@needs_shared
@pytest.mark.parametrize("name", CAPTURES)
def test_community_ids_of_a_real_capture_equal_those_of_other_tools(name: str) -> None:
    frames = [frame[2] for frame in read_frames(FOLDER / name) if parse_ipv4_packet(*frame)]
    records = compute_records(read_packets(FOLDER / name))
    events = make_alerts(all_decided(records), AlertLimit(NO_LIMIT, 0))
    wanted = [corelights(decoded(frames[first])) for first in records.first_packet.tolist()]
    assert [event["community_id"] for event in events] == wanted


def decoded(frame: bytes) -> Any:
    """Return what dpkt finds in a frame, for Corelight's implementation."""
    ip = dpkt.ethernet.Ethernet(frame).data
    inner = ip.data
    match inner:
        case dpkt.icmp.ICMP():
            return FlowTuple.make_icmp(ip.src, ip.dst, inner.type, inner.code)
        case dpkt.tcp.TCP() | dpkt.udp.UDP():
            return FlowTuple(ip.p, ip.src, ip.dst, inner.sport, inner.dport)
    raise AssertionError(f"a packet of protocol {ip.p}")


def test_alerts_on_rejected_records_are_limited_in_each_window_and_counted() -> None:
    limit = AlertLimit(3)
    first, second = records_of(5), records_of(4, seconds=15.0)
    told = [len(make_alerts(all_decided(some, rejected=True), limit)) for some in (first, second)]
    assert (told, limit.suppressed.total()) == ([3, 3], 3)


def test_batches_of_one_window_share_its_limit_even_if_windows_alternate() -> None:
    limit = AlertLimit(3)
    batches = [records_of(2, seconds=15.0 * (number % 2)) for number in range(6)]
    told = [len(make_alerts(all_decided(some, rejected=True), limit)) for some in batches]
    assert (told, limit.suppressed.total()) == ([2, 2, 1, 1, 0, 0], 6)


def test_the_default_limits_are_10_rejected_records_and_100_attacks_of_a_source() -> None:
    limit = AlertLimit()
    assert len(make_alerts(all_decided(records_of(50), rejected=True), limit)) == 10
    assert len(make_alerts(all_decided(scan_of(150)), limit)) == 100
    assert limit.suppressed == {"rejected": 40, "attack": 50}


@pytest.mark.parametrize("rejected", [True, False])
def test_a_source_at_its_limit_does_not_affect_others_or_the_next_window(rejected: bool) -> None:
    limit = AlertLimit(NO_LIMIT, 3)
    found = [scan_of(5), scan_of(5, source=A + 1), scan_of(5, seconds=15.0), scan_of(5)]
    told = [make_alerts(all_decided(records, rejected=rejected), limit) for records in found]
    assert [len(events) for events in told] == [3, 3, 3, 0]
    assert limit.suppressed["rejected" if rejected else "attack"] == limit.suppressed.total() == 2 + 2 + 2 + 5
    unlimited = [make_alerts(all_decided(records, rejected=rejected), AlertLimit(NO_LIMIT, 0)) for records in found]
    assert told[:3] == [events[:3] for events in unlimited[:3]]


def test_each_signature_has_its_own_limit() -> None:
    limit = AlertLimit(NO_LIMIT, 3)
    assert len(make_alerts(all_decided(scan_of(5)), limit)) == 3
    assert len(make_alerts(all_decided(scan_of(5), rejected=True), limit)) == 3


def test_forged_sources_are_limited_together() -> None:
    limit = AlertLimit(0, 5)
    assert len(make_alerts(all_decided(records_of(500)), limit)) == 5 * ALL_SOURCES_FACTOR
    assert limit.suppressed["attack"] == 500 - 5 * ALL_SOURCES_FACTOR


def test_without_a_limit_all_attacks_give_alerts() -> None:
    limit = AlertLimit(0, 0)
    assert len(make_alerts(all_decided(scan_of(3000)), limit)) == 3000
    assert limit.suppressed.total() == 0


def test_suppressed_rejected_records_do_not_suppress_attacks() -> None:
    records = records_of(200)
    batch = decided_of(records)
    limit = AlertLimit(2)
    events = make_alerts(batch, limit)
    attacks = (batch.prediction == ATTACK) & ~batch.rejected
    told = [int(ipaddress.IPv4Address(event["src_ip"])) - 1 for event in events]
    kept = np.sort(np.concatenate([np.flatnonzero(attacks), np.flatnonzero(batch.rejected)[:2]]))
    assert told == kept.tolist()
    assert limit.suppressed == {"attack": 0, "rejected": np.count_nonzero(batch.rejected) - 2}
    assert limit.suppressed["rejected"] > 50


def test_a_limit_remembers_few_windows_and_sources() -> None:
    limit = AlertLimit(1, 1)
    for window in range(0, 15 * 200, 15):
        for source in range(1000):
            limit.admit("attack", window, source)
            limit.admit("rejected", window, source)
    assert not limit.admit("rejected", 15 * 199, 0)
    assert len(limit._admitted) <= 16
    assert max(map(len, limit._admitted.values())) <= ALL_SOURCES_FACTOR + 1 + 1 + 1


@pytest.mark.parametrize("live", [True, False])
def test_stats_have_the_form_of_suricatas_stats_event(live: bool) -> None:
    kernel = {"kernel_packets": 11, "kernel_drops": 2}
    event = some_stats(NOW + 1, 61, late=6, dropped=2 if live else None)
    assert event == {
        "timestamp": "2020-09-13T12:26:46.000000+0000",
        "event_type": "stats",
        "stats": {
            "uptime": 61,
            **({"capture": kernel} if live else {}),
            "decoder": {"pkts": 9, "ipv4": 8, "invalid": 1},
            "early_exit": {
                "records": 7,
                "alerts": 5,
                "offloaded": 4,
                "rejected": 3,
                "attack_suppressed": 1,
                "rejected_suppressed": 2,
                "unwritten": 0,
                "late": 6,
                "left_out": 0,
            },
        },
    }
    VALID.validate(event)


def spoilt(event: Event) -> Iterator[tuple[str, Event]]:
    """Yield an event with one thing wrong: a key that is missing, a value of another type, or a key too many."""
    for name in event:
        if name not in {"in_iface", "capture"}:
            yield f"without {name}", {key: value for key, value in event.items() if key != name}
        yield f"{name} is a list", event | {name: []}
        if isinstance(event[name], dict):
            yield from ((f"{name}: {what}", event | {name: inner}) for what, inner in spoilt(event[name]))
    yield "with more", event | {"more": 1}


@pytest.mark.parametrize("kind", ["TCP", "ICMP", "stats"])
def test_the_schema_refuses_missing_wrong_and_undocumented_fields(kind: str) -> None:
    if kind == "stats":
        event = some_stats(dropped=2)
    else:
        event = alert_of(packets_of() if kind == "TCP" else packets_of(1, 8 << 16)) | {"in_iface": "eth0"}
    VALID.validate(event)
    spoilt_events = list(spoilt(event))
    assert len(spoilt_events) > 30
    assert [what for what, wrong in spoilt_events if not faults_of(wrong)] == []
