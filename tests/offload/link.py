"""The ends of the link, for tests: workers in threads and in processes, plain connections, servers that misbehave."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pika

from offload.broker import Broker
from offload.options import PASSWORD_VARIABLE
from offload.worker import Worker

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0
REPLY_TO = "ee-reply." + "0" * 32
"""A reply queue of the right form, which no one has."""


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain"
        time.sleep(0.02)


@contextmanager
def connected(broker: Broker) -> Iterator[Any]:
    """Yield a plain pika channel, with confirms, that knows nothing of our rules."""
    credentials = pika.PlainCredentials(broker.username, broker.password)
    connection = pika.BlockingConnection(pika.ConnectionParameters(broker.hostname, broker.port, "/", credentials))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel
    finally:
        if connection.is_open:
            connection.close()


def publish(broker: Broker, queue: str, body: bytes, **properties: Any) -> None:
    """Put a message with any properties into a queue."""
    with connected(broker) as channel:
        channel.basic_publish("", queue, body, pika.BasicProperties(**properties), mandatory=True)


def waiting_in(broker: Broker, queue: str) -> int:
    """Return how many messages of a queue no one holds."""
    with connected(broker) as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


@contextmanager
def serving(worker: Worker) -> Iterator[list[float]]:
    """Run a worker in a thread; yield the times at which it was ready. What ``run`` raises is raised at the end."""
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
    """A Python process of ours, with its output in files; gone at the end of its ``with`` block."""

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
        """Wait until a text stands in the output."""
        wait_until(lambda: text in self.out or self._process.poll() is not None)
        assert text in self.out, f"it ended: {self.err}"

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self, seconds: float = PATIENCE) -> int:
        """Return the exit code once it ended."""
        return self._process.wait(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.kill()
        self._process.wait()


# Two cores are shared by all; and the C library is told not to fetch every large tensor's memory anew from the system.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}

_SLOW_WORKER = """
import os, signal, sys, time
from offload.broker import Broker
from offload.worker import Worker

def answer(body, request_id):
    print("computing", body.decode(), flush=True)
    while not os.path.exists(sys.argv[4]):
        time.sleep(0.02)
    return body.upper()

worker = Worker(Broker("127.0.0.1", int(sys.argv[1]), sys.argv[2], os.environ["EE_MQ_PASSWORD"]), sys.argv[3], answer)
signal.signal(signal.SIGTERM, lambda *_: worker.stop())
worker.run(lambda: print("ready", flush=True))
print("answered", worker.answered, flush=True)
"""


class SlowWorker(Program):
    """A worker process that answers in capital letters, but nothing until it is released."""

    def __init__(self, folder: Path, broker: Broker, queue: str) -> None:
        self._gate = folder / "released"
        environment = {PASSWORD_VARIABLE: broker.password}
        super().__init__(folder, "-c", _SLOW_WORKER, broker.port, broker.username, queue, self._gate, **environment)

    def release(self) -> None:
        self._gate.touch()


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
    """Stands between a client and the broker, until it falls silent: then bytes come in and go nowhere."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: list[socket.socket] = []
        self._pumps: list[threading.Thread] = []
        self.hung_up = threading.Event()

    def fall_silent(self) -> None:
        self._flowing.clear()

    def _join(self, client: socket.socket) -> None:
        broker = socket.create_connection(("127.0.0.1", self._target))
        self._sockets.append(broker)
        for source, sink in ((client, broker), (broker, client)):
            self._pumps.append(threading.Thread(target=self._pump, args=(source, sink), daemon=True))
            self._pumps[-1].start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                self._flowing.wait(PATIENCE)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self.hung_up.set()

    @contextmanager
    def running(self) -> Iterator[int]:
        """Yield the port that stands for the broker's."""
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
