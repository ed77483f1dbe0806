"""The worker's connection: which messages are requests, and how they end."""

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest

from offload.link.broker import Broker
from offload.link.protocol import make_id
from offload.link.rabbitmq.worker_end import (
    DELIVERY_LIMIT,
    MESSAGE_SECONDS,
    QUEUE_BYTES,
    QUEUE_LIMIT,
    Delivery,
    RequestQueue,
    make_queue_arguments,
)
from tests.controlled_broker import ControlledBroker
from tests.offload.link.rabbitmq.ends import Log, in_owner, is_one_line, ready, run_to_its_end, worker_end
from tests.offload.link_ends import PATIENCE, REPLY_TO, count_waiting, open_channel, publish, wait_until
from utils.errors import CloudError, CloudUnavailableError


def put(link: Broker, queue: str, *bodies: bytes, reply_to: str = REPLY_TO) -> None:
    for body in bodies:
        publish(link, queue, body, correlation_id=make_id(), reply_to=reply_to)


def received(log: Log, count: int = 1) -> list[Delivery]:
    wait_until(lambda: len(log.requests) >= count)
    assert len(log.requests) == count
    return log.requests


@pytest.fixture
def client(link: Broker) -> Iterator[str]:
    """The reply queue of a connected client."""
    name = f"ee-reply.{make_id()}"
    with open_channel(link) as channel:
        channel.queue_declare(name, exclusive=True)
        yield name


class Raw:
    """A header's value as bytes, for what pika would not write."""

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded


@pytest.fixture
def raw_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = pika.data.encode_value

    def encode_raw(pieces: list[bytes], value: object) -> int:
        if not isinstance(value, Raw):
            return int(encode(pieces, value))
        pieces.append(value.encoded)
        return len(value.encoded)

    monkeypatch.setattr(pika.data, "encode_value", encode_raw)


def nested_arrays(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        value = b"A" + struct.pack(">I", len(value)) + value
    return value


NO_ONE_TO_REPLY_TO = {
    "no properties": {},
    "no id": {"reply_to": REPLY_TO},
    "an id of another form": {"correlation_id": "1", "reply_to": REPLY_TO},
    "an id that is no text": {"correlation_id": b"\xff" * 32, "reply_to": REPLY_TO},
    "no reply queue": {"correlation_id": make_id()},
    "an empty reply queue": {"correlation_id": make_id(), "reply_to": ""},
    "a reply queue that is no text": {"correlation_id": make_id(), "reply_to": b"\xff" * 41},
    "a foreign reply queue": {"correlation_id": make_id(), "reply_to": "payroll"},
    "a reply queue with a line end": {"correlation_id": make_id(), "reply_to": REPLY_TO + "\n"},
    # A reply to it would end the worker's connection with INTERNAL_ERROR, and the next worker's, and so on.
    "an order to the broker": {"correlation_id": make_id(), "reply_to": "amq.rabbitmq.reply-to.g1h2AAVyZXBseQAAAA==.x"},
    # pika fails on these, and would drop the connection at each delivery.
    "a date that no calendar holds": {
        "correlation_id": make_id(), "reply_to": REPLY_TO, "headers": {"at": Raw(b"T" + b"\xff" * 8)},
    },
    "a header nested too deep": {
        "correlation_id": make_id(), "reply_to": REPLY_TO, "headers": {"in": Raw(nested_arrays(3000))},
    },
}  # fmt: skip


@pytest.mark.usefixtures("raw_headers")
@pytest.mark.parametrize("properties", NO_ONE_TO_REPLY_TO.values(), ids=NO_ONE_TO_REPLY_TO.keys())
def test_a_message_without_a_valid_reply_queue_is_counted_and_acknowledged(
    properties: dict[str, Any], link: Broker, queue: str
) -> None:
    log = Log()
    with ready(worker_end(link, queue, log), log):
        publish(link, queue, b"hostile", **properties)
        put(link, queue, b"good")
        (delivery,) = received(log)
        assert delivery.body == b"good"
        assert log.dropped == 1
        assert not log.lost
    wait_until(lambda: count_waiting(link, queue) == 1)  # the good one, which no one replied to


def test_unused_properties_are_ignored(link: Broker, queue: str) -> None:
    log, request_id = Log(), make_id()
    with ready(worker_end(link, queue, log), log):
        publish(
            link, queue, b"good", correlation_id=request_id, reply_to=REPLY_TO, headers={"a": [1, {"b": None}]},
            content_type="image/png", priority=255, timestamp=2**40, app_id="é" * 100, type="", message_id="7",
        )  # fmt: skip
        (delivery,) = received(log)
    assert (delivery.request_id, delivery.reply_to, delivery.redelivered) == (request_id, REPLY_TO, False)


@pytest.mark.parametrize(("expiration", "seconds"), [("2500", 2.5), ("600001", 600.001), (None, MESSAGE_SECONDS)])
def test_the_expiration_of_a_request_is_read(expiration: str | None, seconds: float, link: Broker, queue: str) -> None:
    log = Log()
    with ready(worker_end(link, queue, log), log):
        publish(link, queue, b"1", correlation_id=make_id(), reply_to=REPLY_TO, expiration=expiration)
        (delivery,) = received(log)
    assert delivery.seconds == seconds


def test_a_request_is_acknowledged_only_with_its_reply(link: Broker, queue: str, client: str) -> None:
    first, second = Log(), Log()
    worker = worker_end(link, queue, first)
    with ready(worker, first):
        put(link, queue, b"1", b"2", reply_to=client)
        kept, answered = received(first, 2)
        assert in_owner(worker, lambda: worker.reply(answered, b"answer")) is True
    with ready(worker_end(link, queue, second), second):
        (again,) = received(second)
    assert again.body == kept.body == b"1"
    assert again.redelivered
    assert not kept.redelivered


def test_the_reply_is_sent_before_the_acknowledgement(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, sent = Log(), list[str]()
    worker = worker_end(link, queue, log)
    with ready(worker, log):
        put(link, queue, b"1")
        (delivery,) = received(log)
        for name in ("basic_publish", "basic_ack"):
            send = getattr(delivery.channel, name)
            noted = _noting(sent, name, send)
            monkeypatch.setattr(delivery.channel, name, noted)
        in_owner(worker, lambda: worker.reply(delivery, b"answer"))
        wait_until(lambda: log.unroutable)
    assert sent == ["basic_publish", "basic_ack"]
    assert count_waiting(link, queue) == 0


def _noting(sent: list[str], name: str, send: Callable[..., None]) -> Callable[..., None]:
    def send_and_note(*arguments: Any, **options: Any) -> None:
        sent.append(name)
        send(*arguments, **options)

    return send_and_note


def test_a_reply_to_a_client_that_left_is_counted_and_its_request_acknowledged(link: Broker, queue: str) -> None:
    log = Log()
    worker = worker_end(link, queue, log)
    with ready(worker, log):
        put(link, queue, b"1")
        (delivery,) = received(log)
        in_owner(worker, lambda: worker.reply(delivery, b"too late"))
        wait_until(lambda: log.unroutable == 1)
    assert log.dropped == 0
    assert count_waiting(link, queue) == 0


def test_waiting_requests_of_clients_that_left_are_discarded(link: Broker, queue: str, client: str) -> None:
    log, gone = Log(), f"ee-reply.{make_id()}"
    with open_channel(link) as shared, open_channel(link) as channel:
        shared.queue_declare(durable := f"ee-reply.{make_id()}")
        channel.queue_declare(queue, durable=True, arguments=make_queue_arguments())
        for number, reply_to in enumerate((gone, client, REPLY_TO, durable, gone, client, durable, REPLY_TO)):
            put(link, queue, bytes([number]), reply_to=reply_to)
        with ready(worker_end(link, queue, log), log):
            wait_until(lambda: len(log.requests) == len(log.abandoned) == 4)
            put(link, queue, b"new", reply_to=client)
            wait_until(lambda: len(log.requests) == 5)
        shared.queue_delete(durable)
    assert [delivery.body[0] for delivery in log.requests if delivery.reply_to == client] == [1, 5, b"n"[0]]
    assert [delivery.body[0] for delivery in log.requests if delivery.reply_to == durable] == [3, 6]
    assert {delivery.reply_to for delivery in log.abandoned} == {gone, REPLY_TO}
    assert not log.lost
    wait_until(lambda: count_waiting(link, queue) == 5)  # to which no one replied


def test_an_undeliverable_reply_shows_that_its_client_has_left(link: Broker, queue: str) -> None:
    log = Log()
    worker = worker_end(link, queue, log)
    with ready(worker, log):
        put(link, queue, b"1")  # at once taken by the worker, which has no reason to doubt its client
        (delivery,) = received(log)
        assert not worker.is_abandoned(delivery)
        in_owner(worker, lambda: worker.reply(delivery, b"too late"))
        wait_until(lambda: worker.is_abandoned(delivery))
        put(link, queue, b"2", b"3")
        wait_until(lambda: len(log.abandoned) == 2)
    assert count_waiting(link, queue) == 0
    assert len(log.requests) == 1


def test_clients_are_assumed_to_be_connected_if_no_channel_is_free(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    with open_channel(link) as channel:
        channel.queue_declare(queue, durable=True, arguments=make_queue_arguments())
        put(link, queue, b"1")
        worker = worker_end(link, queue, log)
        monkeypatch.setattr(worker, "_on_message", _without_channels(worker._on_message))
        with ready(worker, log):
            received(log)
    assert not log.lost


def _without_channels(on_message: Callable[..., None]) -> Callable[..., None]:
    def receive(channel: Any, *arguments: Any) -> None:
        channel.connection.params.channel_max = 1
        on_message(channel, *arguments)

    return receive


def test_a_requeued_request_goes_to_another_worker(link: Broker, queue: str, client: str) -> None:
    logs = Log(), Log()
    first, second = (worker_end(link, queue, log) for log in logs)
    with ready(first, logs[0]):
        put(link, queue, b"1", reply_to=client)
        (delivery,) = received(logs[0])
        stopped: list[bool] = []
        in_owner(first, lambda: first.stop_receiving(lambda: stopped.append(True)))
        wait_until(lambda: stopped)
        in_owner(first, lambda: first.requeue(delivery))
        with ready(second, logs[1]):
            (redelivered,) = received(logs[1])
    assert redelivered.body == b"1"
    assert redelivered.redelivered
    assert len(logs[0].requests) == 1


def test_a_discarded_request_is_not_delivered_again(link: Broker, queue: str) -> None:
    log = Log()
    worker = worker_end(link, queue, log)
    with ready(worker, log):
        put(link, queue, b"1")
        (delivery,) = received(log)
        in_owner(worker, lambda: worker.discard(delivery))
    assert count_waiting(link, queue) == 0
    assert log.unroutable == 0


@pytest.mark.parametrize(("event", "properties"), [
    ("on_request", {"correlation_id": make_id(), "reply_to": REPLY_TO}),
    ("on_dropped", {}),
])  # fmt: skip
def test_an_error_of_the_owner_ends_the_run_and_the_message_is_not_repeated(
    event: str, properties: dict[str, Any], link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, calls = Log(), list[object]()

    def fail(*arguments: object) -> None:
        calls.append(arguments)
        raise ZeroDivisionError

    monkeypatch.setattr(log, event, fail)
    with pytest.raises(ZeroDivisionError), ready(worker_end(link, queue, log), log) as thread:
        publish(link, queue, b"1", **properties)
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert len(calls) == 1
    assert not log.lost


def test_after_it_stops_receiving_a_worker_can_still_reply(link: Broker, queue: str) -> None:
    log = Log()
    worker = worker_end(link, queue, log)
    stopped: list[int] = []
    with ready(worker, log):
        put(link, queue, b"1")
        (delivery,) = received(log)
        in_owner(worker, lambda: worker.stop_receiving(lambda: stopped.append(len(log.requests))))
        wait_until(lambda: stopped)
        put(link, queue, b"2")
        in_owner(worker, lambda: worker.reply(delivery, b"answer"))
        wait_until(lambda: log.unroutable == 1)
    assert stopped == [1]
    assert len(log.requests) == 1
    assert count_waiting(link, queue) == 1


def test_without_a_connection_there_is_nothing_to_stop_receiving(link: Broker, queue: str) -> None:
    log, stopped = Log(), list[bool]()
    worker = worker_end(link, queue, log)

    def give_up_and_stop_receiving() -> None:
        worker.abort(CloudUnavailableError("given up"))
        worker.stop_receiving(lambda: stopped.append(True))

    with ready(worker, log):
        in_owner(worker, give_up_and_stop_receiving)
        assert stopped == [True]


def test_deliveries_of_an_older_connection_cannot_be_answered(link: Broker, queue: str) -> None:
    log, client = Log(), f"ee-reply.{make_id()}"
    worker = worker_end(link, queue, log)
    with open_channel(link) as channel, ready(worker, log):
        channel.queue_declare(client, exclusive=True)
        put(link, queue, b"1", reply_to=client)
        wait_until(lambda: log.requests)
        in_owner(worker, lambda: worker.abort(CloudUnavailableError("given up")))
        wait_until(lambda: len(log.requests) == 2)
        old, new = log.requests
        assert in_owner(worker, lambda: worker.reply(old, b"old")) is False
        in_owner(worker, lambda: worker.requeue(old))
        in_owner(worker, lambda: worker.discard(old))
        assert in_owner(worker, lambda: worker.reply(new, b"new")) is True
        wait_until(lambda: channel.queue_declare(client, passive=True).method.message_count > 0)
        replies = [channel.basic_get(client, auto_ack=True)[2] for _ in range(2)]
    assert replies == [b"new", None]
    assert (old.body, new.body) == (b"1", b"1")
    assert (old.redelivered, new.redelivered) == (False, True)
    assert len(log.requests) == 2


def test_a_worker_holds_no_more_requests_than_the_prefetch(link: Broker, queue: str, client: str) -> None:
    log = Log()
    worker = RequestQueue(link, queue, log, prefetch=2)
    with ready(worker, log):
        put(link, queue, b"1", b"2", b"3", b"4", reply_to=client)
        wait_until(lambda: count_waiting(link, queue) == 2)
        in_owner(worker, lambda: worker.reply(log.requests[0], b"answer"))
        wait_until(lambda: len(log.requests) == 3)
        assert count_waiting(link, queue) == 1


def test_a_queue_that_is_deleted_while_it_is_consumed_is_declared_again(link: Broker, queue: str) -> None:
    log = Log()
    with ready(worker_end(link, queue, log), log), open_channel(link) as channel:
        channel.queue_delete(queue)
        wait_until(lambda: len(log.ready) == 2)
        put(link, queue, b"1")
        received(log)
    (loss,) = log.lost
    assert "a queue of RabbitMQ at" in str(loss.problem)
    assert "was deleted" in str(loss.problem)


def settings(broker: ControlledBroker, queue: str) -> str:
    listed = broker.control("list_queues", "name", "type", "durable", "arguments")
    (line,) = [line for line in listed.splitlines() if queue in line]
    return line


def test_the_request_queue_is_durable_and_bounded(broker: ControlledBroker, link: Broker, queue: str) -> None:
    log = Log()
    with ready(worker_end(link, queue, log), log):
        line = settings(broker, queue)
    assert line.split("\t")[1:3] == ["classic", "true"]
    assert f'{{"x-max-length",{QUEUE_LIMIT}}}' in line
    assert f'{{"x-max-length-bytes",{QUEUE_BYTES}}}' in line
    assert '{"x-overflow","reject-publish"}' in line
    assert f'{{"x-message-ttl",{1000 * MESSAGE_SECONDS}}}' in line


def test_a_quorum_queue_is_declared_with_its_delivery_limit_and_works(
    broker: ControlledBroker, link: Broker, queue: str
) -> None:
    log = Log()
    worker = RequestQueue(link, queue, log, prefetch=16, queue_type="quorum")
    with ready(worker, log):
        line = settings(broker, queue)
        put(link, queue, b"1")
        (delivery,) = received(log)
        in_owner(worker, lambda: worker.reply(delivery, b"answer"))
        wait_until(lambda: log.unroutable == 1)
    assert line.split("\t")[1:3] == ["quorum", "true"]
    assert f'{{"x-delivery-limit",{DELIVERY_LIMIT}}}' in line
    assert f'{{"x-max-length",{QUEUE_LIMIT}}}' in line


def test_a_quorum_queue_drops_a_request_after_its_delivery_limit(link: Broker, queue: str, client: str) -> None:
    deliveries = 0
    for _ in range(DELIVERY_LIMIT + 1):
        log = Log()
        with ready(RequestQueue(link, queue, log, prefetch=16, queue_type="quorum"), log):
            if deliveries == 0:
                put(link, queue, b"poison", reply_to=client)
            received(log)
            deliveries += 1
    wait_until(lambda: count_waiting(link, queue) == 0)


@pytest.mark.parametrize(("there", "wanted"), [("classic", "quorum"), ("quorum", "classic")])
def test_a_queue_of_the_other_type_is_reported_in_one_line(there: str, wanted: str, link: Broker, queue: str) -> None:
    log = Log()
    with ready(RequestQueue(link, queue, log, prefetch=16, queue_type=there), log):
        pass
    with pytest.raises(CloudError, match=f"queue '{queue}' of .* exists with other settings; delete it") as caught:
        run_to_its_end(RequestQueue(link, queue, Log(), prefetch=16, queue_type=wanted))
    assert caught.value.exit_code == 2
    assert is_one_line(caught.value)
