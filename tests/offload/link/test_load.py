import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.checkpoint import read_two_exits
from models.onnx_export import write_edge_model
from offload.link.broker import PASSWORD_VARIABLE, Broker
from offload.link.load import COLUMNS, Pace, RequestResult, draw_load, send_requests, summarize_load, tabulate_results
from offload.link.pending_requests import RetryPolicy
from offload.link.private_broker import find_free_port
from offload.link.protocol import RequestTemplate
from offload.link.responder import Responder
from offload.link.worker import Worker
from offload.link.worker_settings import WorkerSettings
from offload.operations.metrics import WorkerMetrics
from tests.networks import SAMPLE
from tests.offload.exits import served
from tests.offload.link_ends import FINGERPRINT, Sleeper, make_client, make_worker, run_worker
from tests.scripts import GENERATOR, ROOT, Ended, call
from utils.dataset import read_dataset
from utils.plotting import save_figure
from utils.stopping import Stop

EVENTS = np.random.default_rng(1).random((3, 58)).astype(np.float32)


def table_of(*results: tuple[int, float, float, int, str]) -> pd.DataFrame:
    return tabulate_results([RequestResult(*one) for one in results])


def test_a_load_is_summarized() -> None:
    table = table_of((0, 0.0, 0.010, 5, "answered"), (1, 0.5, 0.030, 5, "answered"), (0, 0.8, 0.2, 5, "timed-out"))
    load = summarize_load(table)
    assert (load.requests, load.answered, load.events, load.errors) == (3, 2, 10, {"timed-out": 1})
    assert load.seconds == pytest.approx(1.0)
    assert load.percentiles[50] == pytest.approx(0.020)
    assert load.percentiles[100] == pytest.approx(0.030)
    assert "3 requests, 2 answered, 10 events in 1.00 s: 2.0 requests/s, 10.0 events/s" in load.summarize()
    assert "p50 20.00 ms" in load.summarize() and "errors: 1 timed-out" in load.summarize()


def test_a_load_without_answers_or_requests_has_a_summary() -> None:
    assert "errors: 1 no-queue" in summarize_load(table_of((0, 0.0, 0.01, 5, "no-queue"))).summarize()
    assert summarize_load(table_of()).requests == 0


def test_the_table_is_sorted_by_start() -> None:
    table = table_of((0, 2.0, 0.1, 1, "answered"), (1, 1.0, 0.1, 1, "answered"))
    assert tuple(table.columns) == COLUMNS
    assert table["client"].tolist() == [1, 0]


@pytest.mark.parametrize("results", [("answered", "answered"), ("answered", "timed-out"), ("timed-out", "no-queue")])
def test_a_picture_is_drawn_for_any_results(results: tuple[str, str], tmp_path: Path) -> None:
    table = table_of(*((0, float(i), 0.01 * (i + 1), 1, result) for i, result in enumerate(results)))
    assert save_figure(draw_load("2 $clients", table), tmp_path / "load.png").stat().st_size > 10_000


def test_all_clients_send_at_once_with_one_request_in_flight_each(link: Broker, queue: str) -> None:
    sleeper = Sleeper(0.02)
    with (
        run_worker(make_worker(link, queue, sleeper)),
        make_client(link, queue) as one,
        make_client(link, queue) as two,
    ):
        templates = [RequestTemplate(FINGERPRINT, name, "features") for name in ("one", "two")]
        results = send_requests([one, two], templates, [EVENTS, EVENTS], Pace(10, 0.0), Stop(), lambda _done: None)
    assert [(number, sum(a.client == number for a in results)) for number in (0, 1)] == [(0, 10), (1, 10)]
    assert {a.result for a in results} == {"answered"}
    for batch in sleeper.batches:
        clients = [request.client_id for request in batch]
        assert len(set(clients)) == len(clients)


def test_an_interval_spaces_the_starts(link: Broker, queue: str) -> None:
    with run_worker(make_worker(link, queue)), make_client(link, queue) as client:
        templates = [RequestTemplate(FINGERPRINT, "one", "features")]
        results = send_requests([client], templates, [EVENTS], Pace(4, 0.2), Stop(), lambda _done: None)
    assert np.diff([a.start for a in results]).min() >= 0.2


def test_a_load_test_can_be_stopped(link: Broker, queue: str) -> None:
    stop = Stop()
    with run_worker(make_worker(link, queue, Sleeper(0.01))), make_client(link, queue) as client:
        templates = [RequestTemplate(FINGERPRINT, "one", "features")]
        stop_after_one = lambda done: stop.request() if done else None  # noqa: E731
        results = send_requests([client], templates, [EVENTS], Pace(10**9, 0.0), stop, stop_after_one)
    assert 1 <= len(results) < 10**9


def test_unanswered_requests_are_counted_by_reason(link: Broker, queue: str) -> None:
    with make_client(link, queue, RetryPolicy.from_options(0.2, 0)) as client:
        templates = [RequestTemplate(FINGERPRINT, "one", "features")]
        results = send_requests([client], templates, [EVENTS], Pace(5, 0.0), Stop(), lambda _done: None)
    assert {a.result for a in results} == {"no-queue", "circuit-open"}


@pytest.fixture
def worker(link: Broker, queue: str, checkpoint: Path) -> Iterator[None]:
    """A worker with the checkpoint's network."""
    network, _ = read_two_exits(checkpoint)
    with run_worker(Worker(link, queue, Responder(*served(network), "cloud:1"), WorkerSettings(), WorkerMetrics())):
        yield


@pytest.fixture
def generator(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, link: Broker, queue: str, checkpoint: Path,
    sample: Path,
) -> Callable[..., Ended]:  # fmt: skip
    monkeypatch.setenv(PASSWORD_VARIABLE, link.password)
    arguments = (
        "--mq-hostname", "127.0.0.1", "--mq-port", link.hosts[0].port, "--mq-username", link.username, "--mq-queue",
        queue, "--trained-network-file", checkpoint, "--network", "mobilenet", "--dataset", sample / "2016_03.csv",
    )  # fmt: skip
    return lambda *more: call(capsys, GENERATOR, *arguments, *more)


@pytest.mark.parametrize("payload", [("features",), ("activations",), ("activations", "--half-precision")])
def test_the_generator_reports_and_writes_every_request(
    payload: tuple[str, ...], worker: None, generator: Callable[..., Ended], tmp_path: Path
) -> None:
    assert worker is None
    files = ("--savefile", tmp_path / "load.csv", "--picture", tmp_path / "load.svg")
    ended = generator("--clients", 3, "--batch-size", 7, "--count", 4, "--payload", *payload, *files)
    assert ended.code == 0, ended.err
    assert re.search(r"^12 requests, 12 answered, 84 events in \S+ s: \S+ requests/s, \S+ events/s$", ended.out, re.M)
    assert re.search(r"^round trip p50 \S+ ms, p90 .*; errors: none$", ended.out, re.M)
    table = pd.read_csv(tmp_path / "load.csv")
    assert tuple(table.columns) == COLUMNS
    assert table["client"].value_counts().to_dict() == {0: 4, 1: 4, 2: 4}
    assert (tmp_path / "load.svg").read_text().startswith("<?xml")


def test_the_generator_takes_an_exported_file_without_importing_torch(checkpoint: Path, tmp_path: Path) -> None:
    edge = tmp_path / "edge.onnx"
    write_edge_model(edge, read_two_exits(checkpoint)[0], read_dataset(SAMPLE).features[:5])
    program = (
        "import runpy, sys\nsys.modules['torch'] = sys.modules['onnx'] = None\ndel sys.argv[0]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    arguments = (
        GENERATOR, "--trained-network-file", edge, "--dataset", SAMPLE, "--payload", "activations", "--count", 1,
        "--mq-hostname", "127.0.0.1", "--mq-port", find_free_port(),
    )  # fmt: skip
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "cpu (ONNX Runtime, threads: 1)" in done.stdout + done.stderr
    assert (done.returncode, "no RabbitMQ at" in done.stderr) == (3, True), done.stderr


def test_the_generator_ends_with_exit_code_3_if_requests_are_not_answered(
    generator: Callable[..., Ended], tmp_path: Path
) -> None:
    ended = generator("--clients", 2, "--count", 2, "--retries", 0, "--savefile", tmp_path / "load.csv")
    assert ended.code == 3
    assert "4 of 4 requests were not answered" in ended.err
    assert set(pd.read_csv(tmp_path / "load.csv")["result"]) == {"no-queue"}


def test_the_generator_without_a_broker_ends_with_exit_code_3_in_time(generator: Callable[..., Ended]) -> None:
    ended = generator("--mq-port", find_free_port(), "--count", 1)
    assert ended.code == 3
    assert "no RabbitMQ at" in ended.err


def test_the_generator_with_a_wrong_password_ends_with_exit_code_4(generator: Callable[..., Ended]) -> None:
    ended = generator("--mq-password", "hunter2")
    assert ended.code == 4
    assert "hunter2" not in ended.out + ended.err
