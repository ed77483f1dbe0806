import contextlib
import os
import re
import shutil
import socket
import ssl
import stat
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest

from offload.link import private_broker
from offload.link.broker import Broker
from offload.link.private_broker import find_free_port, find_server
from offload.link.protocol import make_id
from tests import controlled_broker
from tests.controlled_broker import ControlledBroker
from tests.offload.certificates import SERVER_NAMES, WRONG_NAME, Certificates, Identity, make_certificates
from tests.offload.link_ends import (
    PATIENCE,
    is_answer_to,
    listening,
    make_client,
    make_request,
    make_worker,
    open_channel,
    run_worker,
    wait_until,
)
from utils.errors import CloudError, CloudUnavailableError

LOOPBACK = "0100007F"
UNKNOWN_AUTHORITY = r"self-signed|local issuer"
GREETING = b"AMQP\x00\x00\x09\x01"
REFUSALS = (OSError, pika.exceptions.AMQPConnectionError)
"""What pika raises where the broker breaks off the handshake: with TLS 1.3 it does so only after it."""


def address(node: ControlledBroker) -> Broker:
    return node.connection


def folders() -> set[Path]:
    return set(Path(os.environ.get("TMPDIR", "/tmp")).glob("private-broker-*"))


def processes(text: str) -> list[str]:
    """Return the command lines of the living processes whose command line or environment holds a text."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = ((process / name).read_bytes().decode() for name in ("cmdline", "environ"))
        except (OSError, UnicodeDecodeError):
            continue
        if text in command + environment and process.name != str(os.getpid()):
            found.append(command.replace("\0", " ")[:80])
    return found


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def node(
    broker: ControlledBroker, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlledBroker]:
    """A node besides the session's, with TLS and a setting of its own, to be killed and closed."""
    del broker  # requested so that this is skipped, too, where RabbitMQ is missing
    home = tmp_path_factory.mktemp("nodes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(home))
        running = ControlledBroker(tls=certificates.node(), settings="channel_max = 777")
    with running:
        yield running


def folder_of(node: ControlledBroker) -> Path:
    return node._folder


def ports_of(node: ControlledBroker) -> list[int]:
    return [node.port, node.tls_port, node._dist_port, node._epmd_port]


def tls_context(ca: Path, shown: Identity | None) -> ssl.SSLContext:
    """Return the TLS context of a client."""
    context = ssl.create_default_context(cafile=ca)
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    return context


def connect_with_tls(node: ControlledBroker, ca: Path, shown: Identity | None, name: str = "localhost") -> None:
    """Connect to a node whose certificate must be valid for a name, and close."""
    options = pika.SSLOptions(tls_context(ca, shown), name)
    credentials = pika.PlainCredentials(node.username, node.password)
    parameters = pika.ConnectionParameters("127.0.0.1", node.tls_port, "/", credentials, ssl_options=options)
    pika.BlockingConnection(parameters).close()


def meet(server: Identity, ca: Path, name: str) -> None:
    """Shake hands with a server that shows a certificate and is called by a name."""
    shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    shown.load_cert_chain(server.certificate, server.key)
    with (
        listening(lambda connection: shown.wrap_socket(connection, server_side=True).close()) as port,
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection,
    ):
        tls_context(ca, None).wrap_socket(connection, server_hostname=name).close()


def test_two_nodes_can_run_at_the_same_time(broker: ControlledBroker, node: ControlledBroker) -> None:
    assert broker.port != node.port
    assert broker.password != node.password
    for each in (broker, node):
        with open_channel(address(each)) as channel:
            assert channel.is_open


def test_a_node_listens_only_on_loopback(node: ControlledBroker) -> None:
    ports = {f"{port:04X}": port for port in ports_of(node)}
    listening = re.findall(r": (\w{8}):(\w{4}) \S+ 0A ", Path("/proc/net/tcp").read_text())
    ours = {(ports[port], where) for where, port in listening if port in ports}
    assert ours == {(port, LOOPBACK) for port in ports.values()}


def test_other_users_cannot_read_the_password_of_a_node(node: ControlledBroker) -> None:
    assert stat.S_IMODE(folder_of(node).stat().st_mode) == 0o700
    shown = [path for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists() and node.password in _text(path)]
    assert shown == []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def test_a_node_has_one_user(node: ControlledBroker) -> None:
    with pytest.raises(pika.exceptions.ProbableAuthenticationError), open_channel(Broker(address(node).hosts)):
        pytest.fail("the guest was let in")


@pytest.mark.parametrize("name", SERVER_NAMES)
def test_a_node_accepts_a_client_with_the_right_certificate(
    name: str, node: ControlledBroker, certificates: Certificates
) -> None:
    connect_with_tls(node, certificates.ca, certificates.client, name)


def test_a_client_refuses_a_node_of_an_unknown_authority(node: ControlledBroker, certificates: Certificates) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=UNKNOWN_AUTHORITY):
        connect_with_tls(node, certificates.other_ca, certificates.client)


def test_a_client_refuses_a_node_with_another_name(node: ControlledBroker, certificates: Certificates) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect_with_tls(node, certificates.ca, certificates.client, WRONG_NAME)


def test_a_node_refuses_a_client_without_a_certificate(node: ControlledBroker, certificates: Certificates) -> None:
    with pytest.raises(REFUSALS):
        connect_with_tls(node, certificates.ca, None)


def test_a_node_refuses_a_client_of_an_unknown_authority(node: ControlledBroker, certificates: Certificates) -> None:
    with pytest.raises(REFUSALS):
        connect_with_tls(node, certificates.ca, certificates.other_client)


def test_a_node_with_optional_client_certificates_refuses_a_wrong_one(
    broker: ControlledBroker, certificates: Certificates
) -> None:
    del broker
    with ControlledBroker(tls=certificates.node(client_certificate_required=False)) as lenient:
        connect_with_tls(lenient, certificates.ca, None)
        with pytest.raises(REFUSALS):
            connect_with_tls(lenient, certificates.ca, certificates.other_client)


@pytest.mark.parametrize(("server", "name"), [*(("server", name) for name in SERVER_NAMES), ("misnamed", WRONG_NAME)])
def test_a_test_certificate_is_valid_for_its_names(server: str, name: str, certificates: Certificates) -> None:
    meet(getattr(certificates, server), certificates.ca, name)


@pytest.mark.parametrize(
    ("server", "problem"), [("misnamed", "Hostname mismatch"), ("other_server", UNKNOWN_AUTHORITY)]
)
def test_a_wrong_test_certificate_has_one_error(server: str, problem: str, certificates: Certificates) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=problem):
        meet(getattr(certificates, server), certificates.ca, "localhost")


def test_a_node_accepts_further_settings(node: ControlledBroker) -> None:
    assert node.control("eval", "application:get_env(rabbit, channel_max).") == "{ok,777}\n"


def test_rabbitmqctl_controls_a_node(node: ControlledBroker) -> None:
    assert node.control("list_users") == f"{node.username}\t[administrator]\n"
    node.control("add_vhost", "edge & cloud")
    assert set(node.control("list_vhosts").splitlines()) == {"/", "edge & cloud"}
    node.control("delete_vhost", "edge & cloud")


def test_the_control_ports_listen_only_on_loopback(node: ControlledBroker) -> None:
    assert "127, 0, 0, 1" in node.control("exec", ":application.get_env(:kernel, :inet_dist_use_interface)")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add_user", "twice", "secret"], 'rabbitmqctl add_user: User "twice" already exists'),
        (["add_user", "twice", "secret", "word"], "rabbitmqctl add_user: too many arguments"),
        (["add_user", "twice", "--secret"], "rabbitmqctl add_user: Invalid options for this command"),
        (["ad_user", "twice", "secret"], "rabbitmqctl ad_user: Command 'ad_user' not found"),
    ],
)
def test_a_refused_command_quotes_the_tool_without_the_password(
    arguments: list[str], said: str, node: ControlledBroker
) -> None:
    with contextlib.suppress(CloudError):
        node.control("add_user", "twice", "secret")
    with pytest.raises(CloudError) as failure:
        node.control(*arguments)
    assert str(failure.value).startswith(said)
    assert "\n" not in str(failure.value)
    assert "secret" not in "".join(traceback.format_exception(failure.value))


def test_a_command_that_takes_too_long_is_an_error_without_the_password(
    node: ControlledBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controlled_broker, "_CONTROL_TIMEOUT", 0.05)
    with pytest.raises(CloudUnavailableError, match="rabbitmqctl add_user: no answer within") as failure:
        node.control("add_user", "slow", "the " + "password")
    assert "the password" not in "".join(traceback.format_exception(failure.value))


def test_a_paused_node_is_silent_and_can_be_resumed(node: ControlledBroker) -> None:
    with open_channel(address(node)) as channel:
        node.pause()
        with socket.create_connection(("127.0.0.1", node.port), timeout=0.5) as another:
            another.sendall(GREETING)
            with pytest.raises(TimeoutError):
                another.recv(1)
            node.resume()
            another.settimeout(PATIENCE)
            assert another.recv(1)
        channel.queue_declare("", exclusive=True)


def test_a_worker_survives_a_restart_of_its_broker(node: ControlledBroker) -> None:
    link, queue = address(node), f"requests.{make_id()}"
    worker, before, after = make_worker(link, queue), make_request(), make_request()
    with open_channel(link) as channel:
        channel.queue_declare("durable", durable=True)
        channel.basic_publish("", "durable", b"kept", pika.BasicProperties(delivery_mode=2))
    with run_worker(worker) as ready:
        with make_client(link, queue) as client:
            assert is_answer_to(client.submit(before).result(), before)
        node.kill()
        with pytest.raises(pika.exceptions.AMQPConnectionError), open_channel(link):
            pytest.fail("it still runs")
        node.start()
        wait_until(lambda: len(ready) == 2)
        with make_client(link, queue) as client:
            assert is_answer_to(client.submit(after).result(), after)
    assert worker.answered == 2
    with open_channel(link) as channel:
        _, _, body = channel.basic_get("durable", auto_ack=True)
    assert body == b"kept"


def test_a_closed_node_leaves_no_process_port_or_file(node: ControlledBroker) -> None:
    folder = folder_of(node)
    assert any("beam" in command for command in processes(str(folder)))
    node.pause()
    node.close()
    with pytest.raises(CloudUnavailableError, match="does not run"):
        node.control("list_users")
    wait_until(lambda: not processes(str(folder)))
    assert not folder.exists()
    for port in ports_of(node):
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))
    node.close()  # and a second time does no harm


def test_a_free_port_can_be_bound() -> None:
    with socket.create_server(("127.0.0.1", find_free_port())):
        pass


def test_without_rabbitmq_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_broker, "find_server", lambda: None)
    before = folders()
    with pytest.raises(CloudUnavailableError, match="apt install rabbitmq-server"):
        ControlledBroker()
    assert folders() == before


@pytest.mark.parametrize(
    ("script", "said"),
    [("echo the cookie file is damaged; exit 1", "did not start: the cookie file is damaged"), ("sleep 60", "start")],
)
def test_a_node_that_does_not_start_is_quoted_and_leaves_nothing(
    script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_server() is None or shutil.which("epmd") is None:
        pytest.skip("RabbitMQ is not installed")
    server = tmp_path / "rabbitmq-server"
    server.write_text(f"#!/bin/sh\n{script}\n")
    server.chmod(0o755)
    monkeypatch.setattr(private_broker, "find_server", lambda: server)
    monkeypatch.setattr(private_broker, "_START_TIMEOUT", 1.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(CloudUnavailableError, match=said):
        ControlledBroker()
    assert [path.name for path in tmp_path.iterdir()] == ["rabbitmq-server"]
    wait_until(lambda: not processes(str(tmp_path)))
