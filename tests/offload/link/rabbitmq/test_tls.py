"""Which certificates either end of a TLS connection trusts, and the errors for others."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from offload.link.broker import Broker, Host, Tls
from offload.link.protocol import LARGEST_REPLY
from offload.link.rabbitmq import connection
from tests.controlled_broker import ControlledBroker
from tests.offload.certificates import WRONG_NAME, Certificates, Identity, make_certificates
from tests.offload.link.rabbitmq.ends import (
    BOTH_ENDS,
    Log,
    client_end,
    first_loss,
    in_owner,
    is_one_line,
    ready,
    run_to_its_end,
    worker_end,
)
from tests.offload.link_ends import at, listening, wait_until
from utils.errors import BrokerRefusedError, InputFileError

LARGE = 14 * 2**20
TIMES = 10
QUEUE = "requests"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module", params=["tlsv1.3", "tlsv1.2"])
def node(request: pytest.FixtureRequest, broker: ControlledBroker, files: Certificates) -> Iterator[ControlledBroker]:
    """A node that requires client certificates."""
    assert broker.port, "where the session has a node, there can be another"
    with ControlledBroker(tls=files.node(), settings=f"ssl_options.versions.1 = {request.param}") as another:
        yield another


@pytest.fixture
def right(node: ControlledBroker, files: Certificates) -> Broker:
    """Connection settings with the right certificates."""
    tls = Tls(files.ca, files.client.certificate, files.client.key)
    return Broker((Host("localhost", node.tls_port),), node.username, node.password, tls=tls)


def with_tls(broker: Broker, **changes: Path | None) -> Broker:
    assert broker.tls is not None
    return replace(broker, tls=replace(broker.tls, **changes))


def refusal(broker: Broker) -> str:
    """Return the error with which either side refuses the other."""
    log = Log()
    with pytest.raises(BrokerRefusedError) as caught:
        run_to_its_end(client_end(broker, QUEUE, log))
    assert caught.value.exit_code == 4
    assert is_one_line(caught.value)
    assert not log.ready
    assert not log.lost
    return str(caught.value)


def absence(broker: Broker) -> str:
    """Return the error for an unavailable broker."""
    log = Log()
    loss = first_loss(client_end(broker, QUEUE, log), log)
    assert loss.problem.exit_code == 3
    assert is_one_line(loss.problem)
    return str(loss.problem)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("make_end", BOTH_ENDS)
def test_a_client_with_the_right_certificate_connects(
    make_end: Callable[[Broker, str, Log], Any], name: str, right: Broker, node: ControlledBroker
) -> None:
    log = Log()
    with ready(make_end(replace(right, hosts=(Host(name, node.tls_port),)), QUEUE, log), log):
        assert log.ready
    assert not log.lost


def test_a_certificate_and_its_key_may_share_a_file(right: Broker, files: Certificates, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(files.client.certificate.read_bytes() + files.client.key.read_bytes())
    log = Log()
    with ready(client_end(with_tls(right, certificate_file=both, key_file=None), QUEUE, log), log):
        assert log.ready


def test_the_largest_messages_are_transferred_over_tls(right: Broker) -> None:
    ours, theirs = Log(), Log()
    client, worker = client_end(right, QUEUE, ours), worker_end(right, QUEUE, theirs)
    sizes = {0: LARGE, 200: LARGEST_REPLY}
    request, reply = (bytes([start, 1, 2, 3, 5, 7, 11]) * (size // 7) for start, size in sizes.items())
    with ready(worker, theirs), ready(client, ours):
        in_owner(client, lambda: client.publish("0" * 32, request, 30.0))
        wait_until(lambda: theirs.requests)
        assert theirs.requests[0].body == request
        in_owner(worker, lambda: worker.reply(theirs.requests[0], reply))
        wait_until(lambda: ours.replies)
    assert ours.replies == [("0" * 32, reply)]


def test_a_broker_of_another_authority_is_not_trusted(right: Broker, files: Certificates) -> None:
    for authority in (files.other_ca, None):
        reason = refusal(with_tls(right, ca_file=authority))
        assert "the certificate of RabbitMQ at localhost" in reason
        assert "is not trusted" in reason
        assert "check --mq-ca-file" in reason


def test_the_error_without_a_certificate_asks_for_one(right: Broker) -> None:
    for _ in range(TIMES):  # how soon the broker hangs up is a matter of chance
        reason = refusal(with_tls(right, certificate_file=None, key_file=None))
        assert "requires a client certificate" in reason
        assert "give --mq-certificate-file" in reason


def test_a_client_with_a_certificate_of_another_authority_is_refused(right: Broker, files: Certificates) -> None:
    foreign = with_tls(right, certificate_file=files.other_client.certificate, key_file=files.other_client.key)
    for _ in range(TIMES):
        reason = refusal(foreign)
        assert "refuses the client certificate" in reason
        assert "check --mq-certificate-file and --mq-key-file" in reason


def test_a_wrong_password_is_refused_over_tls_too(right: Broker) -> None:
    reason = refusal(replace(right, password="hunter2"))
    assert "refuses user 'ee' or the password" in reason
    assert "hunter2" not in reason


def test_tls_to_a_plain_port_is_reported(right: Broker, node: ControlledBroker) -> None:
    reason = absence(at(right, node.port))
    assert f"127.0.0.1:{node.port} does not speak TLS" in reason
    assert "check --mq-port, or leave out --mq-tls" in reason


def test_a_plain_connection_to_a_tls_port_is_reported(right: Broker, node: ControlledBroker) -> None:
    reason = absence(replace(at(right, node.tls_port), tls=None))
    assert f"127.0.0.1:{node.tls_port} is not RabbitMQ without TLS" in reason
    assert "add --mq-tls" in reason


@contextmanager
def tls_server(identity: Identity, then: Callable[[ssl.SSLSocket], object] = lambda _peer: None) -> Iterator[int]:
    """Yield the port of a server that is not RabbitMQ."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)

    def handle(plain: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(plain, server_side=True) as peer:
            then(peer)

    with listening(handle) as port:
        yield port


def trusting(files: Certificates, port: int) -> Broker:
    return Broker((Host("127.0.0.1", port),), tls=Tls(files.ca))


def test_a_broker_with_the_certificate_of_another_host_is_not_trusted(files: Certificates) -> None:
    with tls_server(files.misnamed) as port:
        reason = refusal(trusting(files, port))
        named = refusal(replace(trusting(files, port), hosts=(Host("localhost", port),)))
    assert "is not trusted (IP address mismatch" in reason
    assert "the name in --mq-hostname" in reason
    assert "Hostname mismatch" in named
    assert WRONG_NAME not in named


def test_a_server_that_closes_after_the_handshake_is_reported(files: Certificates) -> None:
    with tls_server(files.server) as port:
        reason = absence(trusting(files, port))
    assert "does not answer as RabbitMQ after the TLS handshake" in reason
    assert "check --mq-port" in reason


def test_another_protocol_after_the_handshake_is_reported(files: Certificates) -> None:
    def http(peer: ssl.SSLSocket) -> None:
        peer.recv(100)
        peer.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with tls_server(files.server, http) as port:
        assert "does not answer as RabbitMQ" in absence(trusting(files, port))


def test_a_missing_handshake_is_reported(files: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 0.5)
    with listening(lambda _peer: None) as port:
        assert "(no answer in time)" in absence(trusting(files, port))


GARBLED = b"-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("content", [b"no PEM", b"\x00\xff" * 100, GARBLED, GARBLED[:40]])
@pytest.mark.parametrize("name", ["ca_file", "certificate_file", "key_file"])
def test_a_file_that_holds_no_pem_is_named_in_one_line(
    name: str, content: bytes, files: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "bad.pem").write_bytes(content)
    right = Tls(files.ca, files.client.certificate, files.client.key)
    with pytest.raises(InputFileError, match=r"bad\.pem") as caught:
        client_end(Broker((Host("h"),), tls=replace(right, **{name: tmp_path / "bad.pem"})), QUEUE, Log())
    assert "in PEM form" in str(caught.value)
    assert is_one_line(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["ca_file", "certificate_file", "key_file"])
def test_a_file_that_is_missing_empty_or_a_folder_is_named_in_one_line(
    name: str, files: Certificates, tmp_path: Path
) -> None:
    right = Tls(files.ca, files.client.certificate, files.client.key)
    (tmp_path / "empty.pem").touch()
    for path in (tmp_path / "missing.pem", tmp_path / "empty.pem", tmp_path):
        with pytest.raises(InputFileError) as caught:
            client_end(Broker((Host("h"),), tls=replace(right, **{name: path})), QUEUE, Log())
        assert str(caught.value).startswith(f"{path}: ")
        assert is_one_line(caught.value)


def test_an_encrypted_key_is_refused_without_a_prompt(files: Certificates, tmp_path: Path) -> None:
    key = serialization.load_pem_private_key(files.client.key.read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"hunter2"),
        )
    )
    with pytest.raises(InputFileError, match="unencrypted private key") as caught:
        Tls(files.ca, files.client.certificate, encrypted).make_context()
    assert str(encrypted) in str(caught.value)


def test_the_key_of_another_certificate_is_refused(files: Certificates) -> None:
    with pytest.raises(InputFileError, match="not a certificate and its unencrypted private key") as caught:
        Tls(files.ca, files.client.certificate, files.other_client.key).make_context()
    assert str(files.other_client.key) in str(caught.value)


def test_old_versions_of_tls_are_refused(files: Certificates) -> None:
    context = Tls(files.ca).make_context()
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
