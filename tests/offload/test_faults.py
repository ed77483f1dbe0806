"""The scripts of the link against a real RabbitMQ, while they are killed, cut off and flooded: the CSV stays right."""

import contextlib
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pika.exceptions
import pytest

from offload.link.broker import Broker, Host
from offload.link.private_broker import find_free_port, find_server
from offload.link.protocol import make_id
from offload.link.rabbitmq.worker_end import QUEUE_LIMIT
from tests.controlled_broker import ControlledBroker
from tests.offload.chaos import (
    NO_DIFFERENCES,
    Differences,
    Intruder,
    KillingRelay,
    Script,
    Setup,
    compare_verdicts,
    is_all_by_cloud,
    read_metric,
    read_verdicts,
    throttle,
    wait_for_port,
    write_distinct_events,
)
from tests.offload.hostile_peers import FailingRelay
from tests.offload.link_ends import open_channel, wait_until

EVENTS, BATCH = 320, 8
WAIT = ("--on-cloud-failure", "wait", "--wait-timeout", 600, "--request-timeout", 2, "--show-decider")
LOCAL = ("--on-cloud-failure", "local", "--request-timeout", 3, "--show-decider")
REJECT = ("--on-cloud-failure", "reject", "--request-timeout", 3, "--show-decider")
LOG = ("--log-format", "json", "--debug")
AGES = 60
PATIENT = ("--request-timeout", AGES)
"""Long before a request is sent again, the broker has handed it to another worker."""
RETRIES, DROPPED = "ee_client_retries_total", "ee_client_dropped_replies_total"


@pytest.fixture(scope="module", autouse=True)
def _quick_memory() -> Iterator[None]:
    """Tell the C library of the scripts not to fetch every large tensor's memory anew from the system."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**30))
        patch.setenv("MALLOC_TRIM_THRESHOLD_", str(2**31 - 1))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def local(checkpoint: Path, sample: Path, folder: Path) -> Iterator[tuple[Setup, Script]]:
    """A client that asks no one, while the node starts."""
    dataset = write_distinct_events(folder / "events.csv", sample, EVENTS)
    setup = Setup(Broker((Host("127.0.0.1"),)), "faults", checkpoint, dataset, BATCH)
    with setup.start_client(folder / "local", "--process-exit2-locally") as client:
        yield setup, client


@pytest.fixture(scope="module")
def node(request: pytest.FixtureRequest, local: object) -> Iterator[ControlledBroker]:
    """A node of this module's own, for it gets killed."""
    assert local
    if find_server() is None:
        request.getfixturevalue("broker")  # skips or fails
    with ControlledBroker() as node:
        yield node


@pytest.fixture(scope="module")
def setup(local: tuple[Setup, Script], node: ControlledBroker) -> Setup:
    there = node.connection
    return Setup(there, "faults", local[0].checkpoint, local[0].dataset, BATCH)


@pytest.fixture(scope="module")
def expected(local: tuple[Setup, Script], folder: Path) -> pd.DataFrame:
    """The verdicts without a cloud."""
    assert local[1].end() == 0
    return read_verdicts(folder / "local")


@dataclass
class WorkerPool:
    """The workers of the module; those that were killed are replaced."""

    setup: Setup
    folder: Path
    stack: contextlib.ExitStack
    members: list[Script]

    def resize(self, count: int) -> list[Script]:
        """Return so many workers that run, though they may not serve yet, and let others end."""
        running = [worker for worker in self.members if worker.is_running]
        for worker in running[count:]:
            worker.kill()
        new = [
            self.stack.enter_context(self.setup.start_worker(self.folder / f"worker-{make_id()}", "--prefetch", 4))
            for _ in range(count - len(running))
        ]
        self.members = running[:count] + new
        return self.members

    def wait_until_ready(self) -> None:
        """Wait until all serve."""
        for worker in self.members:
            worker.wait_for("ready: ")


@pytest.fixture(scope="module")
def worker_pool(setup: Setup, folder: Path) -> Iterator[WorkerPool]:
    with contextlib.ExitStack() as stack:
        yield WorkerPool(setup, folder, stack, [])


@pytest.fixture
def started() -> Iterator[contextlib.ExitStack]:
    """Takes processes and relays, which are gone when the test is over."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def queue(setup: Setup) -> Iterator[str]:
    """A queue of the test's own."""
    name = f"requests.{make_id()}"
    yield name
    with open_channel(setup.broker) as channel:
        channel.queue_delete(name)


def verdicts_of(client: Script, folder: Path) -> pd.DataFrame:
    """Return the CSV of a client that ends well."""
    assert client.end() == 0, client.err
    assert "Traceback" not in "\n".join(client.error_lines)
    return read_verdicts(folder)


def hold(*clients: Script) -> None:
    """Stop each of the clients that run at its third batch."""
    running = list(clients)
    while running:
        wait_until(lambda: any("batch 3:" in client.out for client in running))
        for client in [client for client in running if "batch 3:" in client.out]:
            client.send(signal.SIGSTOP)
            running.remove(client)


def start_held(start: Callable[[str], Script], *ways: str) -> dict[str, Script]:
    """Start a client for each way, and stop each in mid-run.

    A busy machine may stop one only when it has nearly ended: that one begins again.
    """
    held: dict[str, Script] = {}
    too_far = f"batch {EVENTS // BATCH * 3 // 4}:"
    while missing := [way for way in ways if way not in held]:
        clients = {way: start(way) for way in missing}
        hold(*clients.values())
        for way, client in clients.items():
            if too_far in client.out:
                client.kill()
            else:
                held[way] = client
    return held


def release(*clients: Script) -> None:
    """Let clients go on."""
    for client in clients:
        client.send(signal.SIGCONT)


def test_no_row_is_lost_when_workers_are_killed_during_inference(
    setup: Setup, worker_pool: WorkerPool, expected: pd.DataFrame, started: contextlib.ExitStack, tmp_path: Path
) -> None:
    workers = worker_pool.resize(4)
    worker_pool.wait_until_ready()
    client = started.enter_context(setup.start_client(tmp_path, *WAIT, *PATIENT, *LOG))
    kills, rng = [], random.Random()
    for worker, batch in zip(workers[:3], (2, 12, 22), strict=True):
        client.wait_for(f'"batch {batch}:')
        time.sleep(rng.uniform(0, 0.1))
        kills.append(time.time())
        worker.kill()
    verdicts = verdicts_of(client, tmp_path)
    assert compare_verdicts(verdicts, expected) == NO_DIFFERENCES
    assert is_all_by_cloud(verdicts)
    recoveries = [end - kill for kill in kills for start, end in client.read_round_trips() if start < kill < end]
    assert len(recoveries) > 0
    assert max(recoveries) < AGES


def test_no_row_is_lost_or_doubled_when_a_worker_is_killed_before_it_acknowledges(
    setup: Setup, node: ControlledBroker, worker_pool: WorkerPool, expected: pd.DataFrame,
    started: contextlib.ExitStack, tmp_path: Path,
) -> None:  # fmt: skip
    worker_pool.resize(1)
    relay = KillingRelay(node.port)
    port = started.enter_context(relay.running())
    victim = started.enter_context(setup.with_port(port).start_worker(tmp_path / "victim"))
    relay.kill_at(3, victim)
    victim.wait_for("ready: ")
    client = started.enter_context(setup.start_client(tmp_path / "client", *WAIT, "--debug"))
    verdicts = verdicts_of(client, tmp_path / "client")
    assert not victim.is_running
    assert compare_verdicts(verdicts, expected) == NO_DIFFERENCES
    assert is_all_by_cloud(verdicts)
    assert "discarded a reply to no pending request" in client.out


def test_a_slow_worker_changes_neither_rows_nor_their_order(
    setup: Setup, worker_pool: WorkerPool, expected: pd.DataFrame, started: contextlib.ExitStack, tmp_path: Path
) -> None:
    slow, _fast = worker_pool.resize(2)
    [client] = start_held(lambda _way: started.enter_context(setup.start_client(tmp_path, *WAIT)), "throttled").values()
    worker_pool.wait_until_ready()
    before = slow.out.count(" events of ")
    with throttle(slow):
        release(client)
        verdicts = verdicts_of(client, tmp_path)
    assert slow.out.count(" events of ") > before
    assert compare_verdicts(verdicts, expected) == NO_DIFFERENCES
    assert is_all_by_cloud(verdicts)


def test_no_row_is_lost_when_connections_are_cut_or_fall_silent(
    setup: Setup, node: ControlledBroker, worker_pool: WorkerPool, expected: pd.DataFrame,
    started: contextlib.ExitStack, tmp_path: Path,
) -> None:  # fmt: skip
    worker_pool.resize(1)
    relays = {fault: FailingRelay(node.port) for fault in ("cut", "silent")}
    ports = {fault: started.enter_context(relay.running()) for fault, relay in relays.items()}
    clients = start_held(
        lambda fault: started.enter_context(setup.with_port(ports[fault]).start_client(tmp_path / fault, *WAIT)),
        *relays,
    )
    relays["cut"].cut_after(1_000, 5_000, 12_345)  # a request has 2.8 kB, and the greeting of a connection 0.6 kB
    relays["silent"].fall_silent()
    release(*clients.values())
    for fault, client in clients.items():
        verdicts = verdicts_of(client, tmp_path / fault)
        assert compare_verdicts(verdicts, expected) == NO_DIFFERENCES
        assert is_all_by_cloud(verdicts)
    assert clients["cut"].err.count("RabbitMQ is back after") == 3
    assert clients["silent"].err.count("stopped answering") == 1
    assert len(clients["silent"].err.splitlines()) == 2


def test_on_a_full_queue_clients_wait_or_decide_themselves(
    setup: Setup, queue: str, expected: pd.DataFrame, started: contextlib.ExitStack, tmp_path: Path
) -> None:
    setup, port = setup.with_queue(queue), find_free_port()
    worker = started.enter_context(setup.start_worker(tmp_path / "worker", "--quiet")).wait_for("ready: ")
    worker.send(signal.SIGSTOP)
    with open_channel(setup.broker) as confirming:
        for channel, count in ((confirming.connection.channel(), QUEUE_LIMIT), (confirming, 100)):
            with contextlib.suppress(pika.exceptions.NackError):
                for _ in range(count):
                    channel.basic_publish("", queue, b"", mandatory=True)
    waiting = started.enter_context(setup.start_client(tmp_path / "wait", *WAIT, "--metrics-port", port))
    local = started.enter_context(setup.start_client(tmp_path / "local", *LOCAL))
    verdicts = verdicts_of(local, tmp_path / "local")
    assert compare_verdicts(verdicts, expected) == NO_DIFFERENCES
    assert set(verdicts["reason"]) <= {"queue-full", "circuit-open", "uncertain"}
    wait_until(lambda: read_metric(port, RETRIES) > 5)
    worker.send(signal.SIGCONT)
    verdicts = verdicts_of(waiting, tmp_path / "wait")
    assert compare_verdicts(verdicts, expected) == NO_DIFFERENCES
    assert is_all_by_cloud(verdicts)


def test_no_row_is_lost_when_the_queue_is_late_or_deleted(
    setup: Setup, queue: str, expected: pd.DataFrame, started: contextlib.ExitStack, tmp_path: Path
) -> None:
    setup, port = setup.with_queue(queue), find_free_port()
    client = started.enter_context(setup.start_client(tmp_path / "client", *WAIT, "--metrics-port", port))
    wait_until(lambda: read_metric(port, RETRIES) > 5)
    worker = started.enter_context(setup.start_worker(tmp_path / "worker"))
    client.wait_for("batch 3:")
    with open_channel(setup.broker) as channel:
        channel.queue_delete(queue)
    verdicts = verdicts_of(client, tmp_path / "client")
    assert compare_verdicts(verdicts, expected) == NO_DIFFERENCES
    assert is_all_by_cloud(verdicts)
    assert worker.err.count("was deleted") == 1
    assert len(worker.err.splitlines()) == 2


def test_a_memory_alarm_delays_a_run_without_losing_a_row(
    setup: Setup, node: ControlledBroker, worker_pool: WorkerPool, expected: pd.DataFrame,
    started: contextlib.ExitStack, tmp_path: Path,
) -> None:  # fmt: skip
    (worker,) = worker_pool.resize(1)
    impatient = ("--on-cloud-failure", "wait", "--wait-timeout", 1, "--request-timeout", 1)
    ways = {"local": LOCAL, "reject": REJECT, "impatient": impatient}
    client = started.enter_context(setup.start_client(tmp_path / "client", *WAIT))
    client.wait_for("batch 3:")
    worker.send(signal.SIGSTOP)
    node.control("set_vm_memory_high_watermark", "0.00001")
    worker.send(signal.SIGCONT)
    try:
        wait_until(lambda: "blocks publishers" in client.err)
        others = {way: started.enter_context(setup.start_client(tmp_path / way, *how)) for way, how in ways.items()}
        codes = {way: other.end() for way, other in others.items()}
    finally:
        node.control("set_vm_memory_high_watermark", "0.4")
    verdicts = verdicts_of(client, tmp_path / "client")
    assert compare_verdicts(verdicts, expected) == NO_DIFFERENCES
    assert is_all_by_cloud(verdicts)
    assert len(client.err.splitlines()) == 2  # that it is blocked, and for how long it was
    assert codes == {"local": 0, "reject": 0, "impatient": 3}
    for way in ("local", "reject"):
        reasons = set(read_verdicts(tmp_path / way)["reason"])
        assert "broker-blocked" in reasons
        assert reasons <= {"broker-blocked", "uncertain"}
    last = others["impatient"].err.splitlines()[-1]
    assert "blocks publishers: its memory or disk alarm is on (low on memory)" in last
    assert "start" not in last


def test_hostile_messages_change_no_row_and_nothing_is_unpickled(
    setup: Setup,
    worker_pool: WorkerPool,
    queue: str,
    expected: pd.DataFrame,
    started: contextlib.ExitStack,
    tmp_path: Path,
) -> None:
    (worker,), port = worker_pool.resize(1), find_free_port()
    canary = tmp_path / "canary"
    intruder = started.enter_context(Intruder(setup.with_queue(queue), setup.queue, canary, count=30).running())
    client = started.enter_context(
        setup.with_queue(queue).start_client(tmp_path / "client", *WAIT, "--metrics-port", port)
    )
    wait_until(lambda: read_metric(port, DROPPED) > 200)
    verdicts = verdicts_of(client, tmp_path / "client")
    assert compare_verdicts(verdicts, expected) == NO_DIFFERENCES
    assert is_all_by_cloud(verdicts)
    assert intruder.sent > 1000
    worker.send(signal.SIGTERM)
    assert worker.end() == 0
    assert int(re.findall(r"^stopped: .* (\d+) refused", worker.out, re.M)[0]) > 200
    assert not canary.exists()


def test_a_refused_password_is_tried_once_and_ends_with_exit_code_4(
    setup: Setup, node: ControlledBroker, started: contextlib.ExitStack, tmp_path: Path
) -> None:
    relays, scripts = [KillingRelay(node.port) for _ in range(2)], []
    for relay, name in zip(relays, ("client", "worker"), strict=True):
        there = setup.with_port(started.enter_context(relay.running()))
        start = there.start_client if name == "client" else there.start_worker
        scripts.append(started.enter_context(start(tmp_path / name, "--mq-password", "hunter2")))
    for relay, script in zip(relays, scripts, strict=True):
        assert script.end() == 4
        (line,) = script.err.splitlines()
        assert "--mq-password" in line and "hunter2" not in line
        assert relay.connections == 1


def test_no_row_is_lost_when_workers_are_stopped_under_load(
    setup: Setup, worker_pool: WorkerPool, expected: pd.DataFrame, started: contextlib.ExitStack, tmp_path: Path
) -> None:
    workers = worker_pool.resize(3)[:2]
    client = started.enter_context(setup.start_client(tmp_path, *WAIT, *PATIENT, *LOG))
    worker_pool.wait_until_ready()
    for worker, batch in zip(workers, (3, 15), strict=True):
        client.wait_for(f'"batch {batch}:')
        worker.send(signal.SIGTERM)
        assert worker.end() == 0
        assert worker.out.splitlines()[-1].startswith("stopped: ")
    verdicts = verdicts_of(client, tmp_path)
    assert compare_verdicts(verdicts, expected) == NO_DIFFERENCES
    assert is_all_by_cloud(verdicts)
    assert max(end - start for start, end in client.read_round_trips()) < AGES


def test_clients_stopped_or_killed_under_load_continue_where_they_stopped(
    setup: Setup, worker_pool: WorkerPool, expected: pd.DataFrame, started: contextlib.ExitStack, tmp_path: Path
) -> None:
    worker_pool.resize(1)
    ways = {"stopped": (signal.SIGTERM, 0), "killed": (signal.SIGKILL, -signal.SIGKILL)}
    clients = start_held(lambda way: started.enter_context(setup.start_client(tmp_path / way, *WAIT)), *ways)
    for way, client in clients.items():
        client.send(ways[way][0])
    release(*clients.values())
    for way, client in clients.items():
        assert client.end() == ways[way][1]
        assert 0 < len(read_verdicts(tmp_path / way)) < EVENTS
        clients[way] = started.enter_context(setup.start_client(tmp_path / way, *WAIT, "--resume"))
    for way, client in clients.items():
        verdicts = verdicts_of(client, tmp_path / way)
        assert compare_verdicts(verdicts, expected) == NO_DIFFERENCES
        assert is_all_by_cloud(verdicts)


@dataclass(frozen=True)
class Outage:
    """What clients of each policy, and one begun without a broker, made of a broker that was killed and came back."""

    verdicts: dict[str, pd.DataFrame]
    clients: dict[str, Script]
    workers: list[Script]
    opened: float


@pytest.fixture(scope="module")
def outage(setup: Setup, node: ControlledBroker, worker_pool: WorkerPool, folder: Path) -> Iterator[Outage]:
    policies = {"wait": (*WAIT, *LOG), "local": LOCAL, "reject": REJECT}
    folders = {way: folder / f"outage-{way}" for way in (*policies, "late")}
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
        workers = worker_pool.resize(2)
        worker_pool.wait_until_ready()
        clients = start_held(
            lambda way: stack.enter_context(setup.start_client(folders[way], *policies[way])), *policies
        )
        node.kill()
        release(*clients.values())
        clients["late"] = stack.enter_context(setup.start_client(folders["late"], *WAIT))
        # Those who do not wait need no broker to come to an end.
        verdicts = {way: verdicts_of(clients[way], folders[way]) for way in ("local", "reject")}
        wait_until(lambda: "no RabbitMQ at" in clients["late"].err)
        opened = pool.submit(wait_for_port, node.port)
        node.start()
        verdicts |= {way: verdicts_of(clients[way], folders[way]) for way in ("wait", "late")}
        yield Outage(verdicts, clients, workers, opened.result())


@pytest.mark.parametrize("way", ["wait", "late", "local"])
def test_no_row_is_lost_when_the_broker_is_killed_or_late(way: str, outage: Outage, expected: pd.DataFrame) -> None:
    assert compare_verdicts(outage.verdicts[way], expected) == NO_DIFFERENCES


@pytest.mark.parametrize("way", ["wait", "late"])
def test_with_the_policy_wait_the_cloud_answers_all_events(way: str, outage: Outage) -> None:
    assert is_all_by_cloud(outage.verdicts[way])


def test_with_the_policy_local_the_rows_give_the_reason(outage: Outage) -> None:
    verdicts = outage.verdicts["local"]
    is_local = verdicts["decider"] == "local"
    assert 0 < is_local.sum() < EVENTS
    assert set(verdicts.loc[is_local, "reason"]) <= {"no-connection", "circuit-open"}
    assert is_all_by_cloud(verdicts[~is_local])


def test_with_the_policy_reject_each_event_has_a_row_with_the_reason(outage: Outage, expected: pd.DataFrame) -> None:
    verdicts = outage.verdicts["reject"]
    rejected = verdicts["reason"].isin({"no-connection", "circuit-open"})
    assert 0 < rejected.sum() < EVENTS
    assert set(verdicts.loc[rejected, "final_prediction"]) == {"rejected"}
    assert is_all_by_cloud(verdicts[~rejected])
    assert compare_verdicts(verdicts, expected) == Differences(unanswered=int(rejected.sum()))


def test_a_run_continues_when_its_broker_returns(outage: Outage) -> None:
    assert any(end > outage.opened for _, end in outage.clients["wait"].read_round_trips())


def test_an_outage_and_its_end_are_logged_in_one_line_each(outage: Outage) -> None:
    def told(script: Script) -> list[str]:
        return [line for line in script.error_lines if "a client left" not in line]

    # One worker may be back only after the other has answered everything.
    wait_until(lambda: all(len(told(worker)) == 2 for worker in outage.workers))
    for script in (*outage.workers, outage.clients["wait"], outage.clients["late"]):
        lost, back = told(script)
        assert "no RabbitMQ at" in lost
        assert "RabbitMQ is back after" in back
