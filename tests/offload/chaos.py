"""Helpers that run the client and worker scripts as processes, make them fail, and compare the verdicts."""

import contextlib
import functools
import json
import os
import pickle
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pika
from numpy.typing import NDArray

from models.checkpoint import compute_fingerprint, read_two_exits
from offload.link.broker import PASSWORD_VARIABLE, Broker
from offload.link.protocol import Answer, Limits, decode_request, encode_answer, make_id
from offload.link.rabbitmq.connection import REPLY_QUEUE
from tests.hostile import Bomb, Evaluated
from tests.offload.hostile_peers import is_valid
from tests.offload.link_ends import PATIENCE, listening, open_channel, wait_until
from tests.offload.messages import mutate_body
from tests.scripts import CLIENT, ROOT, SERVER
from utils.schema import ATTACK, CLASS, CLASS_COUNT, CLOUD, FEATURES, NOT_ASKED, REJECTED, UNCERTAIN

TOLERANCE = 5e-5
"""Largest difference of two equal certainties: passes of different sizes add in different orders."""
ALL_UNCERTAIN = ("--normal-exit1-min-certainty", 1, "--attack-exit1-min-certainty", 1)
EXIT_2_LIMITS = (0.7, 0.63)  # for normal, for attack
_NOISE = 0.01
_ANSWERED = re.compile(r"^[0-9a-f]{32}: \d+ bytes, answered by \S+ in ([\d.]+) s$")


class Script:
    """A script of the project as a process, which is killed at the end of its ``with`` block."""

    def __init__(self, folder: Path, script: str, *arguments: object, password: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._out, self._err = folder / "out", folder / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, ROOT / script, *map(str, arguments)],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", PASSWORD_VARIABLE: password},
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

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def resident_bytes(self) -> int:
        """Resident memory of the process in bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return 1024 * int(re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.M)[0])

    @property
    def open_files(self) -> int:
        """Number of open files and connections of the process."""
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def wait_for(self, text: str, seconds: float = PATIENCE) -> Self:
        """Wait until the output contains a text."""
        wait_until(lambda: text in self.out or not self.is_running, seconds)
        assert text in self.out, f"it ended: {self.err}"
        return self

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the process, as in a crash, and wait for its end."""
        self._process.kill()
        self._process.wait()

    def end(self, seconds: float = 2 * PATIENCE) -> int:
        """Wait for the end and return the exit code."""
        return self._process.wait(seconds)

    @property
    def error_lines(self) -> list[str]:
        """Lines on stderr, without those that pika logs with --debug."""
        lines = []
        for line in self.err.splitlines():
            fields = json.loads(line) if line.startswith("{") else {"message": line, "logger": ""}
            if not fields["logger"].startswith("pika"):
                lines.append(fields["message"])
        return lines

    def read_log(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """Yield the JSON lines on stdout, each with its time in seconds since the epoch."""
        for line in self.out.splitlines():
            with contextlib.suppress(ValueError):  # the last line may be incomplete
                fields = json.loads(line)
                yield datetime.fromisoformat(fields["time"]).timestamp(), fields

    def read_round_trips(self) -> Iterator[tuple[float, float]]:
        """Yield the times at which each answered request of a client began and ended; needs --debug and JSON lines."""
        for moment, fields in self.read_log():
            if found := _ANSWERED.match(fields["message"]):
                yield moment - float(found[1]), moment

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)
        self.kill()


@dataclass(frozen=True)
class Setup:
    """What the clients and workers of a test have in common.

    Attributes:
        broker: connection settings.
        queue: the request queue.
        checkpoint: checkpoint of a MobileNetV2, for clients and workers.
        dataset: dataset of the clients.
        batch: events of a batch, and so of a request.
    """

    broker: Broker
    queue: str
    checkpoint: Path
    dataset: Path
    batch: int

    def with_queue(self, queue: str) -> "Setup":
        """Return the setup with another queue."""
        return replace(self, queue=queue)

    def with_port(self, port: int) -> "Setup":
        """Return the setup with another port of RabbitMQ on this machine."""
        return replace(self, broker=replace(self.broker, hosts=(replace(self.broker.hosts[0], port=port),)))

    def start_client(self, folder: Path, *options: object) -> Script:
        """Start a client on the whole dataset, which writes ``verdicts.csv`` in its folder."""
        return Script(
            folder, CLIENT, *self._common(), "--dataset", self.dataset, "--batch-size", self.batch,
            "--savefile", folder / "verdicts.csv", *ALL_UNCERTAIN, "--normal-exit2-min-certainty", EXIT_2_LIMITS[0],
            "--attack-exit2-min-certainty", EXIT_2_LIMITS[1], *options, password=self.broker.password,
        )  # fmt: skip

    def start_worker(self, folder: Path, *options: object) -> Script:
        """Start a worker."""
        return Script(folder, SERVER, *self._common(), *options, password=self.broker.password)

    def decide_locally(self, folder: Path, *options: object) -> pd.DataFrame:
        """Return the verdicts of a client that computes exit 2 itself."""
        with self.start_client(folder, "--process-exit2-locally", *options) as client:
            assert client.end(3600) == 0, client.err
        return read_verdicts(folder)

    def _common(self) -> tuple[object, ...]:
        (host, *_), name = self.broker.hosts, self.broker.username
        return (
            "--mq-hostname", host.name, "--mq-port", host.port, "--mq-username", name, "--mq-queue", self.queue,
            "--trained-network-file", self.checkpoint, "--network", "mobilenet",
        )  # fmt: skip


def write_distinct_events(path: Path, months: Path, count: int) -> Path:
    """Write a dataset of ``count`` distinct events: rows of the months in a folder, in random order and with noise."""
    frames = [pd.read_csv(month) for month in sorted(months.glob("2016_*.csv"))]
    rng = np.random.default_rng(count)
    names = list(FEATURES)
    table = pd.concat(frames).sample(count, replace=True, random_state=count, ignore_index=True)
    table = table.astype(dict.fromkeys(names, float))
    table[names] *= 1 + _NOISE * rng.standard_normal((count, len(names)))
    table.round(6).to_csv(path, index=False)
    return path


def read_verdicts(folder: Path) -> pd.DataFrame:
    """Return the verdicts in a client's folder."""
    return pd.read_csv(folder / "verdicts.csv", keep_default_na=False, dtype={"final_prediction": str})


@dataclass(frozen=True)
class Differences:
    """Numbers of rows in which an offload CSV differs from that of a run without a cloud.

    Attributes:
        lost, duplicated: missing rows, and surplus rows.
        misplaced: rows about another event than the dataset's row of the same number.
        wrong: rows with another verdict, except those whose certainty of exit 2 is at a threshold.
        unanswered: rows without a prediction of exit 2 where there should be one.
    """

    lost: int = 0
    duplicated: int = 0
    misplaced: int = 0
    wrong: int = 0
    unanswered: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{count} {what}" for what, count in vars(self).items())

    def __add__(self, other: "Differences") -> "Differences":
        return Differences(
            *(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True))
        )


NO_DIFFERENCES = Differences()


def compare_verdicts(found: pd.DataFrame, expected: pd.DataFrame) -> Differences:
    """Compare the verdicts of a client with those of a client that computed exit 2 itself."""
    both = min(len(found), len(expected))
    surplus = len(found) - len(expected)
    found, expected = found.iloc[:both], expected.iloc[:both]
    apart = np.abs(_odds(found, 1) - _odds(expected, 1)) > TOLERANCE
    misplaced = apart | (found[CLASS] != expected[CLASS]).to_numpy()
    is_offloaded = (expected["exit_2_prediction"] != NOT_ASKED).to_numpy()
    unanswered = is_offloaded & (found["exit_2_prediction"] == NOT_ASKED).to_numpy()
    columns = ("exit_2_prediction", "final_prediction")
    differs = np.any([(found[name].astype(str) != expected[name].astype(str)).to_numpy() for name in columns], axis=0)
    wrong = differs & np.where(is_offloaded, _is_clear(expected), True) & ~unanswered & ~misplaced
    return Differences(max(0, -surplus), max(0, surplus), int(misplaced.sum()), int(wrong.sum()), int(unanswered.sum()))


def _odds(table: pd.DataFrame, exit_number: int) -> NDArray[np.float64]:
    certainty = pd.to_numeric(table[f"exit_{exit_number}_certainty"], errors="coerce").to_numpy()
    attack = (table[f"exit_{exit_number}_prediction"].astype(str) == str(ATTACK)).to_numpy()
    odds: NDArray[np.float64] = np.where(attack, certainty, 1 - certainty)
    return odds


def _is_clear(table: pd.DataFrame) -> NDArray[np.bool_]:
    odds, (normal, attack) = _odds(table, 2), EXIT_2_LIMITS
    clear: NDArray[np.bool_] = np.all([np.abs(odds - limit) > TOLERANCE for limit in (0.5, 1 - normal, attack)], axis=0)
    return clear


def is_all_by_cloud(found: pd.DataFrame) -> bool:
    """Return whether the cloud answered all events, certain or not."""
    deciders = set(zip(found["decider"], found["reason"], strict=True))
    return deciders <= {(CLOUD, "certain"), (REJECTED, UNCERTAIN)}


def read_metric(port: int, name: str) -> float:
    """Return the sum of a metric over all labels; 0 while nothing listens on the port."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as page:
            text = page.read().decode()
    except OSError:
        return 0.0
    return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M)))


def wait_for_port(port: int, seconds: float = 3 * PATIENCE) -> float:
    """Wait until something listens on a port; return the time in seconds since the epoch."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "the port did not open"
            time.sleep(0.01)
        else:
            return time.time()


@contextmanager
def throttle(script: Script, share: float = 0.1, period: float = 0.1) -> Iterator[None]:
    """Pause a process again and again during the block, so that it runs for ``share`` of the time."""
    over = threading.Event()

    def throttle() -> None:
        while not over.is_set():
            script.send(signal.SIGSTOP)
            over.wait(period * (1 - share))
            script.send(signal.SIGCONT)
            over.wait(period * share)

    thread = threading.Thread(target=throttle, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        script.send(signal.SIGCONT)


class KillingRelay:
    """A relay to the broker that can kill a worker after its reply and before the acknowledgement.

    Args:
        port: port of the broker.

    Attributes:
        connections: number of connections so far.
    """

    _HEADER = struct.Struct(">BHI")  # type, channel, size
    _METHOD, _ACK = 1, struct.pack(">HH", 60, 80)

    def __init__(self, port: int) -> None:
        self._target = port
        self._threads: list[threading.Thread] = []
        self._ends: list[socket.socket] = []
        self._victim: Script | None = None
        self._acknowledgements = 0
        self.connections = 0

    def kill_at(self, n: int, victim: Script) -> None:
        """Kill a worker at its n-th acknowledgement from now, which does not reach the broker."""
        self._acknowledgements, self._victim = n, victim

    @contextmanager
    def running(self) -> Iterator[int]:
        """Yield the port of the relay."""
        with listening(self._join) as port:
            try:
                yield port
            finally:
                _hang_up(*self._ends)
                for thread in self._threads:
                    thread.join(PATIENCE)
                for end in self._ends:
                    end.close()

    def _join(self, worker: socket.socket) -> None:
        self.connections += 1
        broker = socket.create_connection(("127.0.0.1", self._target))
        worker.settimeout(None)
        self._ends += worker, broker
        for work in (self._pump_out, self._pump_in):
            self._threads.append(threading.Thread(target=work, args=(worker, broker), daemon=True))
            self._threads[-1].start()

    def _pump_out(self, worker: socket.socket, broker: socket.socket) -> None:
        with contextlib.suppress(OSError), worker.makefile("rb") as stream:
            broker.sendall(stream.read(8))  # the protocol's name
            while len(header := stream.read(self._HEADER.size)) == self._HEADER.size:
                kind, _, size = self._HEADER.unpack(header)
                rest = stream.read(size + 1)
                if kind == self._METHOD and rest.startswith(self._ACK):
                    self._acknowledgements -= 1
                    if self._victim is not None and self._acknowledgements <= 0:
                        self._victim.kill()
                        break
                broker.sendall(header + rest)
        _hang_up(worker, broker)

    def _pump_in(self, worker: socket.socket, broker: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := broker.recv(2**16):
                worker.sendall(data)
        _hang_up(worker, broker)


def _hang_up(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class Intruder:
    """Consumes the clients' requests, sends harmful messages to both sides, and then forwards the request.

    Args:
        setup: setup of the clients, with their queue.
        worker_queue: queue of the workers.
        canary: file that exists if a message was unpickled.
        count: harmful messages to each side for each request.

    Attributes:
        sent: number of harmful messages so far.
    """

    def __init__(self, setup: Setup, worker_queue: str, canary: Path, count: int) -> None:
        self._setup = setup
        self._worker_queue = worker_queue
        self._count = count
        self._bombs = [pickle.dumps(bomb(canary)) for bomb in (Bomb, Evaluated)]
        self._over = threading.Event()
        network, _ = read_two_exits(setup.checkpoint)
        self._limits = Limits(compute_fingerprint(network), network.activation_shape())
        self._seed = 0
        self.sent = 0

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Intrude during the block."""
        thread = threading.Thread(target=self._run, daemon=True)
        with open_channel(self._setup.broker) as channel:
            channel.queue_declare(self._setup.queue, durable=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join(PATIENCE)
            assert not thread.is_alive()
            with open_channel(self._setup.broker) as channel:
                channel.queue_delete(self._setup.queue)

    def _run(self) -> None:
        sink = f"{REPLY_QUEUE}{make_id()}"  # the workers' refusals go there
        with open_channel(self._setup.broker) as confirming:
            channel = confirming.connection.channel()
            channel.queue_declare(sink, exclusive=True)
            channel.basic_consume(sink, lambda *_refusal: None, auto_ack=True)
            channel.basic_consume(self._setup.queue, functools.partial(self._intrude, sink), auto_ack=True)
            while not self._over.is_set():
                channel.connection.process_data_events(0.1)

    def _intrude(self, sink: str, channel: Any, _method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        request = decode_request(body, self._limits)
        logits = np.zeros((len(request.tensor), CLASS_COUNT), dtype=np.float32)
        answer = encode_answer(Answer(request.request_id, request.fingerprint, "intruder", 1.0, logits))
        bodies = mutate_body(answer, self._seed, self._count)
        replies = (reply for reply in (*self._bombs, *bodies) if not is_valid(reply, request))
        requests = (*self._bombs, *mutate_body(body, self._seed, self._count))
        for reply in replies:
            self._send(channel, properties.reply_to, reply, properties.correlation_id)
        for broken in requests:
            self._send(channel, self._worker_queue, broken, make_id(), sink)
        self._seed += 1
        channel.basic_publish("", self._worker_queue, body, properties)

    def _send(self, channel: Any, queue: str, body: bytes, request_id: str, reply_to: str | None = None) -> None:
        properties = pika.BasicProperties(correlation_id=request_id, reply_to=reply_to)
        channel.basic_publish("", queue, body, properties)
        self.sent += 1
