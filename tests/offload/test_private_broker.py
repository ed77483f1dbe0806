import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest

from offload import private_broker
from offload.broker import Broker
from offload.private_broker import PrivateBroker, find_server, free_port
from offload.protocol import new_id
from offload.rabbitmq import RequestChannel
from offload.worker import Worker
from tests.offload.link import connected, serving, wait_until
from utils.errors import CloudUnavailableError

LOOPBACK = "0100007F"
RESUMED = 5.0


def address(node: PrivateBroker) -> Broker:
    return Broker("127.0.0.1", node.port, node.username, node.password)


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
def node(broker: PrivateBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateBroker]:
    """A node besides the session's, to be killed and closed."""
    del broker  # which is asked for so that this, too, is skipped where RabbitMQ is missing
    home = tmp_path_factory.mktemp("nodes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(home))
        running = PrivateBroker()
    with running:
        yield running


def folder_of(node: PrivateBroker) -> Path:
    return node._folder


def test_two_nodes_run_side_by_side(broker: PrivateBroker, node: PrivateBroker) -> None:
    assert broker.port != node.port
    assert broker.password != node.password
    for each in (broker, node):
        with connected(address(each)) as channel:
            assert channel.is_open


def test_a_node_listens_on_loopback_alone(node: PrivateBroker) -> None:
    ports = {f"{port:04X}": port for port in (node.port, node._dist_port, node._epmd_port)}
    listening = re.findall(r": (\w{8}):(\w{4}) \S+ 0A ", Path("/proc/net/tcp").read_text())
    ours = {(ports[port], where) for where, port in listening if port in ports}
    assert ours == {(port, LOOPBACK) for port in ports.values()}


def test_no_one_else_reads_the_password_of_a_node(node: PrivateBroker) -> None:
    assert stat.S_IMODE(folder_of(node).stat().st_mode) == 0o700
    shown = [path for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists() and node.password in _text(path)]
    assert shown == []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def test_a_node_knows_its_own_user_alone(node: PrivateBroker) -> None:
    with pytest.raises(pika.exceptions.ProbableAuthenticationError), connected(Broker("127.0.0.1", node.port)):
        pytest.fail("the guest was let in")


def test_a_worker_outlives_the_broker_that_it_works_for(node: PrivateBroker) -> None:
    link, queue = address(node), f"requests.{new_id()}"
    worker = Worker(link, queue, lambda body, _id: body.upper())
    with connected(link) as channel:
        channel.queue_declare("durable", durable=True)
        channel.basic_publish("", "durable", b"kept", pika.BasicProperties(delivery_mode=2))
    with serving(worker) as ready:
        with RequestChannel(link, queue) as channel:
            assert channel.ask(b"before", new_id(), 10) == b"BEFORE"
        node.kill()
        with pytest.raises(CloudUnavailableError):
            RequestChannel(link, queue)
        node.start()
        opened = time.monotonic()
        wait_until(lambda: len(ready) == 2)
        assert ready[1] - opened < RESUMED
        with RequestChannel(link, queue) as channel:
            assert channel.ask(b"after", new_id(), 10) == b"AFTER"
    assert worker.answered == 2
    with connected(link) as channel:
        _, _, body = channel.basic_get("durable", auto_ack=True)
    assert body == b"kept"


def test_a_closed_node_leaves_no_process_no_port_and_no_file(node: PrivateBroker) -> None:
    folder = folder_of(node)
    assert any("beam" in command for command in processes(str(folder)))
    node.close()
    wait_until(lambda: not processes(str(folder)), 5)
    assert not folder.exists()
    for port in (node.port, node._dist_port, node._epmd_port):
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))
    node.close()  # and a second time does no harm


def test_a_free_port_can_be_taken() -> None:
    with socket.create_server(("127.0.0.1", free_port())):
        pass


def test_without_rabbitmq_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_broker, "find_server", lambda: None)
    before = folders()
    with pytest.raises(CloudUnavailableError, match="apt install rabbitmq-server"):
        PrivateBroker()
    assert folders() == before


@pytest.mark.parametrize(
    ("script", "said"),
    [("echo the cookie file is damaged; exit 1", "did not start: the cookie file is damaged"), ("sleep 60", "start")],
)
def test_a_node_that_does_not_start_is_an_error_that_quotes_it_and_leaves_nothing(
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
        PrivateBroker()
    assert [path.name for path in tmp_path.iterdir()] == ["rabbitmq-server"]
    wait_until(lambda: not processes(str(tmp_path)), 5)
