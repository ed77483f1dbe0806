"""What the edge client and the cloud worker count for Prometheus.

Any thread may count, but no signal handler: the counters' locks may be held by the very code that it interrupts.
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

MOST_CODES: Final = 32
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
"""Who decides what."""
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
"""How a request of the client ends."""
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
"""What becomes of observed packets; see ``dataset.packets.traffic_counts.TrafficCounts``."""
UNWRITTEN: Final = ("alerts", "verdicts")
"""Files whose lines are counted where they cannot be written."""
RECENT: Final = ("found", "missed")
"""Whether a vector's answer was remembered."""
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
"""What a worker replies to a request."""
EXPIRED: Final = "expired"
"""No reply: the request waited here for longer than its client did."""
ABANDONED: Final = "abandoned"
"""No reply: the client had left before its request was computed."""

_CODE: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
_ROUND_TRIP_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_WAIT_BUCKETS: Final = _ROUND_TRIP_BUCKETS
_INFERENCE_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_EVENTS_BUCKETS: Final = tuple(2**power for power in range(11))
_REQUESTS_BUCKETS: Final = tuple(2**power for power in range(7))


class CodeCounter:
    """A counter by one short code.

    Some codes come from the network. So that no sender can fill the memory with them, only ``MOST_CODES`` different
    ones are told apart, those known beforehand always among them; the rest, and what is no code, count as ``other``.

    Args:
        counter: has one label.
        label: its name.
        known: shown from the start, at 0, so that a rate sees the first of them too.
    """

    def __init__(self, counter: Counter, label: str, known: Iterable[str]) -> None:
        self._counter = counter
        self._codes = {*known, OTHER}
        self._lock = threading.Lock()
        for code in sorted(self._codes):
            counter.labels(**{label: code})

    def labels(self, **code: str) -> Counter:
        """Return the counter of a code, given by the label's name as in ``labels(result="answered")``."""
        return self._counter.labels(**{label: self._bounded(value) for label, value in code.items()})

    def _bounded(self, code: str) -> str:
        with self._lock:
            if code not in self._codes and len(self._codes) < MOST_CODES and _CODE.fullmatch(code):
                self._codes.add(code)
            return code if code in self._codes else OTHER


class _Metrics:
    """What both sides have.

    Attributes:
        registry: everything, to be served.
        connected: 1 while there is a connection to RabbitMQ.
        blocked: 1 while RabbitMQ has stopped taking messages, for its memory or disk alarm is on.
        connection_losses: how often it broke.
        sent_bytes, received_bytes: bodies of messages.
    """

    def __init__(self, side: str, architecture: str, fingerprint: str) -> None:
        # The time at which each series began doubles their number, and no panel or alert here asks for it.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._prefix = f"ee_{side}"
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        info = Info(self._prefix, "The network that runs here, and its messages' version.", registry=self.registry)
        info.info({"architecture": architecture, "fingerprint": fingerprint[:12], "protocol": PROTOCOL_VERSION})
        self.connected = self._gauge("connected", "1 while there is a connection to RabbitMQ, else 0.")
        self.blocked = self._gauge("blocked", "1 while RabbitMQ blocks publishers (memory or disk alarm), else 0.")
        self.connection_losses = self._counter("connection_losses", "How often the connection to RabbitMQ broke.")
        self.sent_bytes = self._counter("sent_bytes", "Bytes of message bodies sent.")
        self.received_bytes = self._counter("received_bytes", "Bytes of message bodies received.")

    def _counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(f"{self._prefix}_{name}_total", meaning, labels, registry=self.registry)

    def _code_counter(self, name: str, meaning: str, label: str, known: Iterable[str]) -> CodeCounter:
        return CodeCounter(self._counter(name, meaning, (label,)), label, known)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(f"{self._prefix}_{name}", meaning, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"{self._prefix}_{name}", meaning, buckets=buckets, registry=self.registry)


class ClientMetrics(_Metrics):
    """What the edge client counts.

    Args:
        architecture: name of the client's network.
        fingerprint: of that network; its first 12 digits are shown.

    Attributes:
        events: labels decider (edge, cloud, local, rejected) and verdict (normal, attack, rejected).
        requests: label result, a code: how each request ended.
        attempts: messages published, first tries and retries.
        retries: messages published again.
        dropped_replies: label reason, a code.
        fallback_events: label policy (local, reject).
        in_flight: requests that wait for their answer.
        round_trip: seconds from a request to its answer.
        breaker_open: 1 while the cloud is not asked because it failed repeatedly.
        packets: label fate (see ``dataset.packets.traffic_counts.TrafficCounts``), of observed traffic.
        alerts: label signature (attack, rejected).
        suppressed_alerts: label signature (attack, rejected), of alerts that a limit held back.
        unwritten_lines: label file (alerts, verdicts), of lines that could not be written.
        recent_vectors: labels exit (1, 2) and result (found, missed): whether an answer was remembered.
    """

    def __init__(self, architecture: str = "unknown", fingerprint: str = "unknown") -> None:
        super().__init__("client", architecture, fingerprint)
        self.events = self._counter("events", "Events decided, by who decided and what.", ("decider", "verdict"))
        for decider, verdict in DECISIONS:
            self.events.labels(decider=decider, verdict=verdict)
        self.requests = self._code_counter("requests", "Requests to the cloud that ended, by how.", "result", RESULTS)
        self.attempts = self._counter("attempts", "Messages published to the cloud, first tries and retries.")
        self.retries = self._counter("retries", "Messages published again because no answer came.")
        self.dropped_replies = self._code_counter(
            "dropped_replies", "Replies that were dropped, by why.", "reason", DROPPED_REPLIES
        )
        self.fallback_events = self._counter(
            "fallback_events", "Events that the cloud did not answer for, by what was done instead.", ("policy",)
        )
        for policy in POLICIES:
            self.fallback_events.labels(policy=policy)
        self.in_flight = self._gauge("in_flight_requests", "Requests that wait for their answer.")
        self.round_trip = self._histogram(
            "round_trip_seconds", "From a request to its answer, retries included.", _ROUND_TRIP_BUCKETS
        )
        self.breaker_open = self._gauge(
            "breaker_open", "1 while the cloud is not asked because it failed repeatedly, else 0."
        )
        self.packets = self._counter("packets", "Packets of observed traffic, by what became of them.", ("fate",))
        for fate in PACKET_FATES:
            self.packets.labels(fate=fate)
        self.alerts = self._counter("alerts", "Alerts written, by signature.", ("signature",))
        self.suppressed_alerts = self._counter(
            "suppressed_alerts", "Alerts that were not written because of a limit, by signature.", ("signature",)
        )
        for signature in SIGNATURES:
            self.alerts.labels(signature=signature)
            self.suppressed_alerts.labels(signature=signature)
        self.unwritten_lines = self._counter(
            "unwritten_lines", "Lines that could not be written, for example because the disk was full.", ("file",)
        )
        for file in UNWRITTEN:
            self.unwritten_lines.labels(file=file)
        self.recent_vectors = self._counter(
            "recent_vectors", "Vectors by whether an exit's answer to them was remembered.", ("exit", "result")
        )
        self._lookups = {
            (number, result): self.recent_vectors.labels(exit=str(number), result=result)
            for number in (1, 2)
            for result in RECENT
        }

    def count_lookup(self, exit_number: int, hits: int, misses: int) -> None:
        """Count a lookup of vectors in the cache of an exit's logits."""
        self._lookups[exit_number, "found"].inc(hits)
        self._lookups[exit_number, "missed"].inc(misses)


class WorkerMetrics(_Metrics):
    """What the cloud worker counts.

    Args:
        architecture: name of the worker's network.
        fingerprint: of that network; its first 12 digits are shown.

    Attributes:
        requests: label code, a code: what was replied.
        events: events answered for.
        batch_events, batch_requests: how many were computed at once.
        inference: seconds for a batch.
        queue_wait: seconds a request waited here before its batch began.
        redelivered: requests that some worker had before.
        unroutable_replies: their clients had left.
        dropped_messages: they named no one to reply to.
        given_back: requests handed back to the queue.
        waiting: requests that are here and not yet begun.
        recent_vectors: label result (found, missed): whether the answer was remembered.
    """

    def __init__(self, architecture: str = "unknown", fingerprint: str = "unknown") -> None:
        super().__init__("worker", architecture, fingerprint)
        self.requests = self._code_counter(
            "requests", "Requests replied to, by what was replied.", "code", (*ANSWERS, EXPIRED, ABANDONED)
        )
        self.events = self._counter("events", "Events answered for.")
        self.batch_events = self._histogram("batch_events", "Events computed at once.", _EVENTS_BUCKETS)
        self.batch_requests = self._histogram("batch_requests", "Requests computed at once.", _REQUESTS_BUCKETS)
        self.inference = self._histogram("inference_seconds", "Computation of one batch.", _INFERENCE_BUCKETS)
        self.queue_wait = self._histogram(
            "queue_wait_seconds", "How long a request waited in this worker before its batch began.", _WAIT_BUCKETS
        )
        self.redelivered = self._counter(
            "redelivered_requests", "Requests that a worker had before and did not answer for."
        )
        self.unroutable_replies = self._counter("unroutable_replies", "Replies to clients that had left.")
        self.dropped_messages = self._counter(
            "dropped_messages", "Messages that named no request or no one to reply to."
        )
        self.requeued = self._counter("given_back_requests", "Requests handed back for another worker.")
        self.waiting = self._gauge("waiting_requests", "Requests in this worker that are not yet being computed.")
        self.recent_vectors = self._counter(
            "recent_vectors", "Vectors by whether the answer to them was remembered.", ("result",)
        )
        self._found, self._missed = (self.recent_vectors.labels(result=result) for result in RECENT)

    def count_lookup(self, _exit_number: int, hits: int, misses: int) -> None:
        """Count a lookup of vectors in the cache of exit 2's logits."""
        self._found.inc(hits)
        self._missed.inc(misses)
