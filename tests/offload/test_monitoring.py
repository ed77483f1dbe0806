"""The monitoring server over real sockets: what it serves, and to whom it does not fall prey."""

import contextlib
import gzip
import http.client
import logging
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.openmetrics import parser

from offload import monitoring
from offload.metrics import ClientMetrics
from offload.monitoring import LARGEST_HEAD, MOST_CONNECTIONS, MonitoringServer
from utils.errors import InputFileError

HERE = "127.0.0.1"
TIMEOUT = 0.5
SOON = 60.0
"""Seconds within which someone who does nothing wrong is served, whatever others do."""


@dataclass
class Process:
    """A process whose health a test decides."""

    metrics: ClientMetrics = field(default_factory=ClientMetrics)
    illness: str | None = None
    idleness: str | None = None

    def alive(self) -> str | None:
        return self.illness

    def ready(self) -> str | None:
        return self.idleness


@pytest.fixture(autouse=True)
def _quick_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the servers of these many tests look more often whether they are to end."""
    monkeypatch.setattr(monitoring, "_POLL", 0.01)


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def port(process: Process) -> Iterator[int]:
    """Serve the process for the length of a test."""
    with MonitoringServer(HERE, 0, process.metrics.registry, process, TIMEOUT) as server:
        yield server.port
    wait_until(lambda: not answering_threads())


@dataclass(frozen=True)
class Page:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def ask(port: int, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Page:
    connection = http.client.HTTPConnection(HERE, port, timeout=SOON)
    with contextlib.closing(connection):
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return Page(answer.status, answer.headers, answer.read())


def connect(port: int) -> socket.socket:
    return socket.create_connection((HERE, port), timeout=SOON)


def say(port: int, words: bytes) -> bytes:
    """Return all that comes back for some bytes."""
    with connect(port) as connection:
        connection.sendall(words)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def answering_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "process_request_thread" in thread.name]


def wait_until(condition: object, seconds: float = SOON) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain"
        time.sleep(0.01)


def assert_served_soon(port: int) -> None:
    start = time.monotonic()
    assert ask(port, "/metrics").status == 200
    assert time.monotonic() - start < SOON


def test_metrics_are_what_the_process_counted(port: int, process: Process) -> None:
    process.metrics.attempts.inc(7)
    page = ask(port, "/metrics")
    assert page.status == 200
    assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"\nee_client_attempts_total 7.0\n" in page.body
    assert b"\nprocess_cpu_seconds_total " in page.body


def test_metrics_come_as_openmetrics_to_those_who_prefer_it(port: int) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
    page = ask(port, "/metrics", Accept=accept)
    assert page.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert page.body.endswith(b"# EOF\n")
    names = {family.name for family in parser.text_string_to_metric_families(page.body.decode())}  # type: ignore[no-untyped-call]
    assert "ee_client_attempts" in names


def test_metrics_come_compressed_to_those_who_take_it(port: int) -> None:
    page = ask(port, "/metrics", Accept_Encoding="deflate, gzip;q=0.5")
    assert page.headers["Content-Encoding"] == "gzip"
    assert b"ee_client_attempts_total 0.0" in gzip.decompress(page.body)
    assert "Content-Encoding" not in ask(port, "/metrics", Accept_Encoding="identity").headers


def test_some_metrics_can_be_asked_for_by_name(port: int) -> None:
    page = ask(port, "/metrics?name[]=ee_client_attempts_total")
    assert [line for line in page.body.splitlines() if not line.startswith(b"#")] == [b"ee_client_attempts_total 0.0"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/healthz?verbose=1"])
def test_a_healthy_process_is_ok(path: str, port: int) -> None:
    page = ask(port, path)
    assert (page.status, page.body) == (200, b"ok\n")
    assert page.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert page.headers["Cache-Control"] == "no-store"


def test_what_is_wrong_is_told_in_one_line(port: int, process: Process) -> None:
    process.idleness = "no RabbitMQ at\r\nbroker:5672\n"
    assert ask(port, "/healthz").status == 200
    assert (ask(port, "/readyz").status, ask(port, "/readyz").body) == (503, b"no RabbitMQ at broker:5672\n")
    process.illness, process.idleness = "the computing thread ended", None
    assert (ask(port, "/healthz").status, ask(port, "/healthz").body) == (503, b"the computing thread ended\n")
    assert ask(port, "/readyz").status == 200


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/nowhere"])
def test_a_head_request_gets_the_same_head_and_no_body(path: str, port: int, process: Process) -> None:
    process.idleness = "not yet"
    whole, head = ask(port, path), ask(port, path, "HEAD")
    assert say(port, b"HEAD " + path.encode() + b" HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")
    assert head.status == whole.status
    assert [name for name, _ in head.headers.items()] == [name for name, _ in whole.headers.items()]
    assert head.headers["Content-Type"] == whole.headers["Content-Type"]
    assert int(whole.headers["Content-Length"]) == len(whole.body)


@pytest.mark.parametrize(
    "path", ["/", "/metrics/", "/metric", "/healthz/x", "/../etc/passwd", "/%6Detrics", "/favicon.ico", "*"]
)
def test_there_is_nothing_else(path: str, port: int) -> None:
    assert ask(port, path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "X" * 1000])
def test_other_methods_are_refused(method: str, port: int) -> None:
    page = ask(port, "/metrics", method)
    assert (page.status, page.headers["Allow"]) == (405, "GET, HEAD")


def test_a_refusal_reaches_a_client_that_goes_on_sending(port: int) -> None:
    assert ask(port, "/metrics", "POST", body=b"x" * 500_000).status == 405
    with connect(port) as connection:
        connection.sendall(b"POST /metrics HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")
        for _ in range(5):
            time.sleep(0.02)
            connection.sendall(b"x" * 1000)
        assert read_all(connection).startswith(b"HTTP/1.1 405 ")


def test_a_request_may_come_in_pieces(port: int) -> None:
    for end in (b"\r\n\r\n", b"\n\n"):
        for place in range(1, len(end)):
            with connect(port) as connection:
                connection.sendall(b"GET /healthz HTTP/1.1" + end[:place])
                time.sleep(0.02)
                connection.sendall(end[place:])
                assert read_all(connection).endswith(b"\r\n\r\nok\n")


def test_each_connection_serves_one_request(port: int) -> None:
    answers = say(port, 2 * b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
    assert answers.count(b"HTTP/1.1 200 OK") == 1
    assert b"\r\nConnection: close\r\n" in answers


def test_the_answer_tells_nothing_of_the_software(port: int) -> None:
    page = ask(port, "/healthz")
    assert "Server" not in page.headers
    assert b"ython" not in say(port, b"GET <script> HTTP/9.9.9\r\n\r\n")


LONG = b"x" * (2 * LARGEST_HEAD)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (b"GET /" + LONG + b" HTTP/1.1\r\n\r\n", 414),
        (LONG, 414),
        (b"GET /metrics HTTP/1.1\r\nX: " + LONG + b"\r\n\r\n", 431),
        (b"GET /metrics HTTP/1.1\r\n" + 200 * b"X: y\r\n" + b"\r\n", 431),
        (b"GET /metrics HTTP/1.1\r\n" + LARGEST_HEAD * b"X: y\r\n" + b"\r\n", 431),
        (b"<script>evil</script>\r\n\r\n", 400),
        (b"GET /evil evil HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics evil\r\n\r\n", 400),
        (b"GET /metrics HTTP/x.y\r\n\r\n", 400),
        (b"POST /evil\r\n\r\n", 400),
        (b"GET /evil HTTP/2.0\r\n\r\n", 505),
        (b"\x80\x00\xff /evil\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.0\n\n", 200),
        (b"GET /healthz\r\n\r\n", 200),
        (b"GET //[ HTTP/1.1\r\n\r\n", 404),
        (b"GET /healthz HTTP/1.1\r\nno colon\r\n: none\r\n\xff\x00: z\r\n\r\n", 200),
    ],
)
def test_an_unreadable_request_is_answered_and_not_quoted(words: bytes, status: int, port: int) -> None:
    answer = say(port, words)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"evil" not in answer


@pytest.mark.parametrize("words", [b"", b"\r\n\r\n", b"\n\n", b"GET /metrics HTTP/1.1\r\nHost:"])
def test_a_client_that_asks_nothing_gets_nothing(words: bytes, port: int) -> None:
    with connect(port) as connection:
        connection.sendall(words)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b""


@pytest.mark.parametrize(
    "accept",
    [
        b"application/openmetrics-text; version=abc",
        b"application/openmetrics-text; version=1.x",
        b"text/plain; version=1.0.0.0.0; escaping=none",
        b"application/openmetrics-text; version=2.0\r\n X-Evil: 1",
        b"application/openmetrics-text; version=2.0\x0bX-Evil: 1",
        b"application/openmetrics-text; version=\xff\x85",
        b";;;,,,==;=,q=",
    ],
)
def test_no_accept_header_does_harm(accept: bytes, port: int) -> None:
    answer = say(port, b"GET /metrics HTTP/1.1\r\nAccept: " + accept + b"\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Evil" not in head
    assert b"ee_client_attempts_total 0.0" in body


def test_random_bytes_do_no_harm(port: int, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(1)
    for _ in range(200):
        with connect(port) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(chance.randbytes(chance.randrange(200)) + b"\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection)[:9] in {b"", b"HTTP/1.1 "}
    assert_served_soon(port)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_a_client_that_sends_a_byte_now_and_then_is_hung_up_on(port: int) -> None:
    with connect(port) as connection:
        start = time.monotonic()
        connection.settimeout(0.05)
        with contextlib.suppress(ConnectionError):
            for byte in b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 1000:
                connection.sendall(bytes([byte]))
                with contextlib.suppress(TimeoutError):
                    assert connection.recv(1000) == b""
                    break
        assert TIMEOUT * 0.9 < time.monotonic() - start < TIMEOUT + SOON


def test_a_client_that_does_not_take_its_answer_is_hung_up_on(process: Process) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("large", "Much to tell.", ["name"], registry=registry)
    for number in range(20_000):
        gauge.labels(f"{number:0300}")
    assert len(generate_latest(registry)) > 6_000_000
    with (
        MonitoringServer(HERE, 0, registry, process, TIMEOUT) as server,
        socket.socket() as connection,
    ):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((HERE, server.port))
        connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
        wait_until(lambda: not answering_threads())


def test_many_idle_connections_neither_multiply_threads_nor_keep_others_from_being_served(process: Process) -> None:
    with (
        MonitoringServer(HERE, 0, process.metrics.registry, process, timeout=10 * SOON) as server,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(5 * MOST_CONNECTIONS):
            stack.enter_context(connect(server.port)).sendall(b"GET /metr")
            assert len(answering_threads()) <= MOST_CONNECTIONS
        assert_served_soon(server.port)
        assert len(answering_threads()) > 1
    wait_until(lambda: not answering_threads())


def test_a_flood_of_connections_passes(port: int) -> None:
    stop = threading.Event()
    most = 0

    def flood() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), connect(port) as connection:
                connection.sendall(b"GET /metrics HTTP/1.1\r\nX: ")

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        with contextlib.suppress(OSError, http.client.HTTPException):
            ask(port, "/healthz")
        most = max(most, len(answering_threads()))
    stop.set()
    for thread in threads:
        thread.join()
    assert most <= MOST_CONNECTIONS
    wait_until(lambda: not answering_threads())
    assert_served_soon(port)


def test_when_all_threads_are_busy_a_newcomer_is_turned_away_and_the_next_served_again() -> None:
    enough = threading.Event()

    class Slow(Process):
        def ready(self) -> str | None:
            enough.wait(10)
            return None

    process = Slow()
    with (
        MonitoringServer(HERE, 0, process.metrics.registry, process, TIMEOUT) as server,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(MOST_CONNECTIONS):
            stack.enter_context(connect(server.port)).sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
        wait_until(lambda: len(answering_threads()) == MOST_CONNECTIONS)
        assert say(server.port, b"GET /healthz HTTP/1.1\r\n\r\n") == b""
        assert len(answering_threads()) == MOST_CONNECTIONS
        enough.set()
        wait_until(lambda: not answering_threads())
        assert ask(server.port, "/readyz").status == 200


def hang_up_hard(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_clients_that_hang_up_are_not_spoken_of(
    port: int, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for words in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\n\r\n", b"junk\r\n\r\n", LONG):
        for _ in range(10):
            connection = connect(port)
            connection.sendall(words)
            hang_up_hard(connection)
    wait_until(lambda: not answering_threads())
    assert_served_soon(port)
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_a_fault_of_ours_is_answered_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(Process):
        def alive(self) -> str | None:
            raise RuntimeError("secret")

    process = Faulty()
    with MonitoringServer(HERE, 0, process.metrics.registry, process) as server:
        page = ask(server.port, "/healthz")
        assert (page.status, b"secret" in page.body) == (500, False)
        assert_served_soon(server.port)
    assert [(record.levelname, record.exc_info is not None) for record in caplog.records] == [("ERROR", True)]


def test_a_port_in_use_is_one_clear_line(port: int, process: Process) -> None:
    with (
        pytest.raises(InputFileError, match=rf"at {HERE}:{port} \(address already in use\).*--metrics-port") as raised,
        MonitoringServer(HERE, port, process.metrics.registry, process),
    ):
        pass
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("address", ["no-such-host.invalid", "192.0.2.1", "a..b", "x" * 300])
def test_an_address_that_is_not_ours_is_one_clear_line(address: str, process: Process) -> None:
    with (
        pytest.raises(InputFileError, match=r"cannot serve metrics at .* \(.+\); choose another"),
        MonitoringServer(address, 0, process.metrics.registry, process),
    ):
        pass


def test_it_listens_where_it_is_told_by_name_and_by_ipv6(process: Process) -> None:
    addresses = ["localhost"]
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        addresses.append("::1")
    for address in addresses:
        with MonitoringServer(address, 0, process.metrics.registry, process) as server:
            connection = http.client.HTTPConnection(address, server.port, timeout=SOON)
            with contextlib.closing(connection):
                connection.request("GET", "/healthz")
                assert connection.getresponse().read() == b"ok\n"


def test_after_the_block_nobody_listens_and_the_port_is_free_at_once(process: Process) -> None:
    with MonitoringServer(HERE, 0, process.metrics.registry, process) as server:
        port = server.port
        assert ask(port, "/healthz").status == 200
        wait_until(lambda: not answering_threads())
        idle = connect(port)
        wait_until(answering_threads)
    start = time.monotonic()
    with contextlib.closing(idle):
        assert read_all(idle) == b""
    assert time.monotonic() - start < SOON
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "monitoring"])
    with MonitoringServer(HERE, port, process.metrics.registry, process):
        assert ask(port, "/healthz").status == 200


def test_its_threads_do_not_keep_a_process_from_ending(port: int) -> None:
    with connect(port):
        wait_until(answering_threads)
        assert all(thread.daemon for thread in answering_threads())
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "monitoring")
