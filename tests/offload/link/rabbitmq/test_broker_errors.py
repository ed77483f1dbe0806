"""The error for each failure of the broker, or of another server in its place."""

import logging
import socket
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker

from offload.link.broker import Broker, Host
from offload.link.private_broker import find_free_port
from offload.link.protocol import make_id
from offload.link.rabbitmq import connection
from offload.link.rabbitmq.broker_errors import BROKER_FAILED, translate_error
from offload.link.rabbitmq.connection import Connection
from tests.controlled_broker import ControlledBroker
from tests.offload.link.rabbitmq.ends import (
    BOTH_ENDS,
    Log,
    client_end,
    first_loss,
    is_one_line,
    ready,
    run_to_its_end,
    worker_end,
)
from tests.offload.link_ends import at, listening, open_channel
from utils.errors import BrokerRefusedError, CloudError, CloudUnavailableError

SECRET = "hunter2-Pa$$wört"
SILENCE_NOTICED = 15.0

MakeEnd = Callable[[Broker, str, Log], Connection]
both_ends = pytest.mark.parametrize("make_end", BOTH_ENDS)


def at_port(port: int) -> Broker:
    return Broker((Host("127.0.0.1", port),))


def test_no_text_of_a_broker_shows_the_password() -> None:
    broker = Broker((Host("host"), Host("::1", 5673)), "user", SECRET)
    assert SECRET not in f"{broker} {broker!r} {broker!s}"
    assert "user" in repr(broker)
    assert str(broker) == "host:5672, [::1]:5673"


@both_ends
@pytest.mark.parametrize("user", ["ee", "nobody"])
def test_a_wrong_user_or_password_is_reported_in_one_line_without_the_password(
    link: Broker, user: str, make_end: MakeEnd
) -> None:
    log = Log()
    with pytest.raises(BrokerRefusedError) as caught:
        run_to_its_end(make_end(replace(link, username=user, password=SECRET), "q", log))
    assert caught.value.exit_code == 4
    assert f"refuses user '{user}' or the password; check --mq-username and --mq-password" in str(caught.value)
    assert is_one_line(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert not log.ready
    assert not log.lost, "a broker that refuses is not one that is away"


@both_ends
def test_a_missing_virtual_host_is_refused(link: Broker, make_end: MakeEnd) -> None:
    with pytest.raises(BrokerRefusedError, match="virtual host 'nowhere'; check --mq-vhost") as caught:
        run_to_its_end(make_end(replace(link, virtual_host="nowhere"), "q", Log()))
    assert caught.value.exit_code == 4
    assert is_one_line(caught.value)


def test_a_queue_that_no_user_may_declare_is_refused(link: Broker) -> None:
    with pytest.raises(BrokerRefusedError, match=r"refuses user 'ee': ACCESS_REFUSED - queue name 'amq\.requests'"):
        run_to_its_end(worker_end(link, "amq.requests", Log()))


@pytest.fixture
def without_rights(broker: ControlledBroker, link: Broker) -> Iterator[Broker]:
    """The node for a user without rights to its queues."""
    name = f"user{make_id()}"
    broker.control("add_user", name, SECRET)
    broker.control("set_permissions", name, "^$", "^$", "^$")
    yield replace(link, username=name, password=SECRET)
    broker.control("delete_user", name)


@pytest.mark.parametrize("kind", [ConnectionClosedByBroker, ChannelClosedByBroker])
@pytest.mark.parametrize("code", [320, 403, 406, 530])
def test_the_text_of_a_broker_is_shortened_to_one_line(kind: Callable[[int, str], Exception], code: int) -> None:
    error = translate_error(kind(code, "first line\nsecond\r\n" + 1000 * "and so on "), at_port(1), Host("mq"))
    assert is_one_line(error)
    assert "first line second and so on" in str(error)
    assert len(str(error)) < 400


def test_an_internal_error_of_the_broker_has_its_own_code(link: Broker) -> None:
    error = translate_error(ConnectionClosedByBroker(541, "INTERNAL_ERROR"), link, link.hosts[0])
    assert isinstance(error, CloudUnavailableError)
    assert (error.code, "failed (INTERNAL_ERROR); its log says why" in str(error)) == (BROKER_FAILED, True)


def test_a_user_without_the_right_to_a_queue_is_refused_in_one_line(without_rights: Broker, queue: str) -> None:
    for make_end, missing in ((client_end, "ee-reply"), (worker_end, queue)):
        with pytest.raises(BrokerRefusedError, match=f"ACCESS_REFUSED - access to queue '{missing}") as caught:
            run_to_its_end(make_end(without_rights, queue, Log()))
        assert caught.value.exit_code == 4
        assert is_one_line(caught.value)
        assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("of", ["user", "vhost"])
def test_a_connection_limit_is_a_temporary_error(of: str, broker: ControlledBroker, without_rights: Broker) -> None:
    limits = {"user": ("user_limits", without_rights.username), "vhost": ("vhost_limits",)}[of]
    broker.control(f"set_{limits[0]}", *limits[1:], '{"max-connections": 0}')
    try:
        log = Log()
        loss = first_loss(client_end(without_rights, "q", log), log)
    finally:
        broker.control(f"clear_{limits[0]}", *limits[1:], *(("all",) if of == "user" else ()))
    assert "accepts no more connections" in str(loss.problem)
    assert is_one_line(loss.problem)


@both_ends
def test_a_closed_port_is_reported_at_once(make_end: MakeEnd) -> None:
    port, log = find_free_port(), Log()
    loss = first_loss(make_end(at_port(port), "q", log), log)
    assert str(loss.problem) == (
        f"no RabbitMQ at 127.0.0.1:{port} (connection refused); start it, or check --mq-hostname and --mq-port"
    )
    assert loss.problem.exit_code == 3


@pytest.mark.parametrize("hostname", ["a..b", "x" * 300, "é" * 70, "", " ", "\x00", "no-such-host.invalid"])
def test_an_unknown_or_invalid_host_name_is_reported_in_one_line(hostname: str) -> None:
    log = Log()
    loss = first_loss(client_end(Broker((Host(hostname),)), "q", log), log)
    assert "unknown host name" in str(loss.problem) or "cannot be resolved" in str(loss.problem)
    assert "--mq-hostname" in str(loss.problem)
    assert is_one_line(loss.problem)


def test_an_unavailable_name_server_is_a_temporary_error() -> None:
    away = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    assert "its name cannot be resolved at present" in str(translate_error(away, at_port(1), Host("mq.example")))


def http(peer: socket.socket) -> None:
    peer.recv(100)
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


def http_and_close(peer: socket.socket) -> None:
    http(peer)
    peer.close()


def ssh(peer: socket.socket) -> None:
    peer.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")


def zeros(peer: socket.socket) -> None:
    peer.recv(100)
    peer.sendall(bytes(1000))


def noise(peer: socket.socket) -> None:
    peer.recv(100)
    peer.sendall(b"\x01\x00\x00\x00\x00\x00\x04\xff\xff\xff\xff\xce")


def another_version(peer: socket.socket) -> None:
    peer.recv(100)
    peer.sendall(b"AMQP\x00\x01\x00\x00")
    peer.close()


def silence(_peer: socket.socket) -> None:
    pass


def close(peer: socket.socket) -> None:
    peer.close()


@pytest.mark.parametrize("server", [http, http_and_close, ssh, zeros, noise, another_version, silence, close])
def test_another_server_on_the_port_is_reported_in_one_line(
    server: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 2 * connection.CONNECT_TIMEOUT < SILENCE_NOTICED
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 0.5)
    log = Log()
    with listening(server) as port:
        loss = first_loss(client_end(at_port(port), "q", log), log)
    assert "--mq-port" in str(loss.problem)
    assert f"127.0.0.1:{port}" in str(loss.problem)
    assert is_one_line(loss.problem)


def test_a_silent_server_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 0.5)
    log = Log()
    with listening(silence) as port:
        assert "(no answer in time)" in str(first_loss(client_end(at_port(port), "q", log), log).problem)


def test_a_broker_that_ends_the_handshake_does_not_count_as_a_refusal(link: Broker) -> None:
    def greet_and_close(peer: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", link.hosts[0].port)) as broker:
            broker.sendall(peer.recv(8))
            peer.sendall(broker.recv(4096))
        peer.recv(4096)
        peer.close()

    log = Log()
    with listening(greet_and_close) as port:
        loss = first_loss(client_end(at(link, port), "q", log), log)
    assert "ended the handshake" in str(loss.problem)


def test_a_queue_with_other_settings_is_reported_in_one_line(link: Broker, queue: str) -> None:
    with open_channel(link) as channel:
        channel.queue_declare(queue, durable=True)
    with pytest.raises(CloudError, match="exists with other settings; delete it, or choose another") as caught:
        run_to_its_end(worker_end(link, queue, Log()))
    assert repr(queue) in str(caught.value)
    assert "inequivalent arg 'x-" in str(caught.value)
    assert is_one_line(caught.value)
    assert caught.value.exit_code == 2
    assert not isinstance(caught.value, CloudUnavailableError)


def test_an_exclusive_queue_of_another_connection_is_reported_in_one_line(link: Broker, queue: str) -> None:
    with open_channel(link) as channel:
        channel.queue_declare(queue, exclusive=True)
        with pytest.raises(CloudError, match="exists with other settings") as caught:
            run_to_its_end(worker_end(link, queue, Log()))
    assert caught.value.exit_code == 2


def test_pika_logs_only_on_request(caplog: pytest.LogCaptureFixture) -> None:
    assert logging.getLogger("pika").level == logging.CRITICAL
    log = Log()
    with caplog.at_level(logging.DEBUG, "offload"):
        first_loss(client_end(at_port(find_free_port()), "q", log), log)
    assert [record for record in caplog.records if record.name.startswith("offload")]
    assert not [record for record in caplog.records if record.name.startswith("pika")]


def test_the_password_is_never_logged(link: Broker, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    with caplog.at_level(logging.DEBUG), ready(client_end(link, queue, log), log):
        pass
    assert link.password not in caplog.text
