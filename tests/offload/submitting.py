"""Helpers: clients that send requests to a worker, and the worker's metrics."""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

from offload.link.broker import Broker
from offload.link.client import Client
from offload.link.pending_requests import RetryPolicy
from offload.link.protocol import Answer, Request
from offload.operations.metrics import WorkerMetrics
from tests.offload.link_ends import PATIENCE, Sleeper, is_answer_to, make_client, make_request, open_channel, wait_until

IMPATIENT = RetryPolicy(attempt=1.0, retries=200, deadline=PATIENCE)
"""Retry policy of clients whose requests a test loses."""

Submitted = list[tuple[Request, Future[Answer]]]


class WorkerCounts:
    """The metrics of a worker, by their short names."""

    def __init__(self) -> None:
        self.metrics = WorkerMetrics()

    def __call__(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(f"ee_worker_{name}", labels)
        assert value is not None, name
        return value

    def wait_for(self, name: str, value: float, **labels: str) -> None:
        wait_until(lambda: self(name, **labels) == value)


def submit(client: Client, *sizes: int) -> Submitted:
    requests = [make_request(size) for size in sizes]
    return [(request, client.submit(request)) for request in requests]


def are_all_answered(submitted: Submitted) -> bool:
    return all(is_answer_to(future.result(PATIENCE), request) for request, future in submitted)


def count_events(batches: Sequence[Sequence[Request]]) -> list[list[int]]:
    return [[len(request.tensor) for request in batch] for batch in batches]


@contextmanager
def make_clients(link: Broker, queue: str, count: int) -> Iterator[list[Client]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(make_client(link, queue)) for _ in range(count)]


@contextmanager
def keep_busy(sleeper: Sleeper, client: Client) -> Iterator[None]:
    """Keep a worker busy with one request during the block."""
    sleeper.hold.clear()
    batches = len(sleeper.batches)
    plug = submit(client, 1)
    wait_until(lambda: len(sleeper.batches) > batches)
    try:
        yield
    finally:
        sleeper.hold.set()
    assert are_all_answered(plug)


def delete_queue(link: Broker, queue: str) -> None:
    with open_channel(link) as channel:
        channel.queue_delete(queue)
