"""The health server over real sockets: its pages, and that no client can block it."""

import contextlib
import gzip
import http.client
import logging
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.openmetrics import parser

from offload.operations.health_server import LARGEST_REQUEST, MAX_CONNECTIONS, serve_health
from offload.operations.metrics import ClientMetrics
from utils.errors import InputFileError

HERE = "127.0.0.1"
TIMEOUT = 0.5
SOON = 60.0
"""Seconds within which a client that does nothing wrong is served, whatever others do."""


@dataclass
class Process:
    """A process whose health a test sets."""

    metrics: ClientMetrics = field(default_factory=ClientMetrics)
    illness: str | None = None
    idleness: str | None = None

    def check_liveness(self) -> str | None:
        return self.illness

    def check_readiness(self) -> str | None:
        return self.idleness


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def port(process: Process) -> Iterator[int]:
    """Serve the process for the length of a test."""
    with serve_health(HERE, 0, process.metrics.registry, process, SOON) as port:
        yield port


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


def server_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("health-server", "waitress-"))]


def handles() -> int:
    """Return how many files and sockets this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def is_served(port: int) -> bool:
    try:
        return ask(port, "/metrics").status == 200
    except (OSError, http.client.HTTPException):
        return False


def wait_until(condition: object, seconds: float = SOON) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain"
        time.sleep(0.01)


def test_metrics_are_those_of_the_process(port: int, process: Process) -> None:
    process.metrics.attempts.inc(7)
    page = ask(port, "/metrics")
    assert page.status == 200
    assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"\nee_client_attempts_total 7.0\n" in page.body
    assert b"\nprocess_cpu_seconds_total " in page.body


def test_metrics_are_openmetrics_if_the_client_prefers_it(port: int) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
    page = ask(port, "/metrics", Accept=accept)
    assert page.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert page.body.endswith(b"# EOF\n")
    names = {family.name for family in parser.text_string_to_metric_families(page.body.decode())}  # type: ignore[no-untyped-call]
    assert "ee_client_attempts" in names


def test_metrics_are_compressed_if_the_client_accepts_it(port: int) -> None:
    page = ask(port, "/metrics", Accept_Encoding="deflate, gzip;q=0.5")
    assert page.headers["Content-Encoding"] == "gzip"
    assert b"ee_client_attempts_total 0.0" in gzip.decompress(page.body)
    assert "Content-Encoding" not in ask(port, "/metrics", Accept_Encoding="identity").headers


def test_metrics_can_be_selected_by_name(port: int) -> None:
    page = ask(port, "/metrics?name[]=ee_client_attempts_total")
    assert [line for line in page.body.splitlines() if not line.startswith(b"#")] == [b"ee_client_attempts_total 0.0"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/healthz?verbose=1"])
def test_a_healthy_process_is_ok(path: str, port: int) -> None:
    page = ask(port, path)
    assert (page.status, page.body) == (200, b"ok\n")
    assert page.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert page.headers["Cache-Control"] == "no-store"


def test_a_problem_is_reported_in_one_line(port: int, process: Process) -> None:
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


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metric", "/healthz/x", "/../etc/passwd", "/favicon.ico", "*"])
def test_other_paths_are_not_found(path: str, port: int) -> None:
    assert ask(port, path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "X" * 1000])
def test_other_methods_are_refused(method: str, port: int) -> None:
    page = ask(port, "/metrics", method, body=b"x" * 1000)
    assert (page.status, page.headers["Allow"]) == (405, "GET, HEAD")


def test_a_request_may_arrive_in_parts(port: int) -> None:
    end = b"\r\n\r\n"
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


def test_a_response_does_not_name_the_software(port: int) -> None:
    assert "Server" not in ask(port, "/healthz").headers
    assert b"waitress" not in say(port, b"GET <script> HTTP/9.9.9\r\n\r\n")


LONG = b"x" * (4 * LARGEST_REQUEST)
HEALTH = b" /healthz HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        (b"GET /" + LONG + b" HTTP/1.1\r\n\r\n", {431}),
        (LONG, {431}),
        (b"GET /metrics HTTP/1.1\r\nX: " + LONG + b"\r\n\r\n", {431}),
        (b"GET /metrics HTTP/1.1\r\n" + LARGEST_REQUEST * b"X: y\r\n" + b"\r\n", {431}),
        (b"POST" + HEALTH + b"Content-Length: %d\r\n\r\n" % len(LONG) + LONG, {413}),
        (b"POST" + HEALTH + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", set()),
        (b"POST" + HEALTH + b"Content-Length: x\r\n\r\n", {400}),
        (b"POST" + HEALTH + b"Transfer-Encoding: chunked\r\n\r\n" + LONG, {413}),
        (b"POST" + HEALTH + b"Transfer-Encoding: gzip\r\n\r\n", {501}),
        (b"get" + HEALTH + b"\r\n", {400}),
        (b"<script>x</script>\r\n\r\n", {400}),
        (b"GET /metrics x HTTP/1.1\r\n\r\n", {400}),
        (b"GET /metrics HTTP/x.y\r\n\r\n", {400}),
        (b"GET /metrics HTTP/2.0\r\n\r\n", {400}),
        (b"\x80\x00\xff /x\r\n\r\n", {400}),
        (b"GET /healthz\r\n\r\n", {400}),
        (b"GET a://" + b"9" * 8000 + b" b c\r\n\r\n", {400}),
        (b"GET" + HEALTH + b"X:" + b" " * 8000 + b"\0\r\n\r\n", {400}),
        (b"GET //[ HTTP/1.1\r\n\r\n", {404}),
        (b"GET http://[ HTTP/1.1\r\n\r\n", {400}),
        (b"GET" + HEALTH + b"no colon\r\n\r\n", {400}),
        (b"GET" + HEALTH + b"X: a\x00\r\n\r\n", {400}),
    ],
)
def test_an_invalid_or_too_large_request_is_refused(
    request_bytes: bytes, statuses: set[int], port: int, caplog: pytest.LogCaptureFixture
) -> None:
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = say(port, request_bytes)
    # What a client still sends when its connection is closed may cost it the answer.
    refused_early = len(request_bytes) > LARGEST_REQUEST or not statuses
    assert answer == b"" if refused_early and not answer else int(answer.split()[1]) in statuses
    assert ask(port, "/healthz").status == 200
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


@pytest.mark.parametrize("words", [b"", b"\r\n\r\n", b"GET /metrics HTTP/1.1\r\nHost:"])
def test_a_client_that_sends_no_request_gets_no_response(words: bytes, port: int) -> None:
    with connect(port) as connection:
        connection.sendall(words)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b""


def test_a_client_that_closes_its_side_after_the_request_gets_the_response(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert b"ee_client_attempts_total 0.0" in read_all(connection)


@pytest.mark.parametrize(
    "accept",
    [
        b"application/openmetrics-text; version=abc",
        b"application/openmetrics-text; version=1.x",
        b"text/plain; version=1.0.0.0.0; escaping=none",
        b"application/openmetrics-text; version=2.0\r\n X-Evil: 1",
        b"application/openmetrics-text; version=\xff\x85",
        b";;;,,,==;=,q=",
    ],
)
def test_unusual_accept_headers_do_no_harm(accept: bytes, port: int) -> None:
    answer = say(port, b"GET /metrics HTTP/1.1\r\nAccept: " + accept + b"\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nX-Evil" not in head
    assert b"ee_client_attempts_total 0.0" in body


def test_random_bytes_do_no_harm(port: int, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(1)
    for _ in range(200):
        with connect(port) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(chance.randbytes(chance.randrange(200)) + b"\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection)[:7] in {b"", b"HTTP/1."}
    assert ask(port, "/metrics").status == 200
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_a_client_that_sends_single_bytes_is_disconnected(process: Process) -> None:
    with (
        serve_health(HERE, 0, process.metrics.registry, process, TIMEOUT) as port,
        connect(port) as connection,
    ):
        connection.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        connection.settimeout(0.05)
        deadline = time.monotonic() + SOON
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                connection.sendall(b"x")
                with contextlib.suppress(TimeoutError):
                    assert connection.recv(1000) == b""
                    break
        assert time.monotonic() < deadline


def test_a_client_that_does_not_read_its_response_is_disconnected(process: Process) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("large", "Much to tell.", ["name"], registry=registry)
    for number in range(20_000):
        gauge.labels(f"{number:0300}")
    size = len(generate_latest(registry))
    assert size > 6_000_000
    with serve_health(HERE, 0, registry, process, 4 * TIMEOUT) as port, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        before = handles()
        connection.connect((HERE, port))
        connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        connection.recv(1)  # the server has accepted
        wait_until(lambda: handles() == before)
        assert len(read_all(connection)) < size - 1


def test_many_idle_connections_do_not_block_others(process: Process) -> None:
    with (
        serve_health(HERE, 0, process.metrics.registry, process, 10 * SOON) as port,
        contextlib.ExitStack() as stack,
    ):
        before, threads = handles(), len(server_threads())
        for _ in range(5 * MAX_CONNECTIONS):
            stack.enter_context(connect(port)).sendall(b"GET /metr")
        assert ask(port, "/metrics").status == 200
        wait_until(lambda: handles() <= before + 6 * MAX_CONNECTIONS)
        assert len(server_threads()) == threads


def test_the_server_survives_a_flood_of_connections(port: int) -> None:
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), connect(port) as connection:
                connection.sendall(b"GET /metrics HTTP/1.1\r\nX: ")

    before = handles(), len(server_threads())
    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        is_served(port)
    stop.set()
    for thread in threads:
        thread.join()
    wait_until(lambda: (handles(), len(server_threads())) == before)
    assert ask(port, "/metrics").status == 200


def test_connections_have_a_deadline_while_all_threads_are_busy() -> None:
    enough = threading.Event()

    class Slow(Process):
        def check_readiness(self) -> str | None:
            enough.wait(SOON)
            return None

    process = Slow()
    with (
        serve_health(HERE, 0, process.metrics.registry, process, TIMEOUT) as port,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(connect(port)).sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
        assert say(port, b"GET /healthz HTTP/1.1\r\n\r\n") == b""
        enough.set()
        wait_until(lambda: is_served(port))


def hang_up_hard(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_clients_that_close_early_are_not_logged(
    port: int, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = handles()
    for words in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\n\r\n", b"junk\r\n\r\n", LONG):
        for _ in range(10):
            connection = connect(port)
            with contextlib.suppress(ConnectionError):
                connection.sendall(words)
            hang_up_hard(connection)
    wait_until(lambda: handles() == before)
    assert ask(port, "/metrics").status == 200
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_an_internal_error_is_status_500_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(Process):
        def check_liveness(self) -> str | None:
            raise RuntimeError("secret")

    process = Faulty()
    with serve_health(HERE, 0, process.metrics.registry, process) as port:
        page = ask(port, "/healthz")
        assert (page.status, b"secret" in page.body) == (500, False)
        assert ask(port, "/metrics").status == 200
    assert [(record.levelname, record.exc_info is not None) for record in caplog.records] == [("ERROR", True)]


def test_a_port_in_use_is_refused_in_one_line(port: int, process: Process) -> None:
    with (
        pytest.raises(InputFileError, match=rf"at {HERE}:{port} \(address already in use\).*--metrics-port") as raised,
        serve_health(HERE, port, process.metrics.registry, process),
    ):
        pass
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("address", ["no-such-host.invalid", "192.0.2.1", "a..b", "x" * 300])
def test_a_foreign_address_is_refused_in_one_line(address: str, process: Process) -> None:
    with (
        pytest.raises(InputFileError, match=r"cannot serve metrics at .* \(.+\); choose another"),
        serve_health(address, 0, process.metrics.registry, process),
    ):
        pass


def test_the_server_listens_on_host_names_and_ipv6(process: Process) -> None:
    addresses = {"localhost": "localhost", "0.0.0.0": HERE}
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        addresses |= {"::1": "::1", "::": HERE}
    for address, reached_by in addresses.items():
        with serve_health(address, 0, process.metrics.registry, process) as port:
            connection = http.client.HTTPConnection(reached_by, port, timeout=SOON)
            with contextlib.closing(connection):
                connection.request("GET", "/healthz")
                assert connection.getresponse().read() == b"ok\n"


def test_several_servers_in_one_process_are_independent() -> None:
    processes = [Process(idleness=f"number {number}") for number in range(3)]
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], list(logging.root.handlers)
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(serve_health(HERE, 0, each.metrics.registry, each)) for each in processes]
        assert [ask(port, "/readyz").body for port in ports] == [b"number 0\n", b"number 1\n", b"number 2\n"]
        now = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], list(logging.root.handlers)
        assert now == before


def test_after_the_block_the_port_is_free_at_once(process: Process) -> None:
    before = handles()
    with serve_health(HERE, 0, process.metrics.registry, process) as port:
        assert ask(port, "/healthz").status == 200
        idle = connect(port)
        idle.sendall(b"GET /metr")
    with contextlib.closing(idle):
        assert read_all(idle) == b""
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    wait_until(lambda: not server_threads())
    assert handles() == before
    with serve_health(HERE, port, process.metrics.registry, process):
        assert ask(port, "/healthz").status == 200


def test_a_hanging_check_stops_neither_the_server_nor_the_process_from_ending() -> None:
    enough = threading.Event()

    class Hanging(Process):
        def check_readiness(self) -> str | None:
            enough.wait(SOON)
            return None

    process = Hanging()
    with contextlib.ExitStack() as stack:
        with serve_health(HERE, 0, process.metrics.registry, process) as port:
            stack.enter_context(connect(port)).sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
            assert ask(port, "/healthz").status == 200
            assert all(thread.daemon for thread in server_threads())
        assert not enough.is_set()
        enough.set()
    wait_until(lambda: not server_threads())
