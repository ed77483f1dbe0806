"""Constants that the command lines show and the library uses; imports only the standard library."""

from pathlib import Path
from typing import Final

PROTOCOL_VERSION: Final = "1"
"""Version of the messages between edge and worker."""
PAYLOADS: Final = ("features", "activations")
"""Content of requests."""
FAILURE_POLICIES: Final = ("local", "reject", "wait")
"""What the edge does if the cloud does not answer: compute exit 2 itself, reject the events, or wait."""
WARN: Final = "warn"
TIGHTEN: Final = "tighten"
REJECT: Final = "reject"
DRIFT_RESPONSES: Final = (WARN, TIGHTEN, REJECT)
"""What the edge does when the traffic has changed: log it, stop accepting what has become more frequent, or stop
accepting anything."""
QUEUE_TYPES: Final = ("classic", "quorum")

REQUEST_TIMEOUT: Final = 15.0
"""Seconds after which an attempt without a reply counts as failed."""
RETRIES: Final = 1
WAIT_TIMEOUT: Final = 600.0
"""Seconds after which the policy ``wait`` gives up."""
DRAIN_TIMEOUT: Final = 10.0
"""Seconds that a client waits for replies after it was asked to stop."""
WINDOW: Final = 8
"""Most requests in flight."""
CACHE_SIZE: Final = 4096
"""Cached vectors; each takes half a kilobyte. On the published months, a larger cache has hardly more hits."""

MAX_BATCH: Final = 64
"""Most events of one forward pass of exit 2. AlexNet's weights are read once per pass, so many events are good;
MobileNetV2's activations of so many events still fit into the processor's cache."""
BATCH_WAIT: Final = 0.005
"""Most seconds that a worker waits for as many requests as its last batch had."""
PREFETCH: Final = 32
"""Most requests that a worker holds."""

STDOUT: Final = Path("-")
"""Value of ``--alerts`` that stands for the standard output."""
ATTACK_SIGNATURE: Final = "attack"
REJECTED_SIGNATURE: Final = "rejected"
SIGNATURES: Final = (ATTACK_SIGNATURE, REJECTED_SIGNATURE)
"""Kinds of alerts, by their names in metrics and reports."""
MAX_REJECTED_ALERTS: Final = 10
"""Most alerts on rejected records of all sources in each window."""
MAX_ALERTS_PER_SOURCE: Final = 100
"""Most alerts of one signature on records of one source address in each window."""
ALL_SOURCES_FACTOR: Final = 20
"""In each window, all sources together get at most this many times the alerts of one source. This limits a sender that
forges its address, too, and keeps the table of sources small."""
