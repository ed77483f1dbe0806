"""Prometheus metrics of the edge client and the cloud worker.

Any thread may update them, but no signal handler: the code that it interrupts may hold a counter's lock.
"""

import re
import threading
from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from offload.defaults import PROTOCOL_VERSION, SIGNATURES

MAX_CODES: Final = 32
OTHER: Final = "other"
DECISIONS: Final = (
    ("edge", "normal"),
    ("edge", "attack"),
    ("cloud", "normal"),
    ("cloud", "attack"),
    ("local", "normal"),
    ("local", "attack"),
    ("rejected", "rejected"),
)
"""Label values of events: decider and verdict."""
RESULTS: Final = (
    "answered",
    "refused",
    "timed-out",
    "no-connection",
    "no-queue",
    "queue-full",
    "broker-blocked",
    "circuit-open",
    "closed",
)
"""Results of a client's request."""
DROPPED_REPLIES: Final = (
    "duplicate",
    "too-large",
    "malformed",
    "wrong-version",
    "wrong-model",
    "wrong-shape",
    "not-finite",
)
POLICIES: Final = ("local", "reject")
PACKET_FATES: Final = ("ipv4", "other", "malformed", "late", "left_out", "dropped")
"""Fates of observed packets; see ``dataset.packets.traffic_counts.TrafficCounts``."""
UNWRITTEN: Final = ("alerts", "verdicts")
"""Files whose unwritten lines are counted."""
CACHE_RESULTS: Final = ("found", "missed")
"""Results of a lookup in the cache: hit and miss."""
ANSWERS: Final = (
    "answered",
    "too-large",
    "malformed",
    "wrong-version",
    "wrong-model",
    "wrong-payload",
    "wrong-shape",
    "not-finite",
    "worker-failed",
)
"""Codes of a worker's replies."""
EXPIRED: Final = "expired"
"""Code of a request without a reply because it waited longer in the worker than its client does."""
ABANDONED: Final = "abandoned"
"""Code of a request without a reply because its client had left before it was computed."""

CODE_FORM: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
"""Form of the codes of errors and refusals; a peer may send any text in place of one."""
_ROUND_TRIP_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_WAIT_BUCKETS: Final = _ROUND_TRIP_BUCKETS
_INFERENCE_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_EVENTS_BUCKETS: Final = tuple(2**power for power in range(11))
_REQUESTS_BUCKETS: Final = tuple(2**power for power in range(7))


class CodeCounter:
    """A counter with one label, whose values are short codes.

    Some codes come from the network. To bound the memory, at most ``MAX_CODES`` different codes are counted, the known
    ones always among them; further codes, and text that is not a code, are counted as ``other``.

    Args:
        counter: counter with one label.
        known: codes that are exported as 0 from the start.
    """

    def __init__(self, counter: Counter, known: Iterable[str]) -> None:
        self._counter = counter
        self._codes = {*known, OTHER}
        self._lock = threading.Lock()

    def labels(self, **code: str) -> Counter:
        """Return the counter of a code, named as in ``labels(result="answered")``."""
        return self._counter.labels(**{label: self._bound_code(value) for label, value in code.items()})

    def _bound_code(self, code: str) -> str:
        with self._lock:
            if code not in self._codes and len(self._codes) < MAX_CODES and CODE_FORM.fullmatch(code):
                self._codes.add(code)
            return code if code in self._codes else OTHER


class _Metrics:
    """Metrics of both sides; each is an attribute, and its description says what it measures.

    Args:
        side: ``client`` or ``worker``, the beginning of the names after ``ee_``.
        architecture: name of the network of this process.
        fingerprint: fingerprint of that network, of which 12 digits are shown.

    Attributes:
        registry: all metrics, to be served.
    """

    def __init__(self, side: str, architecture: str, fingerprint: str) -> None:
        # The creation time of each series doubles the number of series, and no panel or alert needs it.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._prefix = f"ee_{side}"
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._info = Info(self._prefix, "Network and protocol version of this process.", registry=self.registry)
        self.name_network(architecture, fingerprint)
        self.connected = self._add_gauge("connected", "1 while there is a connection to RabbitMQ, else 0.")
        self.blocked = self._add_gauge("blocked", "1 while RabbitMQ blocks publishers (memory or disk alarm), else 0.")
        self.connection_losses = self._add_counter("connection_losses", "Lost connections to RabbitMQ.")
        self.sent_bytes = self._add_counter("sent_bytes", "Bytes of message bodies sent.")
        self.received_bytes = self._add_counter("received_bytes", "Bytes of message bodies received.")

    def name_network(self, architecture: str, fingerprint: str) -> None:
        """Export the network of this process, in place of the one before."""
        facts = {"architecture": architecture, "fingerprint": fingerprint[:12], "protocol": PROTOCOL_VERSION}
        self._info.info(facts)

    def _add_counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(f"{self._prefix}_{name}_total", meaning, labels, registry=self.registry)

    def _add_labelled(self, name: str, meaning: str, label: str, values: Iterable[str]) -> Counter:
        """Add a counter whose label values are exported as 0 from the start: a rate then includes their first event."""
        counter = self._add_counter(name, meaning, (label,))
        for value in values:
            counter.labels(value)
        return counter

    def _add_codes(self, name: str, meaning: str, label: str, known: Sequence[str]) -> CodeCounter:
        return CodeCounter(self._add_labelled(name, meaning, label, sorted({*known, OTHER})), known)

    def _add_gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(f"{self._prefix}_{name}", meaning, registry=self.registry)

    def _add_histogram(self, name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"{self._prefix}_{name}", meaning, buckets=buckets, registry=self.registry)


class ClientMetrics(_Metrics):
    """Metrics of the edge client; see ``_Metrics``."""

    def __init__(self, architecture: str = "unknown", fingerprint: str = "unknown") -> None:
        super().__init__("client", architecture, fingerprint)
        self.events = self._add_counter("events", "Decided events by decider and verdict.", ("decider", "verdict"))
        for decider, verdict in DECISIONS:
            self.events.labels(decider=decider, verdict=verdict)
        self.requests = self._add_codes("requests", "Finished requests to the cloud by result.", "result", RESULTS)
        self.attempts = self._add_counter("attempts", "Messages published to the cloud, first attempts and retries.")
        self.retries = self._add_counter("retries", "Messages published again because no answer came.")
        self.dropped_replies = self._add_codes(
            "dropped_replies", "Discarded replies by reason.", "reason", DROPPED_REPLIES
        )
        self.fallback_events = self._add_labelled(
            "fallback_events",
            "Events that the cloud did not answer, by what the client did instead.",
            "policy",
            POLICIES,
        )
        self.in_flight = self._add_gauge("in_flight_requests", "Requests without a final reply.")
        self.round_trip = self._add_histogram(
            "round_trip_seconds", "Seconds from a request to its answer, retries included.", _ROUND_TRIP_BUCKETS
        )
        self.breaker_open = self._add_gauge(
            "breaker_open", "1 while no requests are sent because the cloud failed repeatedly, else 0."
        )
        self.drift_alarms = self._add_counter(
            "drift_alarms", "Times that a kind of event became more or less frequent than the policy tolerates."
        )
        self.packets = self._add_labelled("packets", "Packets of observed traffic by fate.", "fate", PACKET_FATES)
        self.alerts = self._add_labelled("alerts", "Written alerts by signature.", "signature", SIGNATURES)
        self.suppressed_alerts = self._add_labelled(
            "suppressed_alerts", "Alerts that a limit suppressed.", "signature", SIGNATURES
        )
        self.unwritten_lines = self._add_labelled(
            "unwritten_lines",
            "Lines that could not be written, for example because the disk was full.",
            "file",
            UNWRITTEN,
        )
        self.recent_vectors = self._add_counter(
            "recent_vectors", "Vectors looked up in the cache, by exit and result.", ("exit", "result")
        )
        self._lookups = {
            (number, result): self.recent_vectors.labels(exit=str(number), result=result)
            for number in (1, 2)
            for result in CACHE_RESULTS
        }

    def count_lookup(self, exit_number: int, hits: int, misses: int) -> None:
        """Count a lookup of vectors in the cache of an exit's logits."""
        self._lookups[exit_number, "found"].inc(hits)
        self._lookups[exit_number, "missed"].inc(misses)


class WorkerMetrics(_Metrics):
    """Metrics of the cloud worker; see ``_Metrics``."""

    def __init__(self, architecture: str = "unknown", fingerprint: str = "unknown") -> None:
        super().__init__("worker", architecture, fingerprint)
        self.requests = self._add_codes(
            "requests", "Finished requests by code of the reply.", "code", (*ANSWERS, EXPIRED, ABANDONED)
        )
        self.events = self._add_counter("events", "Answered events.")
        self.batch_events = self._add_histogram("batch_events", "Events of a batch.", _EVENTS_BUCKETS)
        self.batch_requests = self._add_histogram("batch_requests", "Requests of a batch.", _REQUESTS_BUCKETS)
        self.inference = self._add_histogram("inference_seconds", "Seconds to compute a batch.", _INFERENCE_BUCKETS)
        self.queue_wait = self._add_histogram(
            "queue_wait_seconds", "Seconds that a request waited in this worker before its batch began.", _WAIT_BUCKETS
        )
        self.redelivered = self._add_counter(
            "redelivered_requests", "Requests that a worker received before and did not answer."
        )
        self.unroutable_replies = self._add_counter("unroutable_replies", "Replies to clients that had left.")
        self.dropped_messages = self._add_counter(
            "dropped_messages", "Messages without a valid request id or reply queue."
        )
        self.requeued = self._add_counter("given_back_requests", "Requests returned to the queue for another worker.")
        self.waiting = self._add_gauge("waiting_requests", "Requests in this worker that are not yet being computed.")
        self.recent_vectors = self._add_counter(
            "recent_vectors", "Vectors looked up in the cache, by result.", ("result",)
        )
        self._found, self._missed = (self.recent_vectors.labels(result=result) for result in CACHE_RESULTS)

    def count_lookup(self, _exit_number: int, hits: int, misses: int) -> None:
        """Count a lookup of vectors in the cache of exit 2's logits."""
        self._found.inc(hits)
        self._missed.inc(misses)
