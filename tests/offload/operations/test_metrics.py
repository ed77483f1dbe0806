"""The metrics of client and worker, as Prometheus reads them."""

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics import exposition, parser

from offload.defaults import PROTOCOL_VERSION
from offload.link.protocol import make_id
from offload.operations.metrics import (
    ABANDONED,
    ANSWERS,
    DECISIONS,
    EXPIRED,
    MAX_CODES,
    OTHER,
    RESULTS,
    ClientMetrics,
    WorkerMetrics,
)

SIDES = {"client": ClientMetrics, "worker": WorkerMetrics}
every_side = pytest.mark.parametrize("side", SIDES)


def exported(side: str) -> list[Metric]:
    return list(SIDES[side]().registry.collect())


def ours(side: str) -> Iterator[Metric]:
    return (metric for metric in exported(side) if metric.name.startswith("ee_"))


def series(registry: CollectorRegistry, name: str, label: str) -> dict[str, float]:
    """Return label value -> value of all series of a metric with one label."""
    return {
        sample.labels[label]: sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name
    }


@every_side
def test_every_metric_has_a_prefix_and_a_sentence_for_operators(side: str) -> None:
    for metric in ours(side):
        assert metric.name == f"ee_{side}" or metric.name.startswith(f"ee_{side}_")
        assert re.fullmatch("[a-z][a-z_]+", metric.name)
        assert re.fullmatch(r"[A-Z0-9].+\.", metric.documentation)


@every_side
def test_a_histogram_has_a_unit_and_rising_buckets(side: str) -> None:
    for metric in ours(side):
        if metric.type == "histogram":
            assert re.search("_(seconds|events|requests)$", metric.name)
            bounds = [float(sample.labels["le"]) for sample in metric.samples if sample.name.endswith("_bucket")]
            assert bounds == sorted(set(bounds)) and bounds[-1] == float("inf")


def test_the_buckets_of_the_round_trip_range_from_a_millisecond_to_a_minute() -> None:
    (metric,) = [metric for metric in ours("client") if metric.name == "ee_client_round_trip_seconds"]
    bounds = [float(sample.labels["le"]) for sample in metric.samples if "le" in sample.labels]
    assert (bounds[0], bounds[-2]) == (0.001, 60)


@every_side
def test_no_series_has_a_creation_time(side: str) -> None:
    assert not [s.name for metric in exported(side) for s in metric.samples if s.name.endswith("_created")]


@every_side
def test_metrics_of_the_process_and_python_are_exported(side: str) -> None:
    names = {sample.name for metric in exported(side) for sample in metric.samples}
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "python_info"} <= names


@every_side
def test_the_info_metric_has_network_and_protocol_version(side: str) -> None:
    registry = SIDES[side]("MobileNetV2WithExits", "0123456789abcdef").registry
    labels = {"architecture": "MobileNetV2WithExits", "fingerprint": "0123456789ab", "protocol": PROTOCOL_VERSION}
    assert registry.get_sample_value(f"ee_{side}_info", labels) == 1


@every_side
def test_the_page_is_valid_openmetrics(side: str) -> None:
    page = exposition.generate_latest(SIDES[side]().registry).decode()  # type: ignore[no-untyped-call]
    parse: Any = parser.text_string_to_metric_families
    assert len(list(parse(page))) == len(exported(side))


def test_two_instances_count_separately() -> None:
    one, other = ClientMetrics(), ClientMetrics()
    one.attempts.inc()
    assert one.registry.get_sample_value("ee_client_attempts_total") == 1
    assert other.registry.get_sample_value("ee_client_attempts_total") == 0


def test_known_codes_are_exported_as_zero_from_the_start() -> None:
    client, worker = ClientMetrics().registry, WorkerMetrics().registry
    assert series(client, "ee_client_requests_total", "result") == dict.fromkeys((*RESULTS, OTHER), 0)
    assert series(worker, "ee_worker_requests_total", "code") == dict.fromkeys((*ANSWERS, EXPIRED, ABANDONED, OTHER), 0)
    assert series(client, "ee_client_fallback_events_total", "policy") == {"local": 0, "reject": 0}
    for decider, verdict in DECISIONS:
        labels = {"decider": decider, "verdict": verdict}
        assert client.get_sample_value("ee_client_events_total", labels) == 0


def test_an_unknown_code_is_counted_under_its_name() -> None:
    metrics = ClientMetrics()
    metrics.requests.labels(result="moon-phase").inc(2)
    assert metrics.registry.get_sample_value("ee_client_requests_total", {"result": "moon-phase"}) == 2


@pytest.mark.parametrize("code", ["", "A", "a b", "a\nb", 'a"} 1', "<b>", "é", "x" * 33, "-a", "7", "wrong_model"])
def test_invalid_codes_are_counted_as_other(code: str) -> None:
    metrics = ClientMetrics()
    metrics.dropped_replies.labels(reason=code).inc()
    counted = series(metrics.registry, "ee_client_dropped_replies_total", "reason")
    assert {name: value for name, value in counted.items() if value} == {OTHER: 1}


def test_the_number_of_codes_is_bounded_and_known_ones_are_kept() -> None:
    metrics = WorkerMetrics()
    for _ in range(1000):
        metrics.requests.labels(code=f"x{make_id()[:20]}").inc()
    metrics.requests.labels(code="wrong-model").inc()
    counted = series(metrics.registry, "ee_worker_requests_total", "code")
    assert len(counted) == MAX_CODES
    assert sum(counted.values()) == 1001
    assert counted["wrong-model"] == 1


def test_another_label_name_is_refused() -> None:
    with pytest.raises(ValueError, match="label"):
        ClientMetrics().requests.labels(code="answered")


def test_counts_of_many_threads_are_complete() -> None:
    metrics = ClientMetrics()

    def count(number: int) -> None:
        for i in range(500):
            metrics.requests.labels(result=f"r{(number + i) % 50}").inc()
            metrics.events.labels(decider="edge", verdict="normal").inc(3)

    threads = [threading.Thread(target=count, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        generate_latest(metrics.registry)
    counted = series(metrics.registry, "ee_client_requests_total", "result")
    assert (sum(counted.values()), len(counted)) == (4000, MAX_CODES)
    assert (
        metrics.registry.get_sample_value("ee_client_events_total", {"decider": "edge", "verdict": "normal"}) == 12000
    )
