import contextlib
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import offload.worker
from models.checkpoint import read_two_exits
from models.prediction import select_device
from offload import rabbitmq
from offload.broker import Broker
from offload.cloud import Cloud
from offload.private_broker import free_port
from offload.protocol import FEATURES, Answer, Refusal, Request, decode_reply, encode_request, new_id
from offload.rabbitmq import RequestChannel
from offload.worker import Worker
from tests.offload.link import REPLY_TO, Relay, SlowWorker, connected, publish, serving, wait_until, waiting_in
from utils.dataset import read_dataset
from utils.errors import BrokerRefusedError, CloudError, CloudUnavailableError


def upper(body: bytes, _request_id: str) -> bytes:
    return body.upper()


def ask(link: Broker, queue: str, body: bytes, timeout: float = 20.0) -> bytes:
    with RequestChannel(link, queue) as channel:
        return channel.ask(body, new_id(), timeout)


class Clients:
    """Clients in threads, each with one request."""

    def __init__(self, link: Broker, queue: str) -> None:
        self._executor = ThreadPoolExecutor(8)
        self._ask: Callable[[bytes], bytes] = lambda body: ask(link, queue, body)

    def send(self, *bodies: bytes) -> list[Future[bytes]]:
        return [self._executor.submit(self._ask, body) for body in bodies]


def replies(asking: list[Future[bytes]]) -> list[bytes]:
    return [future.result(30) for future in asking]


def test_requests_of_many_clients_are_answered_each_with_its_own_reply(link: Broker, queue: str) -> None:
    bodies = [f"request {number}".encode() for number in range(40)]
    worker = Worker(link, queue, upper)
    with serving(worker):
        assert replies(Clients(link, queue).send(*bodies)) == [body.upper() for body in bodies]
    assert worker.answered == 40
    assert worker.dropped == 0


def test_two_workers_on_one_queue_share_its_requests(link: Broker, queue: str) -> None:
    def answer(body: bytes, _request_id: str) -> bytes:
        time.sleep(0.02)
        return body.upper()

    first, second = Worker(link, queue, answer), Worker(link, queue, answer)
    with serving(first), serving(second):
        assert replies(Clients(link, queue).send(*[b"a"] * 40)) == [b"A"] * 40
    assert first.answered + second.answered == 40
    assert min(first.answered, second.answered) >= 8


def test_a_request_is_computed_off_the_thread_that_owns_the_connection_and_one_at_a_time(
    link: Broker, queue: str
) -> None:
    threads, running, most = set(), [0], [0]

    def answer(body: bytes, _request_id: str) -> bytes:
        threads.add(threading.current_thread().name)
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.01)
        running[0] -= 1
        return body

    with serving(Worker(link, queue, answer)):
        replies(Clients(link, queue).send(*[b"a"] * 10))
    assert threads == {"compute"}
    assert most == [1]


def test_a_long_inference_does_not_starve_the_heartbeats(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq, "HEARTBEAT", 1)  # the broker gives up on a connection after two of them
    computed = []

    def answer(body: bytes, _request_id: str) -> bytes:
        computed.append(body)
        time.sleep(3)
        return body.upper()

    with serving(Worker(link, queue, answer)) as ready:
        assert ask(link, queue, b"long") == b"LONG"
    assert computed == [b"long"]
    assert len(ready) == 1


def test_garbage_gets_a_refusal_and_the_worker_lives_on(
    link: Broker, queue: str, checkpoint: Path, sample: Path
) -> None:
    network, _ = read_two_exits(checkpoint)
    cloud = Cloud(network, select_device("cpu"), "cloud:1")
    features = read_dataset(sample / "2016_03.csv").features[:20]
    request = Request(new_id(), "edge:1", cloud.limits.fingerprint, FEATURES, features)
    worker = Worker(link, queue, lambda body, request_id: cloud.answer(body, request_id)[0])
    with serving(worker), RequestChannel(link, queue) as channel:
        for garbage in (b"", b"garbage", bytes(100), encode_request(request)[:-1]):
            refusal = decode_reply(channel.ask(garbage, request.request_id, 10), request)
            assert isinstance(refusal, Refusal) and refusal.code == "malformed"
        answer = decode_reply(channel.ask(encode_request(request), request.request_id, 10), request)
        assert isinstance(answer, Answer)
    assert worker.answered == 5
    assert (cloud.events, cloud.refused) == (20, 4)


def test_a_request_whose_worker_is_killed_in_mid_inference_is_answered_by_another(
    link: Broker, queue: str, tmp_path: Path
) -> None:
    with SlowWorker(tmp_path, link, queue) as victim:
        victim.wait_for("ready")
        asking = Clients(link, queue).send(b"precious")
        victim.wait_for("computing precious")
        with serving(Worker(link, queue, upper)):
            assert not asking[0].done()
            killed = time.monotonic()
            victim.send(signal.SIGKILL)
            assert replies(asking) == [b"PRECIOUS"]
            assert time.monotonic() - killed < 2
        assert victim.end() == -signal.SIGKILL
    assert waiting_in(link, queue) == 0


def test_a_worker_told_to_stop_finishes_its_request_gives_the_others_back_and_ends_well(
    link: Broker, queue: str, tmp_path: Path
) -> None:
    clients = Clients(link, queue)
    with SlowWorker(tmp_path, link, queue) as leaving:
        leaving.wait_for("ready")
        running = clients.send(b"running")
        leaving.wait_for("computing running")
        waiting = clients.send(b"second", b"third")
        time.sleep(0.5)
        assert waiting_in(link, queue) == 0, "the worker holds them"
        leaving.send(signal.SIGTERM)
        with serving(Worker(link, queue, upper)):
            assert replies(waiting) == [b"SECOND", b"THIRD"]
            assert not running[0].done()
            leaving.release()
            assert replies(running) == [b"RUNNING"]
        assert leaving.end() == 0
        assert leaving.out.split("\n") == ["ready", "computing running", "answered 1", ""]
        assert leaving.err == ""


def test_an_idle_worker_stops_at_once(link: Broker, queue: str) -> None:
    with serving(Worker(link, queue, upper)):
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 1.5


def test_a_worker_told_to_stop_before_it_runs_does_not_connect(queue: str) -> None:
    worker = Worker(Broker("127.0.0.1", free_port()), queue, upper)
    worker.stop()
    worker.run(lambda: pytest.fail("it connected"))


def test_a_client_that_left_before_its_reply_is_counted_and_its_request_acknowledged(link: Broker, queue: str) -> None:
    worker = Worker(link, queue, upper)
    with serving(worker):
        publish(link, queue, b"a", correlation_id=new_id(), reply_to=REPLY_TO)
        assert ask(link, queue, b"b") == b"B"
    assert worker.answered == 2
    assert worker.dropped == 1
    assert waiting_in(link, queue) == 0


def test_messages_without_a_sender_are_counted_over_reconnections(link: Broker, queue: str) -> None:
    worker = Worker(link, queue, upper)
    with serving(worker) as ready:
        publish(link, queue, b"a")
        assert ask(link, queue, b"b") == b"B"
        with connected(link) as channel:
            channel.queue_delete(queue)
        wait_until(lambda: len(ready) == 2)
        publish(link, queue, b"a", correlation_id="someone")
        assert ask(link, queue, b"c") == b"C"
    assert worker.dropped == 2
    assert worker.answered == 2


def test_a_queue_deleted_under_its_worker_is_declared_again(link: Broker, queue: str) -> None:
    with serving(Worker(link, queue, upper)) as ready:
        with connected(link) as channel:
            channel.queue_delete(queue)
        wait_until(lambda: len(ready) == 2)
        assert ready[1] - ready[0] < 5
        assert ask(link, queue, b"again") == b"AGAIN"


def test_a_worker_that_cannot_compute_ends_with_its_error_and_leaves_the_request_to_others(
    link: Broker, queue: str
) -> None:
    def fail(_body: bytes, _request_id: str) -> bytes:
        raise BrokenPipeError("no one reads the log")

    asking: list[Future[bytes]] = []
    started = time.monotonic()
    with pytest.raises(BrokenPipeError), serving(Worker(link, queue, fail)):
        asking += Clients(link, queue).send(b"precious")
        time.sleep(0.5)
    assert time.monotonic() - started < 5
    with serving(Worker(link, queue, upper)):
        assert replies(asking) == [b"PRECIOUS"]


def test_a_broker_that_is_not_there_at_the_start_is_an_error_at_once() -> None:
    start, worker = time.monotonic(), Worker(Broker("127.0.0.1", free_port()), "q", upper)
    with pytest.raises(CloudUnavailableError, match="connection refused"), serving(worker):
        assert time.monotonic() - start < 3


def test_a_broker_that_refuses_the_worker_is_not_asked_again(link: Broker, queue: str) -> None:
    start, worker = time.monotonic(), Worker(replace(link, password="wrong"), queue, upper)
    with pytest.raises(BrokerRefusedError), serving(worker):
        assert time.monotonic() - start < 3


def test_a_queue_with_other_settings_ends_the_worker(link: Broker, queue: str) -> None:
    with connected(link) as channel:
        channel.queue_declare(queue)
    start, worker = time.monotonic(), Worker(link, queue, upper)
    with pytest.raises(CloudError, match="exists with other settings"), serving(worker):
        assert time.monotonic() - start < 3


@contextmanager
def losing_its_broker(link: Broker, queue: str) -> Iterator[list[float]]:
    """Run a worker whose broker answers no more; yield the times at which it was ready."""
    relay = Relay(link.port)
    with contextlib.ExitStack() as broker:
        port = broker.enter_context(relay.running())
        with serving(Worker(replace(link, port=port), queue, upper)) as ready:
            broker.close()
            yield ready


def test_a_worker_asks_a_lost_broker_again_after_growing_but_bounded_pauses(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert offload.worker.LONGEST_PAUSE < 5
    monkeypatch.setattr(offload.worker, "SHORTEST_PAUSE", 0.1)
    monkeypatch.setattr(offload.worker, "LONGEST_PAUSE", 0.3)
    with losing_its_broker(link, queue) as ready:
        wait_until(lambda: caplog.text.count("trying again") >= 4)
        assert len(ready) == 1
    assert re.findall(r"trying again in (\S+) s", caplog.text)[:4] == ["0.1", "0.2", "0.3", "0.3"]


def test_a_worker_told_to_stop_while_its_broker_is_away_stops_at_once(
    link: Broker, queue: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(offload.worker, "SHORTEST_PAUSE", 20.0)
    with losing_its_broker(link, queue):
        wait_until(lambda: "trying again in 20.0 s" in caplog.text)
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 2
