"""The sensor's events, and its metrics."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dataset.packets.traffic_counts import TrafficCounts
from offload.alerts import alert_writer
from offload.alerts.alert_limit import AlertLimit
from offload.alerts.alert_writer import AlertWriter
from offload.alerts.alerts_file import AlertsFile
from offload.alerts.eve import Event
from offload.alerts.unwritten_lines import UnwrittenLines
from offload.operations.metrics import ClientMetrics
from tests.offload.alerts.test_eve import all_decided, decided_of, faults_of, records_of, scan_of
from tests.offload.edge.test_offload_csv import room_for
from utils.drift_watch import Alarm
from utils.errors import InputFileError
from utils.schema import ATTACK

SEEN = TrafficCounts(ipv4=70, other=20, malformed=10, late=4, left_out=3, dropped=None)
LIVE = TrafficCounts(ipv4=70, other=20, malformed=10, late=4, left_out=3, dropped=5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "eve.json"


@pytest.fixture
def file(path: Path) -> Iterator[AlertsFile]:
    with AlertsFile(path) as opened:
        yield opened


def events_in(path: Path) -> list[Event]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def count(metrics: ClientMetrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"ee_client_{name}_total", labels) or 0.0


def make_writer(
    file: AlertsFile | None,
    traffic: TrafficCounts,
    limit: AlertLimit,
    metrics: ClientMetrics,
    *,
    may_continue: bool = False,
) -> AlertWriter:
    return AlertWriter(file, limit, UnwrittenLines(metrics, lambda: may_continue), metrics, traffic)


def test_alerts_are_written_and_counted_by_signature(file: AlertsFile, path: Path) -> None:
    metrics = ClientMetrics()
    writer = make_writer(file, SEEN, AlertLimit(2), metrics)
    writer.write(all_decided(records_of(5), ATTACK))
    writer.write(all_decided(records_of(7), rejected=True))
    told = events_in(path)
    assert len(told) == writer.alerts == 5 + 2
    assert writer.suppressed == {"attack": 0, "rejected": 5}
    assert count(metrics, "alerts", signature="attack") == 5
    assert count(metrics, "alerts", signature="rejected") == 2
    assert count(metrics, "suppressed_alerts", signature="rejected") == 5
    assert count(metrics, "suppressed_alerts", signature="attack") == 0


def test_without_a_file_alerts_are_only_counted() -> None:
    metrics = ClientMetrics()
    writer = make_writer(None, SEEN, AlertLimit(), metrics)
    writer.write(all_decided(records_of(5), ATTACK))
    writer.write_stats()
    assert writer.alerts == 5
    assert count(metrics, "packets", fate="ipv4") == 70


@pytest.mark.parametrize("seen", [SEEN, LIVE])
def test_a_stats_event_is_valid_and_its_counts_add_up(file: AlertsFile, path: Path, seen: TrafficCounts) -> None:
    writer = make_writer(file, seen, AlertLimit(1), ClientMetrics())
    batch = decided_of(records_of(60))
    writer.write(batch)
    writer.write_stats()
    *alerts, event = events_in(path)
    assert faults_of(event) == []
    own = event["stats"]["early_exit"]
    assert own["records"] == 60
    assert own["alerts"] == len(alerts)
    assert own["rejected"] == int(batch.rejected.sum())
    assert own["offloaded"] == int(batch.uncertain.sum())
    assert event["stats"]["decoder"] == {"pkts": 100, "ipv4": 70, "invalid": 10}
    kernel = event["stats"].get("capture")
    assert kernel == (None if seen.dropped is None else {"kernel_packets": 105, "kernel_drops": 5})


def test_a_change_of_the_traffic_is_a_valid_event(file: AlertsFile, path: Path) -> None:
    make_writer(file, SEEN, AlertLimit(2), ClientMetrics()).write_drift(Alarm(1, True, 0.316, 0.113, 412))
    make_writer(file, SEEN, AlertLimit(2), ClientMetrics()).write_drift(Alarm(9, False, 0.0, 0.25, 99))
    first, second = events_in(path)
    assert faults_of(first) == faults_of(second) == []
    assert (first["event_type"], first["anomaly"]) == ("anomaly", {"type": "early_exit", "event": "drift"})
    assert first["early_exit"] == {
        "category": 2, "kind": "vector", "share": 0.316, "reference_share": 0.113, "records": 412,
    }  # fmt: skip
    assert second["early_exit"]["kind"] == "scores"


def test_metrics_add_the_packets_since_the_last_stats() -> None:
    metrics, traffic = ClientMetrics(), replace(LIVE)
    writer = make_writer(None, traffic, AlertLimit(), metrics)
    writer.write_stats()
    traffic.ipv4, traffic.malformed, traffic.dropped = 100, 11, 9
    writer.write_stats()
    found = {fate: count(metrics, "packets", fate=fate) for fate in ("ipv4", "other", "malformed", "late", "dropped")}
    assert found == {"ipv4": 100, "other": 20, "malformed": 11, "late": 4, "dropped": 9}


def test_stats_are_written_only_at_intervals(file: AlertsFile, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = make_writer(file, SEEN, AlertLimit(), ClientMetrics())
    writer.write_stats_if_due()
    assert path.read_text() == ""
    monkeypatch.setattr(alert_writer, "STATS_INTERVAL", 0.0)
    writer.write_stats_if_due()
    assert [event["event_type"] for event in events_in(path)] == ["stats"]


def test_a_live_sensor_survives_a_full_disk_and_counts_the_lost_lines(
    file: AlertsFile, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = ClientMetrics()
    writer = make_writer(file, SEEN, AlertLimit(), metrics, may_continue=True)
    writer.write(all_decided(scan_of(2)))
    with room_for(path.stat().st_size + 1000), caplog.at_level(logging.WARNING):
        for _ in range(3):
            writer.write(all_decided(scan_of(4)))
    writer.write(all_decided(scan_of(3)))
    writer.write_stats()
    *alerts, stats = events_in(path)
    lost = 3 * 4 - 1  # one more had room
    assert len(alerts) == writer.alerts == count(metrics, "alerts", signature="attack") == 2 + 1 + 3
    assert count(metrics, "unwritten_lines", file="alerts") == stats["stats"]["early_exit"]["unwritten"] == lost
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: cannot be written: File too large; make room; 3 lines lost so far"
    ]


def test_a_repeatable_run_ends_with_one_line_on_a_full_disk(file: AlertsFile, path: Path) -> None:
    writer = make_writer(file, SEEN, AlertLimit(), ClientMetrics())
    with room_for(0), pytest.raises(InputFileError, match="cannot be written: File too large; make room"):
        writer.write(all_decided(records_of(5)))
    assert path.read_bytes() == b""


def test_alerts_of_a_flood_are_limited_and_counted(file: AlertsFile, path: Path) -> None:
    metrics = ClientMetrics()
    writer = make_writer(file, SEEN, AlertLimit(), metrics)
    writer.write(all_decided(scan_of(2000), ATTACK))
    writer.write_stats()
    *alerts, stats = events_in(path)
    assert len(alerts) == 100
    assert stats["stats"]["early_exit"]["attack_suppressed"] == 1900
    assert count(metrics, "suppressed_alerts", signature="attack") == 1900
