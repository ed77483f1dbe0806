"""The report on requests that a worker computed together."""

from collections.abc import Sequence
from dataclasses import dataclass

from offload.link.protocol import Answer, Refusal, Request
from offload.link.rabbitmq.worker_end import Delivery


@dataclass(frozen=True)
class BatchReport:
    """Figures of one batch of requests.

    Attributes:
        requests: number of requests that were answered.
        events: number of events in the answered requests.
        clients: number of clients that sent the requests.
        refusals: replies to the requests that were refused.
        seconds: duration of the computation.
        waited: seconds that the oldest request waited in this worker.
    """

    requests: int
    events: int
    clients: int
    refusals: tuple[Refusal, ...]
    seconds: float
    waited: float


def make_report(
    deliveries: Sequence[Delivery], replies: Sequence[Answer | Refusal], start: float, seconds: float
) -> BatchReport:
    """Return the report on a batch of at least one delivery.

    Args:
        deliveries: in the order of their arrival.
        replies: one for each delivery.
        start: start of the computation, on the monotonic clock.
        seconds: duration of the computation.
    """
    sizes = [len(reply.logits) for reply in replies if isinstance(reply, Answer)]
    refusals = tuple(reply for reply in replies if isinstance(reply, Refusal))
    clients = {delivery.request.client_id for delivery in deliveries if isinstance(delivery.request, Request)}
    return BatchReport(len(sizes), sum(sizes), len(clients), refusals, seconds, start - deliveries[0].received)
