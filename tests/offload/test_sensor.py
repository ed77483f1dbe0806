"""What the sensor tells: events, and counts for Prometheus."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from offload import sensor as sensor_module
from offload.alert_limit import AlertLimit
from offload.alerts import AlertsFile
from offload.eve import Event
from offload.losses import Losses
from offload.metrics import ClientMetrics
from offload.sensor import Seen, Sensor
from tests.offload.test_eve import all_decided, faults_of, records_of, scan_of, verdicts_of
from tests.offload.test_verdicts_file import room_for
from utils.errors import InputFileError
from utils.schema import ATTACK

SEEN = Seen(ipv4=70, other=20, malformed=10, late=4, left_out=3, dropped=None)
LIVE = Seen(ipv4=70, other=20, malformed=10, late=4, left_out=3, dropped=5)


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


def sensor_on(
    file: AlertsFile | None,
    seen: Callable[[], Seen],
    limit: AlertLimit,
    metrics: ClientMetrics,
    *,
    goes_on: bool = False,
) -> Sensor:
    return Sensor(file, limit, Losses(metrics, lambda: goes_on), metrics, seen)


def test_alerts_are_told_and_counted_by_signature(file: AlertsFile, path: Path) -> None:
    metrics = ClientMetrics()
    sensor = sensor_on(file, lambda: SEEN, AlertLimit(2), metrics)
    sensor.tell(records_of(5), all_decided(5, ATTACK))
    sensor.tell(records_of(7), all_decided(7, rejected=True))
    told = events_in(path)
    assert len(told) == sensor.alerts == 5 + 2
    assert sensor.suppressed == {"attack": 0, "rejected": 5}
    assert count(metrics, "alerts", signature="attack") == 5
    assert count(metrics, "alerts", signature="rejected") == 2
    assert count(metrics, "suppressed_alerts", signature="rejected") == 5
    assert count(metrics, "suppressed_alerts", signature="attack") == 0


def test_without_a_file_alerts_are_but_counted() -> None:
    metrics = ClientMetrics()
    sensor = sensor_on(None, lambda: SEEN, AlertLimit(), metrics)
    sensor.tell(records_of(5), all_decided(5, ATTACK))
    sensor.tell_counts()
    assert sensor.alerts == 5
    assert count(metrics, "packets", fate="ipv4") == 70


@pytest.mark.parametrize("seen", [SEEN, LIVE])
def test_counts_are_told_as_a_valid_event_that_adds_up(file: AlertsFile, path: Path, seen: Seen) -> None:
    sensor = sensor_on(file, lambda: seen, AlertLimit(1), ClientMetrics())
    records = records_of(60)
    verdicts = verdicts_of(60)
    sensor.tell(records, verdicts)
    sensor.tell_counts()
    *alerts, event = events_in(path)
    assert faults_of(event) == []
    own = event["stats"]["early_exit"]
    assert own["records"] == 60
    assert own["alerts"] == len(alerts)
    assert own["rejected"] == int(verdicts.rejected.sum())
    assert own["offloaded"] == int(verdicts.uncertain.sum())
    assert event["stats"]["decoder"] == {"pkts": 100, "ipv4": 70, "invalid": 10}
    kernel = event["stats"].get("capture")
    assert kernel == (None if seen.dropped is None else {"kernel_packets": 105, "kernel_drops": 5})


def test_metrics_count_what_was_seen_since_they_last_looked() -> None:
    metrics, now = ClientMetrics(), [LIVE]
    sensor = sensor_on(None, lambda: now[0], AlertLimit(), metrics)
    sensor.tell_counts()
    now[0] = Seen(ipv4=100, other=20, malformed=11, late=4, left_out=3, dropped=9)
    sensor.tell_counts()
    found = {fate: count(metrics, "packets", fate=fate) for fate in ("ipv4", "other", "malformed", "late", "dropped")}
    assert found == {"ipv4": 100, "other": 20, "malformed": 11, "late": 4, "dropped": 9}


def test_a_look_tells_the_counts_only_once_in_a_while(
    file: AlertsFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = sensor_on(file, lambda: SEEN, AlertLimit(), ClientMetrics())
    sensor.look()
    assert path.read_text() == ""
    monkeypatch.setattr(sensor_module, "STATS_INTERVAL", 0.0)
    sensor.look()
    assert [event["event_type"] for event in events_in(path)] == ["stats"]


def test_a_live_sensor_outlives_a_full_disk_counts_what_is_lost_and_writes_again(
    file: AlertsFile, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = ClientMetrics()
    sensor = sensor_on(file, lambda: SEEN, AlertLimit(), metrics, goes_on=True)
    sensor.tell(scan_of(2), all_decided(2))
    with room_for(path.stat().st_size + 1000), caplog.at_level(logging.WARNING):
        for _ in range(3):
            sensor.tell(scan_of(4), all_decided(4))
    sensor.tell(scan_of(3), all_decided(3))
    sensor.tell_counts()
    *alerts, stats = events_in(path)
    lost = 3 * 4 - 1  # one more had room
    assert len(alerts) == sensor.alerts == count(metrics, "alerts", signature="attack") == 2 + 1 + 3
    assert count(metrics, "unwritten_lines", file="alerts") == stats["stats"]["early_exit"]["unwritten"] == lost
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: cannot be written: File too large; make room; 3 lines were lost so far"
    ]


def test_on_a_full_disk_a_run_that_can_be_repeated_ends_with_one_line(file: AlertsFile, path: Path) -> None:
    sensor = sensor_on(file, lambda: SEEN, AlertLimit(), ClientMetrics())
    with room_for(0), pytest.raises(InputFileError, match="cannot be written: File too large; make room"):
        sensor.tell(records_of(5), all_decided(5))
    assert path.read_bytes() == b""


def test_alerts_of_a_flood_are_limited_and_the_rest_is_counted(file: AlertsFile, path: Path) -> None:
    metrics = ClientMetrics()
    sensor = sensor_on(file, lambda: SEEN, AlertLimit(), metrics)
    sensor.tell(scan_of(2000), all_decided(2000, ATTACK))
    sensor.tell_counts()
    *alerts, stats = events_in(path)
    assert len(alerts) == 100
    assert stats["stats"]["early_exit"]["attack_suppressed"] == 1900
    assert count(metrics, "suppressed_alerts", signature="attack") == 1900
