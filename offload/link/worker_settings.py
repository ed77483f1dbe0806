"""Settings of a worker: how many requests it receives and computes together."""

from dataclasses import dataclass
from typing import Final

from offload.defaults import BATCH_WAIT, MAX_BATCH, PREFETCH, QUEUE_TYPES
from offload.link.protocol import LARGEST_MESSAGE

MAX_HELD_BYTES: Final = 2**29
"""Most bytes of request bodies that a worker holds, whatever its prefetch."""


def bound_prefetch(prefetch: int, largest_body: int) -> int:
    """Return a prefetch for which the bodies of all held requests stay below ``MAX_HELD_BYTES`` bytes."""
    return max(1, min(prefetch, MAX_HELD_BYTES // largest_body))


@dataclass(frozen=True)
class WorkerSettings:
    """How many requests a worker receives, and how many it computes together.

    Attributes:
        max_batch: most events of a batch.
        batch_wait: most seconds to wait for as many requests as the last batch had; a single request never waits.
        prefetch: most requests that are held at a time.
        queue_type: ``classic`` or ``quorum``.
        largest_body: most bytes of a request's body; larger ones are refused, and their bytes discarded on arrival.
    """

    max_batch: int = MAX_BATCH
    batch_wait: float = BATCH_WAIT
    prefetch: int = PREFETCH
    queue_type: str = QUEUE_TYPES[0]
    largest_body: int = LARGEST_MESSAGE
