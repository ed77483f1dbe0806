"""What a worker is told, what computes for it, and what it tells of each batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from offload.protocol import LARGEST_MESSAGE, Answer, Refusal, Request

CHUNK: Final = 64
"""Events of one forward pass of exit 2 by default: AlexNet's weights are read once for each, and MobileNetV2's
activations still fit into the processor's cache."""

MOST_HELD: Final = 2**29
"""Bytes of requests' bodies that wait in a worker at most, whatever its prefetch."""


def bound_prefetch(prefetch: int, largest_body: int) -> int:
    """Return how many requests a worker may hold at once so that their bodies together stay below ``MOST_HELD``."""
    return max(1, min(prefetch, MOST_HELD // largest_body))


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
        largest_body: bytes of a request's body; larger ones are refused, and their bytes discarded as they arrive.
    """

    max_batch: int = CHUNK
    batch_wait: float = 0.005
    prefetch: int = 16
    queue_type: str = "classic"
    largest_body: int = LARGEST_MESSAGE


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
