"""What a worker is told, what computes for it, and what it tells of each batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from offload.protocol import Answer, Refusal, Request

CHUNK: Final = 64
"""Events of one forward pass of exit 2 by default: AlexNet's weights are read once for each, and MobileNetV2's
activations still fit into the processor's cache."""


class Answering(Protocol):
    """What computes for a worker; see ``offload.cloud.Cloud``."""

    def decode(self, body: bytes, request_id: str, /) -> Request | Refusal:
        """Return the request in a message from anyone, or why it is none."""

    def answer(self, requests: Sequence[Request], /) -> list[Answer | Refusal]:
        """Return an answer or a refusal for each request."""


@dataclass(frozen=True)
class Service:
    """How a worker takes and merges requests.

    Attributes:
        max_batch: requests are merged up to so many events.
        batch_wait: seconds that a batch waits at most for as many requests as the last one had; one alone never waits.
        prefetch: requests that are here at once at most.
        queue_type: ``classic`` or ``quorum``.
    """

    max_batch: int = CHUNK
    batch_wait: float = 0.005
    prefetch: int = 16
    queue_type: str = "classic"


@dataclass(frozen=True)
class Batch:
    """What became of the requests that were computed together.

    Attributes:
        requests: that were answered.
        events: in them.
        clients: that sent them.
        refusals: of requests that were not answered.
        seconds: that the computation took.
        waited: seconds that the first of them waited here.
    """

    requests: int
    events: int
    clients: int
    refusals: tuple[Refusal, ...]
    seconds: float
    waited: float
