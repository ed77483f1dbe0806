"""How a worker takes and merges requests."""

from dataclasses import dataclass
from typing import Final

from offload.defaults import BATCH_WAIT, MAX_BATCH, PREFETCH, QUEUE_TYPES
from offload.link.protocol import LARGEST_MESSAGE

MOST_HELD: Final = 2**29
"""Bytes of requests' bodies that a worker holds at most, whatever its prefetch."""


def bound_prefetch(prefetch: int, largest_body: int) -> int:
    """Return a prefetch for which the bodies of all held requests stay below ``MOST_HELD`` bytes."""
    return max(1, min(prefetch, MOST_HELD // largest_body))


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker takes and merges requests.

    Attributes:
        max_batch: requests are merged up to so many events.
        batch_wait: seconds to wait at most for as many requests as the last batch had; a single request never waits.
        prefetch: requests held at most.
        queue_type: ``classic`` or ``quorum``.
        largest_body: bytes of a request's body; larger ones are refused, and their bytes discarded as they arrive.
    """

    max_batch: int = MAX_BATCH
    batch_wait: float = BATCH_WAIT
    prefetch: int = PREFETCH
    queue_type: str = QUEUE_TYPES[0]
    largest_body: int = LARGEST_MESSAGE
