import logging
import re
import socket
import struct
import threading
import time
import traceback
from dataclasses import replace
from typing import Any

import pika
import pytest

from offload import rabbitmq
from offload.broker import Broker
from offload.private_broker import free_port
from offload.protocol import new_id
from offload.rabbitmq import Delivery, RequestChannel, RequestQueue
from offload.worker import Worker
from tests.offload.link import REPLY_TO, Relay, connected, listening, publish, serving, wait_until, waiting_in
from utils.errors import BrokerRefusedError, CloudError, CloudUnavailableError

SECRET = "hunter2-Pa$$wört"
SILENCE_NOTICED = 15.0


def ask(link: Broker, queue: str, body: bytes = b"hello", timeout: float = 10.0) -> bytes:
    with RequestChannel(link, queue) as channel:
        return channel.ask(body, new_id(), timeout)


def declare(link: Broker, queue: str) -> None:
    """Declare a request queue as a worker does, and leave."""
    RequestQueue(link, queue).close()


def receive(requests: RequestQueue, count: int = 1) -> list[Delivery]:
    received: list[Delivery] = []
    deadline = time.monotonic() + 10
    while len(received) < count and time.monotonic() < deadline:
        received += requests.receive(0.1)
    assert len(received) == count
    return received


def test_the_password_shows_in_no_text_of_a_broker() -> None:
    broker = Broker("host", 5672, "user", SECRET)
    assert SECRET not in f"{broker} {broker!r} {broker!s}"
    assert "user" in repr(broker)
    assert str(broker) == "host:5672"


@pytest.mark.parametrize("user", ["ee", "nobody"])
def test_a_wrong_user_or_password_is_refused_in_one_line_without_the_password(link: Broker, user: str) -> None:
    wrong = replace(link, username=user, password=SECRET)
    with pytest.raises(BrokerRefusedError) as caught:
        RequestChannel(wrong, "q")
    assert caught.value.exit_code == 4
    assert "--mq-password" in str(caught.value)
    assert f"'{user}'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("end", [RequestChannel, RequestQueue])
def test_a_virtual_host_that_is_not_there_is_refused(link: Broker, end: type) -> None:
    with pytest.raises(BrokerRefusedError, match="virtual host 'nowhere'; check --mq-vhost") as caught:
        end(replace(link, virtual_host="nowhere"), "q")
    assert caught.value.exit_code == 4


def test_a_queue_that_the_user_may_not_declare_is_refused(link: Broker) -> None:
    with pytest.raises(BrokerRefusedError, match=r"refuses user 'ee': ACCESS_REFUSED - queue name 'amq\.requests'"):
        RequestQueue(link, "amq.requests")


@pytest.mark.parametrize("end", [RequestChannel, RequestQueue])
def test_nothing_on_the_port_is_an_error_at_once(end: type) -> None:
    port, start = free_port(), time.monotonic()
    with pytest.raises(CloudUnavailableError, match=r"no RabbitMQ at .* \(connection refused\)") as caught:
        end(Broker("127.0.0.1", port), "q")
    assert caught.value.exit_code == 3
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("hostname", ["a..b", "x" * 300, "é" * 70, ""])
def test_a_text_that_can_be_no_host_name_is_an_error_of_one_line(hostname: str) -> None:
    with pytest.raises(CloudUnavailableError, match="unknown host name"):
        RequestChannel(Broker(hostname), "q")


def http(connection: socket.socket) -> None:
    connection.recv(100)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


def http_and_close(connection: socket.socket) -> None:
    http(connection)
    connection.close()


def ssh(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")


def zeros(connection: socket.socket) -> None:
    connection.recv(100)
    connection.sendall(bytes(1000))


def another_version(connection: socket.socket) -> None:
    connection.recv(100)
    connection.sendall(b"AMQP\x00\x01\x00\x00")
    connection.close()


def silence(_connection: socket.socket) -> None:
    pass


def close(connection: socket.socket) -> None:
    connection.close()


@pytest.mark.parametrize("server", [http, http_and_close, ssh, zeros, another_version, silence, close])
def test_another_server_on_the_port_is_told_from_rabbitmq_in_one_line(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 2 * rabbitmq.CONNECT_TIMEOUT + rabbitmq.CLOSE_TIMEOUT < SILENCE_NOTICED
    monkeypatch.setattr(rabbitmq, "CONNECT_TIMEOUT", 0.5)
    start = time.monotonic()
    with listening(server) as port, pytest.raises(CloudUnavailableError, match="--mq-port") as caught:
        RequestChannel(Broker("127.0.0.1", port), "q")
    assert time.monotonic() - start < 4
    assert "\n" not in str(caught.value)


def test_a_broker_that_breaks_off_the_greeting_is_not_said_to_refuse_the_password(link: Broker) -> None:
    def greet_and_close(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", link.port)) as broker:
            broker.sendall(connection.recv(8))
            connection.sendall(broker.recv(4096))
        connection.recv(4096)
        connection.close()

    with listening(greet_and_close) as port, pytest.raises(CloudUnavailableError, match="broke off the greeting"):
        RequestChannel(replace(link, port=port), "q")


def test_a_request_is_answered_by_whoever_takes_it(link: Broker, queue: str) -> None:
    worker = Worker(link, queue, lambda body, request_id: body.upper() + request_id.encode())
    with serving(worker), RequestChannel(link, queue) as channel:
        for body in (b"a", b"", b"x" * 2**20):
            request_id = new_id()
            assert channel.ask(body, request_id, 10) == body.upper() + request_id.encode()


def test_a_missing_queue_is_an_error_within_the_timeout(link: Broker, queue: str) -> None:
    start = time.monotonic()
    with pytest.raises(CloudUnavailableError, match=f"queue '{queue}' of .* does not exist; start a worker") as caught:
        ask(link, queue, timeout=1.0)
    assert time.monotonic() - start < 2
    assert caught.value.exit_code == 3


def test_a_worker_that_starts_within_the_timeout_answers(link: Broker, queue: str) -> None:
    replies: list[bytes] = []
    asking = threading.Thread(target=lambda: replies.append(ask(link, queue)), daemon=True)
    asking.start()
    time.sleep(0.5)
    assert not replies
    with serving(Worker(link, queue, lambda body, _id: body.upper())):
        asking.join(10)
    assert replies == [b"HELLO"]


def test_no_answer_is_an_error_within_the_timeout(link: Broker, queue: str) -> None:
    declare(link, queue)
    start = time.monotonic()
    with pytest.raises(CloudUnavailableError, match=r"no worker answered within 0\.7 s .*raise --request-timeout"):
        ask(link, queue, timeout=0.7)
    assert 0.7 <= time.monotonic() - start < 2


def test_a_full_queue_is_an_error_within_the_timeout(link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq, "QUEUE_LIMIT", 2)
    declare(link, queue)
    for _ in range(2):
        publish(link, queue, b"filler")
    with pytest.raises(CloudUnavailableError, match="is full"):
        ask(link, queue, timeout=0.5)


def test_a_request_that_its_client_no_longer_waits_for_is_not_computed(link: Broker, queue: str) -> None:
    declare(link, queue)
    with pytest.raises(CloudUnavailableError):
        ask(link, queue, b"stale", timeout=0.3)
    computed: list[bytes] = []

    def answer(body: bytes, _request_id: str) -> bytes:
        computed.append(body)
        return body

    with serving(Worker(link, queue, answer)):
        ask(link, queue, b"fresh")
    assert computed == [b"fresh"]


def test_a_second_reply_to_a_request_is_not_taken_for_the_reply_to_the_next(link: Broker, queue: str) -> None:
    requests = RequestQueue(link, queue)
    replies: list[bytes] = []

    def ask_twice() -> None:
        with RequestChannel(link, queue) as channel:
            replies.extend(channel.ask(body, new_id(), 10) for body in (b"1", b"2"))

    asking = threading.Thread(target=ask_twice, daemon=True)
    asking.start()
    (first,) = receive(requests)
    publish(link, first.reply_to, b"one", correlation_id=first.request_id)
    publish(link, first.reply_to, b"forged", correlation_id=new_id())
    requests.reply(first, b"one")
    (second,) = receive(requests)
    requests.reply(second, b"two")
    asking.join(10)
    requests.close()
    assert replies == [b"one", b"two"]


def test_a_queue_that_exists_with_other_settings_is_one_clear_line(link: Broker, queue: str) -> None:
    with connected(link) as channel:
        channel.queue_declare(queue, durable=True)
    with pytest.raises(CloudError, match="exists with other settings; delete it, or choose another") as caught:
        RequestQueue(link, queue)
    assert repr(queue) in str(caught.value)
    assert "x-max-length" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_queue_that_belongs_to_another_connection_is_one_clear_line(link: Broker, queue: str) -> None:
    with connected(link) as channel:
        channel.queue_declare(queue, exclusive=True)
        with pytest.raises(CloudError, match="exists with other settings"):
            RequestQueue(link, queue)


def test_a_queue_deleted_under_its_consumer_is_noticed(link: Broker, queue: str) -> None:
    requests = RequestQueue(link, queue)
    with connected(link) as channel:
        channel.queue_delete(queue)
    with pytest.raises(CloudUnavailableError, match="was deleted"):
        receive(requests)
    requests.close()


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
    "no reply queue": {"correlation_id": new_id()},
    "an empty reply queue": {"correlation_id": new_id(), "reply_to": ""},
    "a reply queue that is no text": {"correlation_id": new_id(), "reply_to": b"\xff" * 41},
    "a foreign reply queue": {"correlation_id": new_id(), "reply_to": "payroll"},
    "a reply queue with a line end": {"correlation_id": new_id(), "reply_to": REPLY_TO + "\n"},
    # A reply to it would end the worker's connection with INTERNAL_ERROR, and the next worker's, and so on.
    "an order to the broker": {"correlation_id": new_id(), "reply_to": "amq.rabbitmq.reply-to.g1h2AAVyZXBseQAAAA==.x"},
    # pika fails on these, and would drop the connection at each delivery.
    "a date that no calendar holds": {
        "correlation_id": new_id(), "reply_to": REPLY_TO, "headers": {"at": Raw(b"T" + b"\xff" * 8)},
    },
    "a header nested too deep": {
        "correlation_id": new_id(), "reply_to": REPLY_TO, "headers": {"in": Raw(nested_arrays(3000))},
    },
}  # fmt: skip


@pytest.mark.usefixtures("raw_headers")
@pytest.mark.parametrize("properties", NO_ONE_TO_REPLY_TO.values(), ids=NO_ONE_TO_REPLY_TO.keys())
def test_a_message_that_names_no_one_to_reply_to_is_counted_dropped_and_acknowledged(
    properties: dict[str, Any], link: Broker, queue: str
) -> None:
    requests = RequestQueue(link, queue)
    publish(link, queue, b"hostile", **properties)
    publish(link, queue, b"good", correlation_id=new_id(), reply_to=REPLY_TO)
    (delivery,) = receive(requests)
    assert delivery.body == b"good"
    assert requests.dropped == 1
    requests.close()
    assert waiting_in(link, queue) == 1  # the good one, which no one replied to


def test_a_request_is_acknowledged_by_the_reply_and_not_before(link: Broker, queue: str) -> None:
    for body in (b"1", b"2"):
        declare(link, queue)
        publish(link, queue, body, correlation_id=new_id(), reply_to=REPLY_TO)
    requests = RequestQueue(link, queue)
    first, second = receive(requests, 2)
    requests.reply(second, b"answer")
    requests.close()
    again = RequestQueue(link, queue)
    (redelivered,) = receive(again)
    assert redelivered.body == first.body == b"1"
    again.close()


def test_a_reply_to_a_client_that_left_is_counted_and_its_request_acknowledged(link: Broker, queue: str) -> None:
    requests = RequestQueue(link, queue)
    publish(link, queue, b"1", correlation_id=new_id(), reply_to=REPLY_TO)
    (delivery,) = receive(requests)
    requests.reply(delivery, b"too late")
    deadline = time.monotonic() + 5
    while not requests.dropped and time.monotonic() < deadline:
        requests.receive(0.1)
    assert requests.dropped == 1
    requests.close()
    assert waiting_in(link, queue) == 0


def test_requests_given_back_go_to_another_worker(link: Broker, queue: str) -> None:
    first = RequestQueue(link, queue)
    publish(link, queue, b"1", correlation_id=new_id(), reply_to=REPLY_TO)
    (delivery,) = receive(first)
    first.stop_receiving()
    first.give_back(delivery)
    second = RequestQueue(link, queue)
    (redelivered,) = receive(second)
    assert redelivered.body == b"1"
    first.close()
    second.close()


def test_what_another_thread_asks_for_runs_in_the_owner_of_the_connection(link: Broker, queue: str) -> None:
    requests = RequestQueue(link, queue)
    threads: list[int] = []
    other = threading.Thread(target=requests.call_soon, args=(lambda: threads.append(threading.get_ident()),))
    other.start()
    other.join(5)
    assert not threads
    start = time.monotonic()
    while not threads and time.monotonic() - start < 5:
        requests.receive(2)
    assert time.monotonic() - start < 1, "it waited for the poll to end"
    assert threads == [threading.get_ident()]
    requests.close()
    with pytest.raises(CloudUnavailableError):
        requests.call_soon(lambda: None)


def test_leaving_a_broker_that_has_gone_silent_takes_no_longer_than_its_timeout(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq, "CLOSE_TIMEOUT", 0.5)
    declare(link, queue)
    relay = Relay(link.port)
    with relay.running() as port:
        channel = RequestChannel(replace(link, port=port), queue)
        relay.fall_silent()
        start = time.monotonic()
        channel.close()
        assert 0.5 <= time.monotonic() - start < 2


def test_a_channel_that_could_not_be_opened_leaves_no_connection_behind(
    link: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq, "_REPLY_QUEUE", "amq.")  # which the broker keeps to itself
    relay = Relay(link.port)
    with relay.running() as port:
        with pytest.raises(BrokerRefusedError, match="ACCESS_REFUSED"):
            RequestChannel(replace(link, port=port), "q")
        wait_until(relay.hung_up.is_set, 5)


def test_a_lost_connection_is_an_error_and_not_a_hang(link: Broker, queue: str) -> None:
    declare(link, queue)
    relay = Relay(link.port)
    errors: list[BaseException] = []

    def wait_in_vain(port: int) -> None:
        try:
            ask(replace(link, port=port), queue, timeout=20)
        except CloudUnavailableError as error:
            errors.append(error)

    with relay.running() as port:
        asking = threading.Thread(target=wait_in_vain, args=(port,), daemon=True)
        asking.start()
        wait_until(lambda: waiting_in(link, queue) == 1, 5)
    asking.join(5)
    (error,) = errors
    assert re.search(r"no RabbitMQ at .* \(", str(error))
    assert "\n" not in str(error)


def test_pika_keeps_silent_unless_it_is_asked_to_speak(caplog: pytest.LogCaptureFixture) -> None:
    assert logging.getLogger("pika").level == logging.CRITICAL
    with caplog.at_level(logging.DEBUG, "offload"), pytest.raises(CloudUnavailableError):
        RequestChannel(Broker("127.0.0.1", free_port()), "q")
    assert not [record for record in caplog.records if record.name.startswith("pika")]


def test_each_request_can_be_logged(link: Broker, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    request_id = new_id()
    with serving(Worker(link, queue, lambda body, _id: body)), RequestChannel(link, queue) as channel:
        caplog.set_level(logging.DEBUG, "offload.rabbitmq")
        channel.ask(b"x" * 100, request_id, 10)
    (line,) = [record.getMessage() for record in caplog.records if request_id in record.getMessage()]
    assert "100 bytes" in line
