"""Fixtures: the session's RabbitMQ node, a queue for each test, and the memory that a test holds."""

import gc
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from offload.link.broker import Broker
from offload.link.protocol import make_id
from tests.controlled_broker import ControlledBroker
from tests.offload.link_ends import open_channel


@pytest.fixture(scope="session")
def link(broker: ControlledBroker) -> Broker:
    """Connection settings of the session's node."""
    return broker.connection


@pytest.fixture
def queue(link: Broker) -> Iterator[str]:
    """The name of a request queue that does not exist yet, and is deleted afterwards."""
    name = f"requests.{make_id()}"
    yield name
    with open_channel(link) as channel:
        channel.queue_delete(name)


@pytest.fixture
def held_bytes() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the bytes of the Python objects made during the test."""

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    yield held
    tracemalloc.stop()
