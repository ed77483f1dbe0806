"""The client's connection: published requests and their replies."""

from typing import Any

import pytest

from offload.link.broker import Broker
from offload.link.protocol import LARGEST_REPLY, make_id
from offload.link.rabbitmq import client_end as client_end_module
from offload.link.rabbitmq import worker_end as worker_end_module
from offload.link.rabbitmq.client_end import RequestSender
from offload.link.rabbitmq.connection import CONTENT_TYPE, REPLY_QUEUE
from tests.controlled_broker import ControlledBroker
from tests.offload.link.rabbitmq.ends import Log, client_end, in_owner, ready, worker_end
from tests.offload.link_ends import PATIENCE, Relay, at, count_waiting, open_channel, publish, wait_until
from utils.errors import CloudUnavailableError

SECONDS = 10.0
LARGE = 14 * 2**20
BURST = 300


def send(end: RequestSender, *bodies: bytes, seconds: float = SECONDS) -> list[str]:
    """Publish requests, all at once, and return their ids."""
    request_ids = [make_id() for _ in bodies]

    def publish_all() -> None:
        for request_id, body in zip(request_ids, bodies, strict=True):
            end.publish(request_id, body, seconds)

    in_owner(end, publish_all)
    return request_ids


def declare(link: Broker, queue: str) -> None:
    """Declare a request queue as a worker does."""
    log = Log()
    with ready(worker_end(link, queue, log), log):
        pass


def test_a_request_has_an_id_a_reply_queue_and_an_expiration(link: Broker, queue: str) -> None:
    declare(link, queue)
    log = Log()
    end = client_end(link, queue, log)
    with ready(end, log), open_channel(link) as channel:
        (request_id,) = send(end, b"hello", seconds=7.5)
        wait_until(lambda: log.confirmed)
        _method, properties, body = channel.basic_get(queue, auto_ack=True)
    assert body == b"hello"
    assert properties.correlation_id == request_id
    assert properties.reply_to.startswith(REPLY_QUEUE)
    assert properties.content_type == CONTENT_TYPE
    assert properties.expiration == "7500"


@pytest.mark.parametrize("seconds", [0.0004, 0.0, -1.0])
def test_a_request_without_time_left_still_expires(seconds: float, link: Broker, queue: str) -> None:
    declare(link, queue)
    log = Log()
    end = client_end(link, queue, log)
    with ready(end, log):
        send(end, b"hello", seconds=seconds)
        wait_until(lambda: log.confirmed)
        wait_until(lambda: count_waiting(link, queue) == 0)


def test_each_request_in_the_queue_is_confirmed_once(link: Broker, queue: str) -> None:
    declare(link, queue)
    log = Log()
    end = client_end(link, queue, log)
    with ready(end, log):
        request_ids = send(end, *[b"hello"] * BURST)
        wait_until(lambda: len(log.confirmed) >= BURST)
        assert sorted(log.confirmed) == sorted(request_ids)
        assert count_waiting(link, queue) == BURST
    assert not log.returned


class Counting(RequestSender):
    """Counts the broker's confirmations that stand for more than one request."""

    several = 0

    def _on_confirm(self, frame: Any) -> None:
        before = len(self._unconfirmed)
        super()._on_confirm(frame)
        self.several += before - len(self._unconfirmed) > 1


def test_one_confirmation_may_cover_many_requests(link: Broker, queue: str) -> None:
    declare(link, queue)
    log, published = Log(), list[str]()
    end = Counting(link, queue, log)
    with ready(end, log):

        def are_confirmed_together() -> bool:
            published.extend(send(end, *[b"hello"] * BURST))
            wait_until(lambda: len(log.confirmed) + len(log.returned) >= len(published))
            return end.several > 0

        wait_until(are_confirmed_together)
    assert sorted([*log.confirmed, *(request_id for request_id, _ in log.returned)]) == sorted(published)


def test_a_request_to_a_queue_that_does_not_exist_is_returned(link: Broker, queue: str) -> None:
    log = Log()
    end = client_end(link, queue, log)
    with ready(end, log):
        request_ids = send(end, *[b"hello"] * 20)
        wait_until(lambda: len(log.returned) >= 20)
    assert sorted(log.returned) == sorted((request_id, "does not exist") for request_id in request_ids)
    assert not log.confirmed


def test_a_returned_request_can_be_published_again(link: Broker, queue: str) -> None:
    log, request_id = Log(), make_id()
    end = client_end(link, queue, log)
    with ready(end, log):
        in_owner(end, lambda: end.publish(request_id, b"hello", SECONDS))
        wait_until(lambda: log.returned)
        declare(link, queue)
        in_owner(end, lambda: end.publish(request_id, b"hello", SECONDS))
        wait_until(lambda: log.confirmed)
    assert log.confirmed == [request_id]
    assert log.returned == [(request_id, "does not exist")]


def test_a_request_to_a_full_queue_is_returned(link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_end_module, "QUEUE_LIMIT", 2)
    declare(link, queue)
    log = Log()
    end = client_end(link, queue, log)
    with ready(end, log):
        request_ids = send(end, *[b"hello"] * 5)
        wait_until(lambda: len(log.confirmed) + len(log.returned) >= 5)
    assert sorted(log.confirmed) == sorted(request_ids[:2])
    assert sorted(log.returned) == sorted((request_id, "is full") for request_id in request_ids[2:])


def test_a_connection_that_rejects_all_requests_is_replaced_with_growing_pauses(
    broker: ControlledBroker, link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_end_module, "QUEUE_LIMIT", 1)
    monkeypatch.setattr(client_end_module, "REJECTION_LIMIT", 0.1)
    declare(link, queue)
    publish(link, queue, b"fills the queue")
    log = Log()
    end = client_end(link, queue, log)
    with ready(end, log):

        def has_reconnected(times: int) -> bool:
            if end.is_ready:
                send(end, b"hello")
            return len(log.ready) > times

        wait_until(lambda: has_reconnected(2))
        said = [str(loss.problem) for loss in log.lost]
        assert said == [f"RabbitMQ at {link} rejected all requests for {limit} s; reconnecting" for limit in (0.1, 0.2)]
        broker.control("purge_queue", queue)
        send(end, b"hello")
        wait_until(lambda: log.confirmed)


def test_a_connection_that_has_published_is_kept_when_the_queue_is_full(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_end_module, "QUEUE_LIMIT", 1)
    monkeypatch.setattr(client_end_module, "REJECTION_LIMIT", 0.0)
    declare(link, queue)
    log = Log()
    end = client_end(link, queue, log)
    with ready(end, log):
        send(end, *[b"hello"] * 20)
        wait_until(lambda: len(log.returned) == 19)
        send(end, *[b"hello"] * 20)
        wait_until(lambda: len(log.returned) == 39)
    assert len(log.ready) == 1
    assert log.lost == []


def test_a_reply_has_the_id_of_its_request(link: Broker, queue: str) -> None:
    ours, theirs = Log(), Log()
    client, worker = client_end(link, queue, ours), worker_end(link, queue, theirs)
    with ready(worker, theirs), ready(client, ours):
        (request_id,) = send(client, b"hello")
        wait_until(lambda: theirs.requests)
        (delivery,) = theirs.requests
        assert (delivery.request_id, delivery.body) == (request_id, b"hello")
        assert in_owner(worker, lambda: worker.reply(delivery, b"")) is True
        wait_until(lambda: ours.replies)
    assert ours.replies == [(request_id, b"")]
    assert theirs.unroutable == 0


@pytest.mark.parametrize("event", ["on_confirmed", "on_reply"])
def test_an_error_of_the_owner_ends_the_run(
    event: str, link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(link, queue)
    log = Log()
    end = client_end(link, queue, log)

    def fail(*_arguments: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), ready(end, log) as thread:
        where = reply_queue(end, link, queue)
        wait_until(lambda: log.confirmed)
        monkeypatch.setattr(log, event, fail)
        if event == "on_reply":
            publish(link, where, b"reply")
        else:
            send(end, b"request")
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not log.lost


def test_the_largest_messages_are_transferred(link: Broker, queue: str) -> None:
    ours, theirs = Log(), Log()
    client, worker = client_end(link, queue, ours), worker_end(link, queue, theirs)
    sizes = {0: LARGE, 200: LARGEST_REPLY}
    request, reply = (bytes([start, 1, 2, 3, 5, 7, 11]) * (size // 7) for start, size in sizes.items())
    with ready(worker, theirs), ready(client, ours):
        (request_id,) = send(client, request, seconds=PATIENCE)
        wait_until(lambda: theirs.requests)
        assert theirs.requests[0].body == request
        in_owner(worker, lambda: worker.reply(theirs.requests[0], reply))
        wait_until(lambda: ours.replies)
    assert ours.replies == [(request_id, reply)]
    assert not ours.lost
    assert not theirs.lost


def test_an_oversize_reply_is_reported_by_its_size(link: Broker, queue: str) -> None:
    declare(link, queue)
    log = Log()
    end = client_end(link, queue, log)
    with ready(end, log):
        where = reply_queue(end, link, queue)
        publish(link, where, bytes(LARGEST_REPLY + 1))
        publish(link, where, bytes(LARGEST_REPLY))
        wait_until(lambda: log.replies)
    assert log.oversize == [LARGEST_REPLY + 1]
    assert not log.lost


@pytest.mark.parametrize("properties", [{}, {"correlation_id": ""}, {"correlation_id": b"\xff" * 32}])
def test_an_untrusted_reply_is_passed_on_as_text_and_bytes(
    properties: dict[str, Any], link: Broker, queue: str
) -> None:
    declare(link, queue)
    log = Log()
    end = client_end(link, queue, log)
    with ready(end, log):
        publish(link, reply_queue(end, link, queue), b"forged", **properties)
        wait_until(lambda: log.replies)
        ((request_id, body),) = log.replies
        assert isinstance(request_id, str)
        assert body == b"forged"
    assert not log.lost


def reply_queue(end: RequestSender, link: Broker, queue: str) -> str:
    """Return the reply queue of a client."""
    send(end, b"where to?")
    with open_channel(link) as channel:
        wait_until(lambda: count_waiting(link, queue))
        _method, properties, _body = channel.basic_get(queue, auto_ack=True)
    return str(properties.reply_to)


def test_the_reply_queue_of_a_connection_is_deleted_with_it(broker: ControlledBroker, link: Broker, queue: str) -> None:
    declare(link, queue)
    log = Log()
    end = client_end(link, queue, log)
    with ready(end, log):
        first = reply_queue(end, link, queue)
        in_owner(end, lambda: end.abort(CloudUnavailableError("given up")))
        wait_until(lambda: len(log.ready) == 2)
        second = reply_queue(end, link, queue)
        assert second != first
        wait_until(lambda: first not in broker.control("list_queues", "name"))
        assert second in broker.control("list_queues", "name")
    wait_until(lambda: second not in broker.control("list_queues", "name"))


def test_confirmations_of_two_connections_are_not_confused(link: Broker, queue: str) -> None:
    declare(link, queue)
    relay, log = Relay(link.hosts[0].port), Log()
    with relay.running() as port:
        end = client_end(at(link, port, link.hosts[0].port), queue, log)
        with ready(end, log):
            (known,) = send(end, b"confirmed")
            wait_until(lambda: log.confirmed)
            relay.fall_silent()
            send(end, b"lost", b"lost as well")
            in_owner(end, lambda: end.abort(CloudUnavailableError("given up")))
            wait_until(lambda: len(log.ready) == 2)
            request_ids = send(end, b"again", b"and again", b"and again")
            wait_until(lambda: len(log.confirmed) + len(log.returned) >= 4)
    assert sorted(log.confirmed[1:]) == sorted(request_ids)
    assert log.confirmed[0] == known
    assert not log.returned
