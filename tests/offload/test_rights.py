"""The README's ``rabbitmqctl`` lines, run on a real node: what each user can do, and what not."""

import contextlib
import functools
import json
import re
import secrets
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pika
import pytest
from pika import exceptions

from offload.link.broker import Broker, Host
from offload.link.protocol import encode_request, make_id
from offload.link.rabbitmq.worker_end import QUEUE_LIMIT, make_queue_arguments
from tests.controlled_broker import ControlledBroker
from tests.offload.link_ends import (
    Sleeper,
    is_answer_to,
    make_client,
    make_request,
    make_worker,
    run_worker,
    wait_until,
)
from tests.offload.submitting import WorkerCounts
from tests.scripts import ROOT

README = ROOT / "offload" / "systemd" / "README.md"
CLIENT, WORKER, GUEST = "ee-client", "ee-worker", "guest"
PLACEHOLDERS = {"CLIENT_PASSWORD": secrets.token_hex(12), "WORKER_PASSWORD": secrets.token_hex(12)}
PASSWORDS = {CLIENT: PLACEHOLDERS["CLIENT_PASSWORD"], WORKER: PLACEHOLDERS["WORKER_PASSWORD"], GUEST: "guest"}
REQUESTS = "ee-processor"
BOUNDED = make_queue_arguments()
ANOTHER = "another"
SECONDS = 10
PATIENT = 120.0
"""Seconds for what RabbitMQ does of itself after a while, also on a busy machine."""

Deed = Callable[[Any], object]


def command_lines(text: str) -> list[list[str]]:
    """Return the words of each line of the one ``rabbitmqctl`` block of a text."""
    (block,) = re.findall(r"```sh rabbitmqctl\n(.*?)```", text, re.DOTALL)
    return [shlex.split(line) for line in block.splitlines()]


@functools.cache
def readme_lines() -> list[list[str]]:
    return command_lines(README.read_text())


def limits(command: str) -> dict[str, int]:
    """Return the limits that the README sets with a command."""
    (found,) = [line[-1] for line in readme_lines() if line[1] == command]
    return dict(json.loads(found))


@contextmanager
def connection_of(node: ControlledBroker, user: str, virtual_host: str = "ee") -> Iterator[pika.BlockingConnection]:
    password = node.password if user == node.username else PASSWORDS[user]
    credentials = pika.PlainCredentials(user, password)
    connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", node.port, virtual_host, credentials))
    try:
        yield connection
    finally:
        if connection.is_open:
            connection.close()


@contextmanager
def acting_as(node: ControlledBroker, user: str) -> Iterator[Any]:
    """Yield a channel of a user's, with confirms."""
    with connection_of(node, user) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel


@pytest.fixture(scope="module")
def node(broker: ControlledBroker) -> Iterator[ControlledBroker]:
    """A new node, on which the README's commands have been run."""
    del broker  # requested so that this is skipped, too, where RabbitMQ is missing
    with ControlledBroker() as running:
        running.control("add_user", GUEST, PASSWORDS[GUEST])
        running.control("set_permissions", GUEST, ".*", ".*", ".*")
        for tool, *arguments in readme_lines():
            assert tool == "rabbitmqctl"
            running.control(*(PLACEHOLDERS.get(word, word) for word in arguments))
        running.control("set_permissions", "-p", "ee", running.username, ".*", ".*", ".*")
        yield running


@pytest.fixture(autouse=True)
def _things(node: ControlledBroker) -> None:
    """Objects to misuse: the request queue with a request, and a queue and an exchange of others."""
    with acting_as(node, node.username) as channel:
        channel.queue_declare(REQUESTS, durable=True, arguments=BOUNDED)
        channel.queue_purge(REQUESTS)  # a test may have filled it
        channel.basic_publish("", REQUESTS, b"request")
        channel.queue_declare(ANOTHER)
        channel.exchange_declare(ANOTHER)


def new_reply_queue(channel: Any) -> str:
    name = f"ee-reply.{make_id()}"
    channel.queue_declare(name, exclusive=True, auto_delete=True)
    return name


def refused(user: str) -> str:
    return f"403.*ACCESS_REFUSED.* refused for user '{user}'"


FORBIDDEN_TO_BOTH: dict[str, Deed] = {
    "declare another queue": lambda channel: channel.queue_declare("new"),
    "declare a queue that the broker names": lambda channel: channel.queue_declare(""),
    "declare a reply queue of another form": lambda channel: channel.queue_declare("ee-reply.mine"),
    "read another queue": lambda channel: channel.basic_consume(ANOTHER, print),
    "take from another queue": lambda channel: channel.basic_get(ANOTHER),
    "empty another queue": lambda channel: channel.queue_purge(ANOTHER),
    "delete another queue": lambda channel: channel.queue_delete(ANOTHER),
    "divert requests": lambda channel: channel.queue_bind(REQUESTS, "amq.fanout"),
    "declare an exchange": lambda channel: channel.exchange_declare("new"),
    "delete an exchange": lambda channel: channel.exchange_delete(ANOTHER),
    "publish to an exchange": lambda channel: channel.basic_publish(ANOTHER, "", b""),
    "publish to every queue at once": lambda channel: channel.basic_publish("amq.fanout", "", b""),
}
FORBIDDEN_TO_CLIENTS: dict[str, Deed] = {
    **FORBIDDEN_TO_BOTH,
    "declare the request queue": lambda channel: channel.queue_declare(REQUESTS, durable=True, arguments=BOUNDED),
    "read requests": lambda channel: channel.basic_consume(REQUESTS, print),
    "take a request": lambda channel: channel.basic_get(REQUESTS),
    "empty the request queue": lambda channel: channel.queue_purge(REQUESTS),
    "delete the request queue": lambda channel: channel.queue_delete(REQUESTS),
}
FORBIDDEN_TO_WORKERS: dict[str, Deed] = {
    **FORBIDDEN_TO_BOTH,
    "declare a reply queue": new_reply_queue,
}
READING: dict[str, Callable[[Any, str], object]] = {
    "consume": lambda channel, queue: channel.basic_consume(queue, print),
    "take": lambda channel, queue: channel.basic_get(queue),
    "empty": lambda channel, queue: channel.queue_purge(queue),
    "delete": lambda channel, queue: channel.queue_delete(queue),
}


def test_the_commands_create_both_users_and_hold_no_other_password() -> None:
    assert {line[0] for line in readme_lines()} == {"rabbitmqctl"}
    assert [line[2:] for line in readme_lines() if line[1] == "add_user"] == [
        [CLIENT, "CLIENT_PASSWORD"],
        [WORKER, "WORKER_PASSWORD"],
    ]


def test_a_text_without_exactly_one_block_is_refused() -> None:
    with pytest.raises(ValueError, match="not enough values"):
        command_lines("```sh\nrabbitmqctl add_vhost ee\n```")


def test_a_client_and_a_worker_can_do_their_work(node: ControlledBroker) -> None:
    with acting_as(node, CLIENT) as client, acting_as(node, WORKER) as worker:
        worker.queue_declare(REQUESTS, durable=True, arguments=BOUNDED)
        worker.queue_purge(REQUESTS)
        worker.basic_qos(prefetch_count=4)
        reply_to = new_reply_queue(client)
        replies = client.consume(reply_to, auto_ack=True, inactivity_timeout=SECONDS)
        client.basic_publish("", REQUESTS, b"ask", pika.BasicProperties(reply_to=reply_to), mandatory=True)
        method, properties, body = next(worker.consume(REQUESTS, inactivity_timeout=SECONDS))
        worker.basic_publish("", properties.reply_to, body.upper(), mandatory=True)
        worker.basic_ack(method.delivery_tag)
        assert next(replies)[2] == b"ASK"


def test_client_and_worker_need_no_further_rights(node: ControlledBroker) -> None:
    def link(user: str) -> Broker:
        return Broker((Host("127.0.0.1", node.port),), user, PASSWORDS[user], "ee")

    request = make_request()
    with acting_as(node, node.username) as channel:
        channel.queue_delete(REQUESTS)
    with run_worker(make_worker(link(WORKER), REQUESTS)), make_client(link(CLIENT), REQUESTS) as client:
        assert is_answer_to(client.submit(request).result(), request)


@pytest.mark.parametrize("deed", FORBIDDEN_TO_CLIENTS.values(), ids=FORBIDDEN_TO_CLIENTS)
def test_a_client_cannot(deed: Deed, node: ControlledBroker) -> None:
    with acting_as(node, CLIENT) as channel, pytest.raises(exceptions.ChannelClosedByBroker, match=refused(CLIENT)):
        deed(channel)


@pytest.mark.parametrize("deed", FORBIDDEN_TO_WORKERS.values(), ids=FORBIDDEN_TO_WORKERS)
def test_a_worker_cannot(deed: Deed, node: ControlledBroker) -> None:
    with acting_as(node, WORKER) as channel, pytest.raises(exceptions.ChannelClosedByBroker, match=refused(WORKER)):
        deed(channel)


@pytest.mark.parametrize(
    "deed",
    [*FORBIDDEN_TO_CLIENTS.values(), *FORBIDDEN_TO_WORKERS.values()],
    ids=[*FORBIDDEN_TO_CLIENTS, *FORBIDDEN_TO_WORKERS],
)
def test_a_user_with_all_rights_can(deed: Deed, node: ControlledBroker) -> None:
    with acting_as(node, node.username) as channel:
        deed(channel)
        for leftover in ("new", "ee-reply.mine"):
            channel.queue_delete(leftover)
        channel.exchange_delete("new")


@pytest.mark.parametrize("read", READING.values(), ids=READING)
def test_a_client_cannot_read_the_replies_to_others(read: Callable[[Any, str], object], node: ControlledBroker) -> None:
    with acting_as(node, CLIENT) as owner:
        queue = new_reply_queue(owner)
        with acting_as(node, CLIENT) as other, pytest.raises(exceptions.ChannelClosedByBroker, match="RESOURCE_LOCKED"):
            read(other, queue)
        with acting_as(node, WORKER) as worker, pytest.raises(exceptions.ChannelClosedByBroker, match=refused(WORKER)):
            read(worker, queue)


@pytest.mark.parametrize("user", [CLIENT, WORKER])
def test_neither_reaches_another_virtual_host(user: str, node: ControlledBroker) -> None:
    with pytest.raises(exceptions.ProbableAccessDeniedError, match="530"), connection_of(node, user, "/"):
        pytest.fail("let in")


def test_the_guest_is_gone_and_neither_user_manages_anything(node: ControlledBroker) -> None:
    with pytest.raises(exceptions.ProbableAuthenticationError, match="403"), connection_of(node, GUEST, "/"):
        pytest.fail("let in")
    users = dict(line.split("\t") for line in node.control("list_users").splitlines())
    assert users == {node.username: "[administrator]", CLIENT: "[]", WORKER: "[]"}


def test_a_worker_can_empty_and_delete_its_own_queue(node: ControlledBroker) -> None:
    with acting_as(node, WORKER) as channel:
        assert channel.queue_purge(REQUESTS).method.message_count > 0
        channel.queue_delete(REQUESTS)


@pytest.mark.parametrize("user", [CLIENT, WORKER])
def test_either_user_can_publish_to_any_queue_whose_name_it_knows(user: str, node: ControlledBroker) -> None:
    with acting_as(node, CLIENT) as owner, acting_as(node, user) as channel:
        queue = new_reply_queue(owner)
        channel.basic_publish("", queue, b"forged", mandatory=True)
        assert owner.basic_get(queue, auto_ack=True)[2] == b"forged"
        channel.basic_publish("", ANOTHER, b"", mandatory=True)


@pytest.mark.parametrize(
    ("user", "name"), [(CLIENT, f"ee-reply.{make_id()}"), (WORKER, REQUESTS)], ids=["client", "worker"]
)
def test_either_user_can_declare_an_exchange_but_not_publish_to_it(
    user: str, name: str, node: ControlledBroker
) -> None:
    with acting_as(node, user) as channel:
        channel.exchange_declare(name)
        with pytest.raises(exceptions.ChannelClosedByBroker, match=refused(user)):
            channel.basic_publish(name, "", b"")


def test_clients_cannot_fill_the_broker_with_queues(node: ControlledBroker) -> None:
    limit = limits("set_vhost_limits")["max-queues"]
    with acting_as(node, CLIENT) as channel:
        with pytest.raises(exceptions.ChannelClosedByBroker, match=f"queue limit .*{limit}"):
            for _ in range(limit + 1):
                new_reply_queue(channel)
        with acting_as(node, WORKER) as worker:
            worker.queue_declare(REQUESTS, durable=True, arguments=BOUNDED)


def test_clients_cannot_fill_the_broker_with_channels(node: ControlledBroker) -> None:
    limit = limits("set_user_limits")["max-channels"]
    refusal = pytest.raises(exceptions.ConnectionClosedByBroker, match=f"user limit .*{limit}")
    with connection_of(node, CLIENT) as connection, refusal:
        for _ in range(limit + 1):
            connection.channel()


def test_clients_cannot_use_up_the_connections_of_workers(node: ControlledBroker) -> None:
    limit = limits("set_user_limits")["max-connections"]
    with contextlib.ExitStack() as held:
        with pytest.raises(exceptions.ProbableAccessDeniedError, match=f"user connection limit .*{limit}"):
            for _ in range(limit + 1):
                held.enter_context(connection_of(node, CLIENT))
        with acting_as(node, WORKER) as channel:
            assert channel.is_open


# What a client leaves behind, or sends to harm others. The README's times are shortened where a test waits for them.

SHORT = 3000
"""Milliseconds."""
MEGABYTE = 2**20
FORMS: dict[str, dict[str, object]] = {
    "classic": {},
    "with bounds of its own": {"x-max-length-bytes": 2**40, "x-expires": 2**31, "x-message-ttl": 2**31},
    "that rejects": {"x-overflow": "reject-publish"},
    "lazy": {"x-queue-mode": "lazy"},
    "quorum": {"x-queue-type": "quorum"},
    "stream": {"x-queue-type": "stream"},
}


def policies(command: str = "set_operator_policy") -> dict[str, dict[str, int]]:
    """Return the policies that the README sets with a command: name -> definition."""
    return {line[-3]: dict(json.loads(line[-1])) for line in readme_lines() if line[1] == command}


@contextmanager
def shorten_lifetimes(node: ControlledBroker) -> Iterator[None]:
    """Shorten the README's lifetimes of a minute to seconds."""
    lines = [line[1:] for line in readme_lines() if line[1] == "set_operator_policy"]
    for line in lines:
        node.control(*line[:-1], line[-1].replace("60000", str(SHORT)))
    yield
    for line in lines:
        node.control(*line)


@pytest.fixture
def shortened(node: ControlledBroker) -> Iterator[None]:
    with shorten_lifetimes(node):
        yield


def has(deed: Deed, node: ControlledBroker, user: str = CLIENT) -> bool:
    """Return whether RabbitMQ lets a user do something."""
    try:
        with acting_as(node, user) as channel:
            deed(channel)
    except (exceptions.ChannelClosedByBroker, exceptions.NackError, exceptions.UnroutableError):
        return False
    return True


def queues(node: ControlledBroker, column: str = "messages") -> dict[str, str]:
    """Return RabbitMQ's list of the queues in the virtual host."""
    lines = node.control("list_queues", "-p", "ee", "name", column).splitlines()
    return {name: value for name, _, value in (line.partition("\t") for line in lines)}


def test_the_policies_bound_replies_and_requests_to_a_minute() -> None:
    assert policies() == {
        "ee-replies": {"expires": 60000, "message-ttl": 60000, "max-length-bytes": 4 * MEGABYTE},
        "ee-requests": {"message-ttl": 60000},
    }


def test_queues_of_a_client_that_left_expire_and_others_can_connect(node: ControlledBroker) -> None:
    with (
        acting_as(node, CLIENT) as channel,
        pytest.raises(exceptions.ChannelClosedByBroker, match="queue limit"),
    ):
        for _ in range(limits("set_vhost_limits")["max-queues"] + 1):
            channel.queue_declare(f"ee-reply.{make_id()}", durable=True)
    with shorten_lifetimes(node):  # not before: on a busy machine the first queues would expire before the last come
        wait_until(lambda: has(new_reply_queue, node), PATIENT)
        wait_until(lambda: not [name for name in queues(node) if name.startswith("ee-reply.")], PATIENT)
    assert {REQUESTS, ANOTHER} <= set(queues(node)), "they are no reply queues"


@pytest.mark.parametrize("form", FORMS)
def test_a_reply_queue_cannot_fill_the_disk(form: str, node: ControlledBroker) -> None:
    name, most = f"ee-reply.{make_id()}", policies()["ee-replies"]["max-length-bytes"] // MEGABYTE
    with connection_of(node, CLIENT) as connection:
        channel = connection.channel()
        channel.queue_declare(name, durable=True, arguments=FORMS[form])
        if form == "stream":
            channel.confirm_delivery()  # one by one: a stream keeps its last messages together as they came
        for _ in range(10 * most):
            channel.basic_publish("", name, bytes(MEGABYTE))
        connection.channel()  # once that is answered, the others have arrived

        def count() -> int:  # by AMQP: on a busy machine rabbitmqctl may take longer than the queue lives unused
            messages: int = channel.queue_declare(name, passive=True).method.message_count
            return messages

        wait_until(lambda: count() <= 2 * most + 2)  # a stream drops whole segments
        channel.queue_delete(name)


@pytest.mark.usefixtures("shortened")
def test_replies_that_a_client_does_not_consume_expire(node: ControlledBroker) -> None:
    with acting_as(node, CLIENT) as channel:
        name = new_reply_queue(channel)
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(name, lambda *_delivery: None)  # it takes one and never acknowledges it
        for _ in range(5):
            channel.basic_publish("", name, b"reply", mandatory=True)
        wait_until(lambda: queues(node, "messages_unacknowledged").get(name) == "1")
        wait_until(lambda: queues(node, "messages_ready").get(name) == "0", PATIENT)


@pytest.mark.usefixtures("shortened")
def test_requests_without_an_expiration_expire(node: ControlledBroker) -> None:
    def ask(channel: Any) -> None:
        channel.basic_publish("", REQUESTS, b"request", mandatory=True)

    with acting_as(node, node.username) as channel:
        channel.queue_purge(REQUESTS)  # its first request came before the shortened life, and would hold up the others
    with connection_of(node, CLIENT) as connection:
        channel = connection.channel()
        for _ in range(QUEUE_LIMIT):
            channel.basic_publish("", REQUESTS, b"request")
        channel.basic_publish("", REQUESTS, b"request", pika.BasicProperties(expiration=str(2**31)))
        wait_until(lambda: not has(ask, node))
    wait_until(lambda: has(ask, node), PATIENT)


def test_requests_of_clients_that_left_are_not_computed(node: ControlledBroker) -> None:
    def link(user: str) -> Broker:
        return Broker((Host("127.0.0.1", node.port),), user, PASSWORDS[user], "ee")

    sleeper, counted, request, count = Sleeper(), WorkerCounts(), make_request(), 40
    with acting_as(node, node.username) as channel:
        channel.queue_purge(REQUESTS)
    with acting_as(node, CLIENT) as channel:
        shared = new_reply_queue(channel)
        for number in range(2 * count):
            dead = make_request()
            reply_to = shared if number % 2 else f"ee-reply.{make_id()}"
            properties = pika.BasicProperties(correlation_id=dead.request_id, reply_to=reply_to)
            channel.basic_publish("", REQUESTS, encode_request(dead), properties, mandatory=True)
    with make_client(link(CLIENT), REQUESTS) as client:
        answer = client.submit(request)
        with run_worker(make_worker(link(WORKER), REQUESTS, sleeper, metrics=counted.metrics)):
            assert is_answer_to(answer.result(), request)
            counted.wait_for("requests_total", 2 * count, code="abandoned")
    assert [[one.request_id for one in batch] for batch in sleeper.batches] == [[request.request_id]]
    assert counted("unroutable_replies_total") == counted("connection_losses_total") == 0


@pytest.mark.usefixtures("shortened")
def test_a_stream_stays_until_an_operator_deletes_it(node: ControlledBroker) -> None:
    stream, other = (f"ee-reply.{make_id()}" for _ in range(2))
    with acting_as(node, CLIENT) as channel:
        channel.queue_declare(stream, durable=True, arguments=FORMS["stream"])
        channel.queue_declare(other, durable=True)
    wait_until(lambda: other not in queues(node), PATIENT)
    assert queues(node, "type")[stream] == "stream"
    node.control("delete_queue", "-p", "ee", stream)
    assert stream not in queues(node)
