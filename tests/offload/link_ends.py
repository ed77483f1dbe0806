"""Helpers: workers in threads and processes, plain connections, and servers that misbehave."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pika

from offload.link.batch_report import BatchReport
from offload.link.broker import PASSWORD_VARIABLE, Broker, Host
from offload.link.client import Client
from offload.link.pending_requests import RetryPolicy
from offload.link.protocol import FEATURES, Answer, Limits, Refusal, Request, decode_request, make_id
from offload.link.responder import Responder
from offload.link.worker import Worker
from offload.link.worker_settings import WorkerSettings
from offload.operations.metrics import ClientMetrics, WorkerMetrics
from utils.errors import MessageError
from utils.schema import FEATURE_COUNT

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0
"""Most seconds that a test waits for an event, also on a busy machine."""
AGES = 10 * PATIENCE
"""Seconds for a timeout that a test must not wait for: a test that does fails."""
REPLY_TO = "ee-reply." + "0" * 32
"""A valid name of a reply queue that does not exist."""
FINGERPRINT = "5e" * 32
"""Fingerprint of the network that ``Sleeper`` pretends to be."""
DEFAULT_RETRIES = RetryPolicy(attempt=60.0, retries=1, deadline=120.0)


def at(broker: Broker, *ports: int) -> Broker:
    """Return the settings of a broker with other ports of this machine, tried in turn."""
    return replace(broker, hosts=tuple(Host("127.0.0.1", port) for port in ports))


def make_request(events: int = 1, fill: float | None = None, client_id: str = "edge:1") -> Request:
    """Return a request for ``Sleeper``, of random features or all of one value."""
    shape = (events, FEATURE_COUNT)
    features = np.random.default_rng().random(shape) if fill is None else np.full(shape, fill)
    return Request(make_id(), client_id, FINGERPRINT, FEATURES, features.astype(np.float32))


class Sleeper(Responder):
    """A responder without a network: the logits are the first two features.

    Args:
        seconds: duration of each batch.
        seconds_per_event: additional duration for each event.

    Attributes:
        batches: the requests of each batch.
        threads: names of the threads that computed batches.
        hold: nothing is computed while this event is cleared.
    """

    def __init__(self, seconds: float = 0.0, seconds_per_event: float = 0.0) -> None:
        self._seconds = seconds
        self._seconds_per_event = seconds_per_event
        self._limits = Limits(FINGERPRINT, (1, 1, 1))
        self.batches: list[list[Request]] = []
        self.threads: set[str] = set()
        self.hold = threading.Event()
        self.hold.set()

    def decode(self, body: bytes, request_id: str) -> Request | Refusal:
        try:
            return decode_request(body, self._limits)
        except MessageError as problem:
            return Refusal(request_id, problem.code, problem.text)

    def answer(self, requests: Sequence[Request]) -> list[Answer | Refusal]:
        self.threads.add(threading.current_thread().name)
        self.batches.append(list(requests))
        self.hold.wait(PATIENCE)
        time.sleep(self._seconds + self._seconds_per_event * sum(len(request.tensor) for request in requests))
        return [
            Answer(request.request_id, FINGERPRINT, "sleeper", 1.0, np.ascontiguousarray(request.tensor[:, :2]))
            for request in requests
        ]


def make_worker(
    broker: Broker,
    queue: str,
    responder: Sleeper | None = None,
    service: WorkerSettings | None = None,
    metrics: WorkerMetrics | None = None,
    on_batch: Callable[[BatchReport], object] = lambda _batch: None,
) -> Worker:
    """Return a worker, by default one that answers at once."""
    return Worker(
        broker, queue, responder or Sleeper(), service or WorkerSettings(), metrics or WorkerMetrics(), on_batch
    )


def make_client(
    broker: Broker, queue: str, retry_policy: RetryPolicy = DEFAULT_RETRIES, metrics: ClientMetrics | None = None
) -> Client:
    """Return a client, to be entered."""
    return Client(broker, queue, retry_policy, metrics or ClientMetrics())


def is_answer_to(answer: Answer, request: Request) -> bool:
    """Return whether an answer is that of ``Sleeper`` to a request."""
    return bool((answer.logits == request.tensor[:, :2]).all())


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain"
        time.sleep(0.02)


@contextmanager
def open_channel(broker: Broker) -> Iterator[Any]:
    """Yield a plain pika channel with confirms."""
    credentials = pika.PlainCredentials(broker.username, broker.password)
    (host, *_) = broker.hosts
    connection = pika.BlockingConnection(pika.ConnectionParameters(host.name, host.port, "/", credentials))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel
    finally:
        if connection.is_open:
            connection.close()


def publish(broker: Broker, queue: str, body: bytes, **properties: Any) -> None:
    """Publish a message with any properties to a queue."""
    with open_channel(broker) as channel:
        channel.basic_publish("", queue, body, pika.BasicProperties(**properties), mandatory=True)


def count_waiting(broker: Broker, queue: str) -> int:
    """Return the number of ready messages in a queue."""
    with open_channel(broker) as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


@contextmanager
def run_worker(worker: Worker) -> Iterator[list[float]]:
    """Run a worker in a thread; yield the times at which it became ready. Raise an exception of ``run`` at the end."""
    ready: list[float] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            worker.run(lambda: ready.append(time.monotonic()))
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: ready or failures)
        yield ready
    finally:
        worker.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the worker did not stop"
        if failures:
            raise failures[0]


class Program:
    """A Python process with its output in files, killed at the end of its ``with`` block."""

    def __init__(self, folder: Path, *arguments: object, **environment: str) -> None:
        self._out, self._err = folder / "out", folder / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                cwd=ROOT,
                env={**os.environ, **_ENVIRONMENT, **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def wait_for(self, text: str) -> None:
        """Wait until the output contains a text."""
        wait_until(lambda: text in self.out or self._process.poll() is not None)
        assert text in self.out, f"it ended: {self.err}"

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def limit_files_to(self, size: int) -> None:
        """Limit the size of the files of the process, which acts like a full disk."""
        _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (size, hard))

    def end(self, seconds: float = PATIENCE) -> int:
        """Wait for the end and return the exit code."""
        return self._process.wait(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.kill()
        self._process.wait()


# All processes share two cores, and the C library must not request the memory of each large tensor from the system.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}

_SLEEPING_WORKER = """
import os, signal, sys
from offload.link.broker import Broker, Host
from tests.offload.link_ends import Sleeper, make_worker

port, user, queue, seconds, per_event = sys.argv[1:]
broker = Broker((Host("127.0.0.1", int(port)),), user, os.environ["EE_MQ_PASSWORD"])

class Talking(Sleeper):
    def answer(self, requests):
        print("computing", len(requests), flush=True)
        return super().answer(requests)

worker = make_worker(broker, queue, Talking(float(seconds), float(per_event)))
signal.signal(signal.SIGTERM, lambda *_: worker.stop())
worker.run(lambda: print("ready", flush=True))
print("answered", worker.answered, flush=True)
"""


class SleepingWorker(Program):
    """A worker process around a ``Sleeper``."""

    def __init__(
        self, folder: Path, broker: Broker, queue: str, seconds: float = 0.0, seconds_per_event: float = 0.0
    ) -> None:
        environment = {PASSWORD_VARIABLE: broker.password}
        (host, *_) = broker.hosts
        arguments = (host.port, broker.username, queue, seconds, seconds_per_event)
        super().__init__(folder, "-c", _SLEEPING_WORKER, *arguments, **environment)


@contextmanager
def listening(handle: Callable[[socket.socket], object]) -> Iterator[int]:
    """Run a server and yield its port; connections stay open until the end unless ``handle`` closes them."""
    with contextlib.ExitStack() as connections, socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connections.enter_context(connection).settimeout(PATIENCE)
                    handle(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)
            assert not thread.is_alive()


class Relay:
    """A relay between a client and the broker that can fall silent: then it discards all bytes."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: list[socket.socket] = []
        self._pumps: list[threading.Thread] = []
        self.hung_up = threading.Event()

    def fall_silent(self) -> None:
        self._flowing.clear()

    def recover(self) -> None:
        self._flowing.set()

    def on_data(self, data: bytes) -> None:
        """Inspect the bytes that pass."""

    def _join(self, client: socket.socket) -> None:
        broker = socket.create_connection(("127.0.0.1", self._target))
        self._sockets.append(broker)
        for source, sink in ((client, broker), (broker, client)):
            self._pumps.append(threading.Thread(target=self._pump, args=(source, sink), daemon=True))
            self._pumps[-1].start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                self.on_data(data)
                self._flowing.wait(PATIENCE)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self.hung_up.set()

    @contextmanager
    def running(self) -> Iterator[int]:
        """Yield the port of the relay."""
        with listening(self._join) as port:
            try:
                yield port
            finally:
                self._flowing.set()
                for broker in self._sockets:
                    with contextlib.suppress(OSError):
                        broker.shutdown(socket.SHUT_RDWR)
                for pump in self._pumps:
                    pump.join(PATIENCE)
                for broker in self._sockets:
                    broker.close()
