"""What the sensor tells: events, and counts for Prometheus."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from offload import sensor as sensor_module
from offload.alerts import AlertsFile
from offload.eve import Event, RejectedLimit
from offload.metrics import ClientMetrics
from offload.sensor import Seen, Sensor
from tests.offload.test_eve import all_decided, faults_of, records_of, verdicts_of
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


def test_alerts_are_told_and_counted_by_signature(file: AlertsFile, path: Path) -> None:
    metrics = ClientMetrics()
    sensor = Sensor(file, RejectedLimit(2), metrics, lambda: SEEN)
    sensor.tell(records_of(5), all_decided(5, ATTACK))
    sensor.tell(records_of(7), all_decided(7, rejected=True))
    told = events_in(path)
    assert len(told) == sensor.alerts == 5 + 2
    assert sensor.suppressed == 5
    assert count(metrics, "alerts", signature="attack") == 5
    assert count(metrics, "alerts", signature="rejected") == 2
    assert count(metrics, "suppressed_alerts") == 5


def test_without_a_file_alerts_are_but_counted() -> None:
    metrics = ClientMetrics()
    sensor = Sensor(None, RejectedLimit(), metrics, lambda: SEEN)
    sensor.tell(records_of(5), all_decided(5, ATTACK))
    sensor.tell_counts()
    assert sensor.alerts == 5
    assert count(metrics, "packets", fate="ipv4") == 70


@pytest.mark.parametrize("seen", [SEEN, LIVE])
def test_counts_are_told_as_a_valid_event_that_adds_up(file: AlertsFile, path: Path, seen: Seen) -> None:
    sensor = Sensor(file, RejectedLimit(1), ClientMetrics(), lambda: seen)
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
    sensor = Sensor(None, RejectedLimit(), metrics, lambda: now[0])
    sensor.tell_counts()
    now[0] = Seen(ipv4=100, other=20, malformed=11, late=4, left_out=3, dropped=9)
    sensor.tell_counts()
    found = {fate: count(metrics, "packets", fate=fate) for fate in ("ipv4", "other", "malformed", "late", "dropped")}
    assert found == {"ipv4": 100, "other": 20, "malformed": 11, "late": 4, "dropped": 9}


def test_a_look_tells_the_counts_only_once_in_a_while(
    file: AlertsFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = Sensor(file, RejectedLimit(), ClientMetrics(), lambda: SEEN)
    sensor.look()
    assert path.read_text() == ""
    monkeypatch.setattr(sensor_module, "STATS_INTERVAL", 0.0)
    sensor.look()
    assert [event["event_type"] for event in events_in(path)] == ["stats"]
