"""Constants that command lines show and the library uses; imports the standard library alone."""

from typing import Final

PROTOCOL_VERSION: Final = "1"
"""Of the messages between edge and worker."""
PAYLOADS: Final = ("features", "activations")
"""What requests hold."""
FAILURE_POLICIES: Final = ("local", "reject", "wait")
"""What the edge does where the cloud does not answer: compute exit 2 itself, reject the events, or wait."""
QUEUE_TYPES: Final = ("classic", "quorum")

REQUEST_TIMEOUT: Final = 15.0
"""Seconds until an attempt without a reply counts as failed."""
RETRIES: Final = 1
WAIT_TIMEOUT: Final = 600.0
"""Seconds after which the policy ``wait`` gives up."""
DRAIN_TIMEOUT: Final = 10.0
"""Seconds that replies may still take after a client was asked to stop."""
WINDOW: Final = 8
"""Requests in flight at most."""
CACHE_SIZE: Final = 4096
"""Vectors, of which each takes half a kilobyte. On the published months more find little more."""

MAX_BATCH: Final = 64
"""Events of one forward pass of exit 2: AlexNet's weights are read once for each, and MobileNetV2's activations still
fit into the processor's cache."""
BATCH_WAIT: Final = 0.005
"""Seconds that a worker waits at most for as many requests as its last batch had."""
PREFETCH: Final = 32
"""Requests that a worker holds at most."""

ATTACK_SIGNATURE: Final = "attack"
REJECTED_SIGNATURE: Final = "rejected"
SIGNATURES: Final = (ATTACK_SIGNATURE, REJECTED_SIGNATURE)
"""What alerts are about, by the names that metrics and reports use."""
MAX_REJECTED_ALERTS: Final = 10
"""Alerts on rejected records of all sources in each window."""
MAX_ALERTS_PER_SOURCE: Final = 100
"""Alerts of one signature on records of one source address in each window."""
SOURCES: Final = 20
"""So many times ``MAX_ALERTS_PER_SOURCE`` alerts of one signature are written in each window, whatever the sources: a
sender that forges its address is limited, too, and the table of sources stays small."""
