import contextlib
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.calibrated import CalibratedNetwork
from models.checkpoint import read_two_exits, write_checkpoint
from models.prediction import predict
from offload.broker import Broker
from offload.options import PASSWORD_VARIABLE
from offload.private_broker import free_port
from offload.protocol import new_id
from tests.captures import SHARED
from tests.offload.link import Program, connected
from tests.scripts import CLIENT, SERVER, Ended, call
from utils.dataset import read_dataset
from utils.metrics import certainty
from utils.schema import OFFLOAD_COLUMNS

BATCH = 100
ALL_OFFLOADED = (
    "--normal-exit1-min-certainty", 1, "--attack-exit1-min-certainty", 1,
    "--normal-exit2-min-certainty", 0.7, "--attack-exit2-min-certainty", 0.63,
)  # fmt: skip
WAYS = {
    "features": ("--payload", "features", "--debug"),
    "activations": ("--payload", "activations"),
    "locally": ("--process-exit2-locally",),
}


@pytest.fixture(scope="module")
def month(sample: Path) -> Path:
    """A whole real month where the shared folder is at hand, else a synthetic one."""
    real = SHARED / "data" / "dataset" / "2016_03.csv"
    return real if real.exists() else sample / "2016_03.csv"


@pytest.fixture(scope="module")
def options(link: Broker, checkpoint: Path) -> tuple[object, ...]:
    """What both ends are told, but for the queue."""
    return (
        "--mq-hostname", link.hostname, "--mq-port", link.port, "--mq-username", link.username,
        "--trained-network-file", checkpoint, "--network", "MobileNet",
    )  # fmt: skip


@pytest.fixture(scope="module")
def requests(link: Broker) -> Iterator[str]:
    """The workers' queue."""
    name = f"requests.{new_id()}"
    yield name
    with connected(link) as channel:
        channel.queue_delete(name)


@pytest.fixture(scope="module")
def workers(
    options: tuple[object, ...], requests: str, link: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Program]]:
    """Two workers on one queue."""
    password = {PASSWORD_VARIABLE: link.password}
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(
                Program(tmp_path_factory.mktemp("worker"), SERVER, *options, "--mq-queue", requests, **password)
            )
            for _ in range(2)
        ]
        for worker in running:
            worker.wait_for("ready: MobileNetV2WithExits")
        yield running


@dataclass(frozen=True)
class Decided:
    """What a client's run over the month left behind."""

    verdicts: pd.DataFrame
    out: str
    err: str


@pytest.fixture(scope="module")
def decided(
    workers: list[Program], options: tuple[object, ...], requests: str, link: Broker, month: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Decided]:  # fmt: skip
    """The month, every event offloaded, by each way of asking exit 2; three clients at once."""
    assert len(workers) == 2
    clients, folders = {}, {way: tmp_path_factory.mktemp(way) for way in WAYS}
    with contextlib.ExitStack() as stack:
        for way, how in WAYS.items():
            arguments = (*options, "--mq-queue", requests, "--dataset", month, "--batch-size", BATCH, *ALL_OFFLOADED)
            output = ("--savefile", folders[way] / "verdicts.csv", "--request-timeout", 60)
            client = Program(folders[way], CLIENT, *arguments, *output, *how, **{PASSWORD_VARIABLE: link.password})
            clients[way] = stack.enter_context(client)
        for way, client in clients.items():
            assert client.end(60) == 0, (way, client.err)
    return {
        way: Decided(pd.read_csv(folders[way] / "verdicts.csv", keep_default_na=False), client.out, client.err)
        for way, client in clients.items()
    }


@pytest.mark.parametrize("payload", ["features", "activations"])
def test_offloaded_exit_2_is_local_exit_2_on_every_row_of_a_month(payload: str, decided: dict[str, Decided]) -> None:
    remote, local = decided[payload].verdicts, decided["locally"].verdicts
    assert len(remote) == len(local)
    assert set(remote["exit_2_prediction"]) == {0, 1}
    for column in ("exit_1_prediction", "exit_2_prediction", "final_prediction", "class"):
        assert (remote[column] == local[column]).all()
    for column in ("exit_1_certainty", "exit_2_certainty", "final_certainty"):
        assert (remote[column].astype(float) - local[column].astype(float)).abs().max() <= 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_the_csv_has_one_row_for_each_row_of_the_dataset_in_its_order(
    way: str, decided: dict[str, Decided], month: Path, checkpoint: Path
) -> None:
    verdicts, dataset = decided[way].verdicts, read_dataset(month)
    assert tuple(verdicts.columns) == OFFLOAD_COLUMNS
    assert dataset.labels is not None
    assert verdicts["class"].tolist() == dataset.labels.tolist()
    network, _ = read_two_exits(checkpoint)
    chosen = np.linspace(0, len(dataset) - 1, 100, dtype=np.int64)
    for exit_number, logits in enumerate(predict(network, dataset.features[chosen], len(chosen)), 1):
        predictions, certainties = certainty(logits)
        rows = verdicts.iloc[chosen]
        assert rows[f"exit_{exit_number}_prediction"].tolist() == predictions.tolist()
        assert np.allclose(rows[f"exit_{exit_number}_certainty"].astype(float), certainties, rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_the_client_reports_each_batch_and_then_the_whole(way: str, decided: dict[str, Decided], month: Path) -> None:
    events, out = len(read_dataset(month)), decided[way].out
    batches = re.findall(r"^batch (\d+): (\d+) events, offloaded \2 \(100\.0 %\)", out, re.MULTILINE)
    assert [int(number) for number, _ in batches] == list(range(1, -(-events // BATCH) + 1))
    assert sum(int(size) for _, size in batches) == events
    assert f"total: {events} events, offloaded {events} (100.0 %)" in out
    rejected = (decided[way].verdicts["final_prediction"] == "rejected").sum()
    assert f", rejected {rejected} (" in out[out.index("total: ") :]
    assert f"{events} rows -> " in out


def test_features_take_a_small_part_of_the_bytes_of_activations(decided: dict[str, Decided]) -> None:
    sent = {way: float(re.findall(r"link: (\S+) MB sent", decided[way].out)[0]) for way in ("features", "activations")}
    assert sent["activations"] > 40 * sent["features"] > 0
    assert "link:" not in decided["locally"].out


def test_both_workers_of_a_queue_get_work(decided: dict[str, Decided], workers: list[Program]) -> None:
    assert decided
    for worker in workers:
        assert worker.out.count("events (features)") > 3
        assert worker.out.count("events (activations)") > 3


def test_debug_shows_the_requests_and_rabbitmq_but_not_the_password(
    decided: dict[str, Decided], link: Broker, workers: list[Program]
) -> None:
    assert re.search(r"offload\.rabbitmq [0-9a-f]{32}: \d+ bytes, answered by \d+ in", decided["features"].err)
    assert "pika.adapters" in decided["features"].err
    assert decided["activations"].err == ""
    for text in (*(run.out + run.err for run in decided.values()), *(worker.out + worker.err for worker in workers)):
        assert link.password not in text


@pytest.fixture
def client(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...], link: Broker,
    sample: Path, queue: str,
) -> Callable[..., Ended]:  # fmt: skip
    """The client as a function of further arguments, on the sample and a queue that no one serves."""
    monkeypatch.setenv(PASSWORD_VARIABLE, link.password)
    dataset = ("--dataset", sample / "2016_03.csv", "--mq-queue", queue)
    return lambda *arguments: call(capsys, CLIENT, *options, *dataset, *arguments)


@pytest.fixture
def server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...], link: Broker,
    queue: str,
) -> Iterator[Callable[..., Ended]]:  # fmt: skip
    """The worker as a function of further arguments, for runs that end by themselves."""
    monkeypatch.setenv(PASSWORD_VARIABLE, link.password)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield lambda *arguments: call(capsys, SERVER, *options, "--mq-queue", queue, *arguments)
    for number, handler in before.items():
        signal.signal(number, handler)


def one_line(ended: Ended) -> str:
    """Return the only line of an error."""
    assert "Traceback" not in ended.err
    (line,) = ended.err.splitlines()
    return line.partition("error: ")[2]


def test_an_answer_of_another_network_is_refused_and_leaves_no_csv(
    workers: list[Program], requests: str, client: Callable[..., Ended], checkpoint: Path, tmp_path: Path
) -> None:
    network, _ = read_two_exits(checkpoint)
    assert isinstance(network, CalibratedNetwork)
    other, output = tmp_path / "other.pth", tmp_path / "out"
    write_checkpoint(other, CalibratedNetwork(network.model, (1.0, 3.0)), {})
    ended = client("--mq-queue", requests, "--trained-network-file", other, "--savefile", output / "verdicts.csv")
    assert ended.code == 2
    assert "wrong-model" in one_line(ended)
    assert "same checkpoint" in one_line(ended)
    assert list(output.iterdir()) == []
    assert any("refused: wrong-model" in worker.out for worker in workers)


def test_an_interrupted_client_leaves_no_csv(
    workers: list[Program], options: tuple[object, ...], requests: str, link: Broker, month: Path, tmp_path: Path
) -> None:
    assert workers
    output = tmp_path / "results" / "verdicts.csv"
    arguments = (*options, "--mq-queue", requests, "--dataset", month, "--batch-size", 5, "--savefile", output)
    with Program(tmp_path, CLIENT, *arguments, **{PASSWORD_VARIABLE: link.password}) as running:
        running.wait_for("batch 3:")
        assert len(list(output.parent.iterdir())) == 1, "nothing is being written"
        running.send(signal.SIGINT)
        assert running.end() == 130
        assert running.err == "ee-processor-client.py: interrupted\n"
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize("network", ["resnet", "mobile", "", "AlexNet_"])
def test_an_unknown_network_is_an_error_and_never_another_network(network: str, client: Callable[..., Ended]) -> None:
    ended = client("--network", network)
    assert ended.code == 2
    assert f"{network!r} is unknown; choose from alexnet, mobilenet" in ended.err


def test_a_checkpoint_of_the_other_network_is_an_error_on_both_sides_that_names_both(
    client: Callable[..., Ended], server: Callable[..., Ended]
) -> None:
    for end in (client, server):
        ended = end("--network", "ALEXNET")
        assert ended.code == 2
        assert "MobileNetV2WithExits" in one_line(ended) and "alexnet" in one_line(ended)


@pytest.mark.parametrize("place", ["folder", "file/verdicts.csv", "file/deeper/verdicts.csv"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_else_is_looked_at(
    place: str, client: Callable[..., Ended], tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    missing = tmp_path / "missing"
    ended = client("--savefile", tmp_path / place, "--trained-network-file", missing, "--dataset", missing)
    assert ended.code == 2
    assert str(tmp_path / place.partition("/")[0]) in one_line(ended)
    assert "missing" not in one_line(ended)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--mq-port", 0), "65535"),
        (("--mq-port", 65536), "65535"),
        (("--normal-exit1-min-certainty", 1.5), "between 0 and 1"),
        (("--attack-exit2-min-certainty", "nan"), "between 0 and 1"),
        (("--batch-size", 0), "at least 1"),
        (("--request-timeout", 0), "between 0.1"),
        (("--payload", "pickle"), "invalid choice"),
        (("--mq-queue", ""), "1 to 255 bytes"),
        (("--mq-queue", "é" * 128), "1 to 255 bytes"),
        (("--mq-vhost", "v" * 256), "1 to 255 bytes"),
        (("--mq-hostname", "edge..example"), "unknown host name"),
        (("--device", "tpu"), "--device 'tpu' is unknown"),
    ],
)
def test_an_argument_out_of_range_is_an_error_that_says_what_is_taken(
    arguments: tuple[object, ...], said: str, client: Callable[..., Ended]
) -> None:
    ended = client(*arguments)
    assert ended.code in {2, 3}
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_a_client_without_a_host_says_what_to_do(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, sample: Path
) -> None:
    dataset = ("--dataset", sample / "2016_03.csv")
    ended = call(capsys, CLIENT, "--trained-network-file", checkpoint, "--network", "mobilenet", *dataset)
    assert ended.code == 2
    assert "--mq-hostname" in one_line(ended) and "--process-exit2-locally" in one_line(ended)


def test_no_broker_is_exit_code_3_on_both_sides(client: Callable[..., Ended], server: Callable[..., Ended]) -> None:
    for end in (client, server):
        port = free_port()
        ended = end("--mq-port", port)
        assert ended.code == 3
        assert f"no RabbitMQ at 127.0.0.1:{port} (connection refused)" in one_line(ended)


def test_a_refused_password_is_exit_code_4_on_both_sides_and_shows_nowhere(
    client: Callable[..., Ended], server: Callable[..., Ended]
) -> None:
    for end in (client, server):
        ended = end("--mq-password", "hunter2")
        assert ended.code == 4
        assert "--mq-password" in one_line(ended)
        assert "hunter2" not in ended.out + ended.err


def test_a_refused_virtual_host_is_exit_code_4_on_both_sides(
    client: Callable[..., Ended], server: Callable[..., Ended]
) -> None:
    for end in (client, server):
        ended = end("--mq-vhost", "elsewhere")
        assert ended.code == 4
        assert "'elsewhere'" in one_line(ended)


def test_a_queue_with_other_settings_ends_the_worker_in_one_line(
    server: Callable[..., Ended], link: Broker, queue: str
) -> None:
    with connected(link) as channel:
        channel.queue_declare(queue, durable=True)
    ended = server()
    assert ended.code == 2
    assert f"queue {queue!r}" in one_line(ended) and "delete it" in one_line(ended)


def test_without_a_worker_the_client_gives_up_in_time_and_leaves_an_older_csv_as_it_was(
    client: Callable[..., Ended], tmp_path: Path
) -> None:
    older = tmp_path / "verdicts.csv"
    older.write_text("older")
    start = time.monotonic()
    ended = client("--request-timeout", 0.5, "--savefile", older)
    assert time.monotonic() - start < 10
    assert ended.code == 3
    assert "start a worker with offload/ee-processor-server.py" in one_line(ended)
    assert [path.name for path in tmp_path.iterdir()] == ["verdicts.csv"]
    assert older.read_text() == "older"


def test_where_every_event_is_certain_no_worker_is_needed(client: Callable[..., Ended], tmp_path: Path) -> None:
    certain = ("--normal-exit1-min-certainty", 0, "--attack-exit1-min-certainty", 0)
    ended = client(*certain, "--savefile", tmp_path / "verdicts.csv")
    assert ended.code == 0
    assert "link: 0.00 MB sent, 0.00 MB received" in ended.out
    verdicts = pd.read_csv(tmp_path / "verdicts.csv", keep_default_na=False)
    assert set(verdicts["exit_2_prediction"]) == set(verdicts["exit_2_certainty"]) == {"N/A"}


def test_workers_told_to_stop_end_well_and_say_what_they_did(
    decided: dict[str, Decided], workers: list[Program]
) -> None:
    done = 0
    for worker, number in zip(workers, (signal.SIGTERM, signal.SIGINT), strict=True):
        worker.send(number)
    for worker in workers:
        assert worker.end() == 0
        assert set(worker.err.splitlines()) <= {"a client left before its reply came"}  # the interrupted one
        (counts,) = re.findall(r"^stopped: (\d+) requests answered, (\d+) events, (\d+) refused", worker.out, re.M)
        answered, events, refused = map(int, counts)
        sizes = [int(size) for size in re.findall(r"^(\d+) events \(", worker.out, re.M)]
        assert (answered, events, refused) == (len(sizes) + refused, sum(sizes), worker.out.count("refused: "))
        done += events
    assert done >= 2 * len(decided["locally"].verdicts)
