"""What a worker reports of the requests that it computed together."""

from collections.abc import Sequence
from dataclasses import dataclass

from offload.link.protocol import Answer, Refusal, Request
from offload.link.rabbitmq.worker_end import Delivery


@dataclass(frozen=True)
class BatchReport:
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


def make_report(
    deliveries: Sequence[Delivery], replies: Sequence[Answer | Refusal], start: float, seconds: float
) -> BatchReport:
    """Return the report on deliveries with their replies, at least one.

    Args:
        deliveries: in the order of their arrival.
        replies: to each of them.
        start: of the computation, on the monotonic clock.
        seconds: that it took.
    """
    sizes = [len(reply.logits) for reply in replies if isinstance(reply, Answer)]
    refusals = tuple(reply for reply in replies if isinstance(reply, Refusal))
    clients = {delivery.request.client_id for delivery in deliveries if isinstance(delivery.request, Request)}
    return BatchReport(len(sizes), sum(sizes), len(clients), refusals, seconds, start - deliveries[0].received)
