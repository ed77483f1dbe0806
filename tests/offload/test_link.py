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
from offload.link.broker import PASSWORD_VARIABLE, Broker
from offload.link.private_broker import find_free_port
from offload.link.protocol import make_id
from tests.captures import SHARED
from tests.controlled_broker import ControlledBroker
from tests.offload.link_ends import Program, count_waiting, open_channel, wait_until
from tests.scripts import CLIENT, SERVER, Ended, call
from utils.classification_metrics import classify
from utils.dataset import read_dataset
from utils.schema import DECIDER_COLUMNS, OFFLOAD_COLUMNS

BATCH, WINDOW = 100, 6
ALL_OFFLOADED = (
    "--normal-exit1-min-certainty", 1, "--attack-exit1-min-certainty", 1,
    "--normal-exit2-min-certainty", 0.7, "--attack-exit2-min-certainty", 0.63,
)  # fmt: skip
WAYS = {
    "features": ("--payload", "features", "--debug"),
    "activations": ("--payload", "activations", "--show-decider"),
    "half precision": ("--payload", "activations", "--half-precision"),
    "locally": ("--process-exit2-locally",),
}
# Workers compute requests of several clients together, and with the size of a pass the last bits change; those of a
# network that was never trained, and answers all sorts of things, more than most.
TOLERANCE = {"features": 5e-5, "activations": 5e-5, "half precision": 5e-3}


@pytest.fixture(scope="module")
def month(sample: Path) -> Path:
    """A whole real month where the shared folder is at hand, else a synthetic one."""
    real = SHARED / "data" / "dataset" / "2016_03.csv"
    return real if real.exists() else sample / "2016_03.csv"


@pytest.fixture(scope="module")
def options(link: Broker, checkpoint: Path) -> tuple[object, ...]:
    """Options of both ends, except the queue."""
    return (
        "--mq-hostname", "127.0.0.1", "--mq-port", link.hosts[0].port, "--mq-username", link.username,
        "--trained-network-file", checkpoint, "--network", "MobileNet",
    )  # fmt: skip


@pytest.fixture(scope="module")
def requests(link: Broker) -> Iterator[str]:
    """The workers' queue."""
    name = f"requests.{make_id()}"
    yield name
    with open_channel(link) as channel:
        channel.queue_delete(name)


@pytest.fixture(scope="module")
def workers(
    options: tuple[object, ...], requests: str, link: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Program]]:
    """Two workers on one queue."""
    password = {PASSWORD_VARIABLE: link.password}
    with contextlib.ExitStack() as stack:
        arguments = (SERVER, *options, "--mq-queue", requests, "--max-batch", 1000)
        running = [
            stack.enter_context(Program(tmp_path_factory.mktemp("worker"), *arguments, **password)) for _ in range(2)
        ]
        for worker in running:
            worker.wait_for("ready: MobileNetV2WithExits")
        yield running


@dataclass(frozen=True)
class Decided:
    """The results of a client's run over the month."""

    verdicts: pd.DataFrame
    out: str
    err: str


def waiting(broker: ControlledBroker, queue: str) -> int:
    """Return the number of requests in a queue, including delivered ones."""
    lines = broker.control("list_queues", "name", "messages").splitlines()
    return sum(int(count) for name, _, count in (line.partition("\t") for line in lines) if name == queue)


@pytest.fixture(scope="module")
def decided(
    workers: list[Program], options: tuple[object, ...], requests: str, link: Broker, month: Path,
    broker: ControlledBroker, tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Decided]:  # fmt: skip
    """The month, every event offloaded, by each way of asking exit 2; three clients at once.

    The workers begin when every client has asked, so that requests of several clients wait for them.
    """
    assert len(workers) == 2
    for worker in workers:
        worker.send(signal.SIGSTOP)
    clients, folders = {}, {way: tmp_path_factory.mktemp(way) for way in WAYS}
    with contextlib.ExitStack() as stack:
        for way, how in WAYS.items():
            arguments = (
                *options,
                "--mq-queue",
                requests,
                "--dataset",
                month,
                "--batch-size",
                BATCH,
                *ALL_OFFLOADED,
                "--window",
                WINDOW,
            )
            # What is remembered depends on when answers come, and the bytes with it.
            output = ("--savefile", folders[way] / "verdicts.csv", "--request-timeout", 60, "--cache-size", 0)
            client = Program(folders[way], CLIENT, *arguments, *output, *how, **{PASSWORD_VARIABLE: link.password})
            clients[way] = stack.enter_context(client)
        asking = len(WAYS) - 1  # all but one, which computes for itself
        wait_until(lambda: waiting(broker, requests) > (asking - 1) * WINDOW)
        for worker in workers:
            worker.send(signal.SIGCONT)
        for way, client in clients.items():
            assert client.end(60) == 0, (way, client.err)
    return {
        way: Decided(pd.read_csv(folders[way] / "verdicts.csv", keep_default_na=False), client.out, client.err)
        for way, client in clients.items()
    }


@pytest.mark.parametrize("way", TOLERANCE)
def test_offloaded_and_local_exit_2_agree_on_every_row_of_a_month(way: str, decided: dict[str, Decided]) -> None:
    remote, local = decided[way].verdicts, decided["locally"].verdicts
    assert len(remote) == len(local)
    assert set(remote["exit_2_prediction"]) == {0, 1}
    clear = local["exit_2_certainty"].astype(float) > 0.5 + TOLERANCE[way]
    for column in ("exit_1_prediction", "exit_2_prediction", "class"):
        assert (remote[column] == local[column])[clear].all()
    if way != "half precision":
        assert (remote["final_prediction"] == local["final_prediction"])[clear].all()
    for column in ("exit_1_certainty", "exit_2_certainty", "final_certainty"):
        assert (remote[column].astype(float) - local[column].astype(float)).abs().max() <= TOLERANCE[way]


@pytest.mark.parametrize("way", WAYS)
def test_the_csv_has_one_row_for_each_row_of_the_dataset_in_its_order(
    way: str, decided: dict[str, Decided], month: Path, checkpoint: Path
) -> None:
    verdicts, dataset = decided[way].verdicts, read_dataset(month)
    assert tuple(verdicts.columns) == OFFLOAD_COLUMNS + (DECIDER_COLUMNS if way == "activations" else ())
    assert dataset.labels is not None
    assert verdicts["class"].tolist() == dataset.labels.tolist()
    network, _ = read_two_exits(checkpoint)
    chosen = np.linspace(0, len(dataset) - 1, 100, dtype=np.int64)
    for exit_number, logits in enumerate(predict(network, dataset.features[chosen], len(chosen)), 1):
        predictions, certainties = classify(logits)
        rows = verdicts.iloc[chosen]
        clear = certainties > 0.5 + TOLERANCE.get(way, 5e-5)
        assert (rows[f"exit_{exit_number}_prediction"] == predictions)[clear].all()
        tolerance = TOLERANCE.get(way, 5e-5)
        assert np.allclose(rows[f"exit_{exit_number}_certainty"].astype(float), certainties, rtol=0, atol=tolerance)


@pytest.mark.parametrize("way", WAYS)
def test_the_client_reports_each_batch_and_the_total(way: str, decided: dict[str, Decided], month: Path) -> None:
    events, out = len(read_dataset(month)), decided[way].out
    batches = re.findall(r"^batch (\d+): (\d+) events, offloaded \2 \(100\.0 %\)", out, re.MULTILINE)
    assert [int(number) for number, _ in batches] == list(range(1, -(-events // BATCH) + 1))
    assert sum(int(size) for _, size in batches) == events
    assert f"total: {events} events, offloaded {events} (100.0 %)" in out
    rejected = (decided[way].verdicts["final_prediction"] == "rejected").sum()
    assert f", rejected {rejected} (" in out[out.index("total: ") :]
    assert f"{events} rows -> " in out


def test_features_need_far_fewer_bytes_than_activations(decided: dict[str, Decided]) -> None:
    sent = {way: float(re.findall(r"link: (\S+) MB sent", decided[way].out)[0]) for way in ("features", "activations")}
    assert sent["activations"] > 40 * sent["features"] > 0
    half = float(re.findall(r"link: (\S+) MB sent", decided["half precision"].out)[0])
    assert 0.49 < half / sent["activations"] < 0.51
    assert "link:" not in decided["locally"].out


def test_the_csv_shows_decider_and_reason_on_request(decided: dict[str, Decided]) -> None:
    verdicts = decided["activations"].verdicts
    assert set(verdicts["decider"]) == {"cloud", "rejected"}
    assert (verdicts["reason"] == np.where(verdicts["decider"] == "cloud", "certain", "uncertain")).all()
    assert ((verdicts["final_prediction"] == "rejected") == (verdicts["decider"] == "rejected")).all()


def test_both_workers_of_a_queue_receive_requests(decided: dict[str, Decided], workers: list[Program]) -> None:
    assert decided
    for worker in workers:
        assert " events of " in worker.out


def test_requests_of_several_clients_are_computed_together(decided: dict[str, Decided], workers: list[Program]) -> None:
    assert decided
    lines = re.findall(r"^\d+ events of (\d+) requests, (\d+) clients in", "".join(w.out for w in workers), re.M)
    assert max(int(requests) for requests, _ in lines) > 1
    assert max(int(clients) for _, clients in lines) > 1


def test_debug_logs_requests_and_pika_but_not_the_password(
    decided: dict[str, Decided], link: Broker, workers: list[Program]
) -> None:
    line = r"offload\.link\.client: debug: [0-9a-f]{32}: \d+ bytes, answered by \S+ in"
    assert re.search(line, decided["features"].out)
    assert "pika.adapters" in decided["features"].out
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


def test_a_worker_with_another_network_refuses_and_the_edge_decides(
    workers: list[Program], requests: str, client: Callable[..., Ended], checkpoint: Path, tmp_path: Path
) -> None:
    network, _ = read_two_exits(checkpoint)
    assert isinstance(network, CalibratedNetwork)
    other, output = tmp_path / "other.pth", tmp_path / "verdicts.csv"
    write_checkpoint(other, CalibratedNetwork(network.model, (1.0, 3.0)), {})
    low = ("--normal-exit2-min-certainty", 0, "--attack-exit2-min-certainty", 0)
    mine = ("--mq-queue", requests, "--trained-network-file", other, *low)
    ended = client(*mine, "--savefile", output, "--show-decider")
    assert ended.code == 0
    assert "(wrong-model)" in ended.out
    verdicts = pd.read_csv(output, keep_default_na=False)
    assert set(verdicts["decider"]) == {"local"}

    assert set(verdicts.loc[verdicts["decider"] == "local", "reason"]) == {"wrong-model"}
    assert any("refused: wrong-model" in worker.out for worker in workers)
    impatient = client(*mine, "--on-cloud-failure", "wait")
    assert impatient.code == 2
    assert "same checkpoint" in one_line(impatient)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_client_keeps_its_rows_and_continues_with_resume(
    workers: list[Program], options: tuple[object, ...], requests: str, link: Broker, month: Path, tmp_path: Path,
    decided: dict[str, Decided], number: signal.Signals,
) -> None:  # fmt: skip
    assert workers
    output = tmp_path / "results" / "verdicts.csv"
    arguments = (*options, "--mq-queue", requests, "--dataset", month, *ALL_OFFLOADED, "--savefile", output)
    password = {PASSWORD_VARIABLE: link.password}
    with Program(tmp_path, CLIENT, *arguments, "--batch-size", 5, **password) as running:
        running.wait_for("batch 3:")
        running.send(number)
        assert running.end() == 0
        assert re.search(r"^warning: stopped after \d+ of \d+ events; continue with --resume$", running.err, re.M)
        rows = len(pd.read_csv(output))
        assert f"stopped after {rows} of " in running.err
        assert 15 <= rows < len(decided["locally"].verdicts)
    with Program(tmp_path, CLIENT, *arguments, "--batch-size", 100, "--resume", **password) as resumed:
        assert resumed.end(60) == 0, resumed.err
        assert f"total: {len(decided['locally'].verdicts) - rows} events" in resumed.out
    whole, local = pd.read_csv(output, keep_default_na=False), decided["locally"].verdicts
    assert len(whole) == len(local)
    for column in ("exit_1_prediction", "exit_2_prediction", "final_prediction", "class"):
        assert (whole[column] == local[column]).all()


def test_a_second_signal_ends_the_client_at_once(
    options: tuple[object, ...], queue: str, link: Broker, month: Path, tmp_path: Path
) -> None:
    with open_channel(link) as channel:
        channel.queue_declare(queue, durable=True)  # and no worker
    arguments = (*options, "--mq-queue", queue, "--dataset", month, *ALL_OFFLOADED, "--drain-timeout", 1000)
    with Program(tmp_path, CLIENT, *arguments, **{PASSWORD_VARIABLE: link.password}) as running:
        wait_until(lambda: count_waiting(link, queue) > 0)
        running.send(signal.SIGTERM)
        time.sleep(0.5)
        running.send(signal.SIGTERM)
        assert running.end(10) == 130
        assert running.err == "ee-processor-client.py: interrupted\n"


def test_a_stopped_client_waits_for_replies_no_longer_than_the_drain_timeout(
    options: tuple[object, ...], queue: str, link: Broker, month: Path, tmp_path: Path
) -> None:
    with open_channel(link) as channel:
        channel.queue_declare(queue, durable=True)  # and no worker
    arguments = (*options, "--mq-queue", queue, "--dataset", month, *ALL_OFFLOADED, "--drain-timeout", 0.5)
    with Program(
        tmp_path, CLIENT, *arguments, "--savefile", tmp_path / "v.csv", **{PASSWORD_VARIABLE: link.password}
    ) as running:
        wait_until(lambda: count_waiting(link, queue) > 0)
        running.send(signal.SIGTERM)
        assert running.end(10) == 0
        assert "stopped after 0 of " in running.err
    assert not (tmp_path / "v.csv").exists()


@pytest.mark.parametrize("network", ["resnet", "mobile", "", "AlexNet_"])
def test_an_unknown_network_is_an_error(network: str, client: Callable[..., Ended]) -> None:
    ended = client("--network", network)
    assert ended.code == 2
    assert f"{network!r} is unknown; choose from alexnet, mobilenet" in ended.err


def test_a_checkpoint_of_another_family_is_refused_on_both_sides(
    client: Callable[..., Ended], server: Callable[..., Ended]
) -> None:
    for end in (client, server):
        ended = end("--network", "ALEXNET")
        assert ended.code == 2
        assert "MobileNetV2WithExits" in one_line(ended) and "alexnet" in one_line(ended)


@pytest.mark.parametrize("place", ["folder", "file/verdicts.csv", "file/deeper/verdicts.csv"])
def test_an_unwritable_output_is_refused_first(place: str, client: Callable[..., Ended], tmp_path: Path) -> None:
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
        (("--payload", "pickle"), "choose from"),
        (("--mq-queue", ""), "1 to 255 bytes"),
        (("--mq-queue", "é" * 128), "1 to 255 bytes"),
        (("--mq-vhost", "v" * 256), "1 to 255 bytes"),
        (("--mq-hostname", ""), "is not a host"),
        (("--mq-hostname", "a,,b"), "is not a host"),
        (("--mq-hostname", "a:b"), "is not a host"),
        (("--mq-hostname", "a:0,b"), "0 is not a port"),
        (("--mq-hostname", "a:66666"), "66666 is not a port"),
        (("--mq-hostname", f"a:{'6' * 5000}"), "is not a host"),
        (("--mq-ca-file", "/"), "add it"),
        (("--mq-key-file", "/"), "add it"),
        (("--mq-tls", "--mq-key-file", "/"), "--mq-certificate-file"),
        (("--mq-tls", "--mq-ca-file", "/"), "is a folder"),
        (("--mq-tls", "--mq-certificate-file", __file__), "not a certificate"),
        (("--mq-password-file", "/nowhere"), "no such file"),
        (("--mq-password", "a", "--mq-password-file", "b"), "not allowed with"),
        (("--window", 0), "at least 1"),
        (("--retries", -1), "at least 0"),
        (("--wait-timeout", 0), "between 0.1"),
        (("--drain-timeout", -1), "between 0"),
        (("--on-cloud-failure", "panic"), "choose from"),
        (("--half-precision",), "add --payload activations"),
        (("--resume",), "--savefile"),
        (("--metrics-port", 0), "at least 1"),
        (("--log-format", "xml"), "choose from"),
        (("--device", "tpu"), "--device 'tpu' is unknown"),
    ],
)
def test_an_argument_out_of_range_is_refused_with_the_accepted_range(
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


def test_without_a_broker_the_worker_ends_with_exit_code_3(server: Callable[..., Ended]) -> None:
    port = find_free_port()
    ended = server("--mq-port", port)
    assert ended.code == 3
    assert f"no RabbitMQ at 127.0.0.1:{port} (connection refused)" in one_line(ended)


def test_the_prefetch_is_reduced_to_fit_into_memory(server: Callable[..., Ended]) -> None:
    ended = server("--prefetch", 1000, "--mq-port", find_free_port())
    assert "--prefetch 1000: reduced to 37, because each request may have 14163976 bytes" in ended.err


@pytest.mark.parametrize("hostname", ["127.0.0.1", "edge..example", "127.0.0.1,localhost"])
def test_without_a_broker_the_edge_decides_from_the_first_batch(
    hostname: str, client: Callable[..., Ended], tmp_path: Path
) -> None:
    output = ("--savefile", tmp_path / "verdicts.csv", "--show-decider")
    ended = client("--mq-hostname", hostname, "--mq-port", find_free_port(), *ALL_OFFLOADED, *output)
    assert ended.code == 0
    assert ended.err.count("no RabbitMQ at ") == 1
    verdicts = pd.read_csv(tmp_path / "verdicts.csv", keep_default_na=False)
    assert set(verdicts["decider"]) == {"local", "rejected"}
    assert set(verdicts["reason"]) == {"no-connection", "uncertain"}


def test_without_a_broker_events_can_be_rejected_with_the_reason(client: Callable[..., Ended], tmp_path: Path) -> None:
    output = ("--savefile", tmp_path / "verdicts.csv", "--show-decider")
    ended = client("--mq-port", find_free_port(), *ALL_OFFLOADED, "--on-cloud-failure", "reject", *output)
    assert ended.code == 0
    verdicts = pd.read_csv(tmp_path / "verdicts.csv", keep_default_na=False)
    assert set(verdicts["decider"]) == set(verdicts["final_prediction"]) == {"rejected"}
    assert set(verdicts["reason"]) == {"no-connection"}
    assert set(verdicts["exit_2_prediction"]) == {"N/A"}
    assert (verdicts["final_certainty"] == verdicts["exit_1_certainty"]).all()


def test_without_a_broker_the_policy_wait_ends_at_its_timeout(client: Callable[..., Ended], tmp_path: Path) -> None:
    start = time.monotonic()
    waiting = ("--on-cloud-failure", "wait", "--wait-timeout", 1, "--savefile", tmp_path / "verdicts.csv")
    ended = client("--mq-port", find_free_port(), *ALL_OFFLOADED, *waiting)
    assert time.monotonic() - start >= 1
    assert ended.code == 3
    assert "no RabbitMQ at" in ended.err
    assert not (tmp_path / "verdicts.csv").exists()


def test_a_refused_password_is_exit_code_4_on_both_sides_and_is_never_shown(
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


def test_a_queue_with_other_settings_ends_the_worker_with_one_line(
    server: Callable[..., Ended], link: Broker, queue: str
) -> None:
    with open_channel(link) as channel:
        channel.queue_declare(queue, durable=True)
    ended = server()
    assert ended.code == 2
    assert f"queue {queue!r}" in one_line(ended) and "delete it" in one_line(ended)


def test_without_a_worker_the_client_times_out_and_keeps_an_older_csv(
    client: Callable[..., Ended], tmp_path: Path
) -> None:
    older = tmp_path / "verdicts.csv"
    older.write_text("older")
    ended = client("--on-cloud-failure", "wait", "--wait-timeout", 1, "--savefile", older)
    assert ended.code == 3
    assert "start a worker with offload/ee-processor-server.py" in one_line(ended)
    assert [path.name for path in tmp_path.iterdir()] == ["verdicts.csv"]
    assert older.read_text() == "older"


def test_without_a_worker_the_edge_decides(client: Callable[..., Ended], tmp_path: Path) -> None:
    ended = client("--savefile", tmp_path / "verdicts.csv", *ALL_OFFLOADED)
    assert ended.code == 0
    assert "(no-queue)" in ended.out


def test_a_password_is_read_from_a_file_and_a_readable_file_is_warned_about(
    client: Callable[..., Ended], link: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE)
    secret = tmp_path / "password"
    secret.write_text(f"{link.password}\n")
    secret.chmod(0o604)
    ended = client("--mq-password-file", secret)
    assert ended.code == 0
    assert "chmod 600" in ended.err
    secret.chmod(0o600)
    assert "chmod" not in client("--mq-password-file", secret).err
    secret.write_text("\n")
    assert "is empty" in client("--mq-password-file", secret).err
    secret.write_bytes(b"\xff\xfe")
    assert "is not text" in client("--mq-password-file", secret).err


def test_an_unencrypted_password_is_warned_about(client: Callable[..., Ended]) -> None:
    reachable = ("--on-cloud-failure", "wait", "--wait-timeout", 0.1, "--mq-port", find_free_port())
    assert "unencrypted" in client("--mq-hostname", "192.0.2.1,127.0.0.1", *reachable).err
    assert "unencrypted" not in client("--mq-hostname", "127.0.0.1,localhost,[::1]", *reachable).err


def test_no_worker_is_needed_if_every_event_is_certain(client: Callable[..., Ended], tmp_path: Path) -> None:
    certain = ("--normal-exit1-min-certainty", 0, "--attack-exit1-min-certainty", 0)
    ended = client(*certain, "--savefile", tmp_path / "verdicts.csv")
    assert ended.code == 0
    assert "link: 0.00 MB sent, 0.00 MB received" in ended.out
    verdicts = pd.read_csv(tmp_path / "verdicts.csv", keep_default_na=False)
    assert set(verdicts["exit_2_prediction"]) == set(verdicts["exit_2_certainty"]) == {"N/A"}


def test_stopped_workers_end_with_exit_code_0_and_a_summary(
    decided: dict[str, Decided], workers: list[Program]
) -> None:
    done = 0
    for worker, number in zip(workers, (signal.SIGTERM, signal.SIGINT), strict=True):
        worker.send(number)
    for worker in workers:
        assert worker.end() == 0
        assert set(worker.err.splitlines()) <= {"warning: discarded a reply: its client has left"}
        (counts,) = re.findall(r"^stopped: (\d+) requests answered, (\d+) events, (\d+) refused", worker.out, re.M)
        answered, events, refused = map(int, counts)
        batches = re.findall(r"^(\d+) events of (\d+) requests", worker.out, re.M)
        assert events == sum(int(size) for size, _ in batches)
        assert (answered, refused) == (sum(int(requests) for _, requests in batches), worker.out.count("refused: "))
        done += events
    assert done > len(decided["locally"].verdicts) / 4  # each distinct event of each batch, from five clients


def test_an_int8_worker_gives_nearly_the_same_answers(
    alexnet_checkpoint: Path, link: Broker, sample: Path, tmp_path: Path
) -> None:
    queue, password = f"requests.{make_id()}", {PASSWORD_VARIABLE: link.password}
    options = (
        "--mq-hostname", "127.0.0.1", "--mq-port", link.hosts[0].port, "--mq-username", link.username,
        "--trained-network-file", alexnet_checkpoint, "--network", "alexnet", "--mq-queue", queue,
    )  # fmt: skip
    asking = (*options, "--dataset", sample / "2016_03.csv", *ALL_OFFLOADED, "--on-cloud-failure", "wait")
    with (
        Program(tmp_path, SERVER, *options, "--quantize", "int8", **password) as worker,
        Program(tmp_path, CLIENT, *asking, "--savefile", tmp_path / "cloud.csv", **password) as client,
    ):
        worker.wait_for("(int8) on cpu")
        assert client.end(60) == 0, client.err
    with open_channel(link) as channel:
        channel.queue_delete(queue)
    locally = (*asking, "--process-exit2-locally", "--savefile", tmp_path / "local.csv")
    with Program(tmp_path, CLIENT, *locally, **password) as client:
        assert client.end(60) == 0, client.err
    cloud, local = pd.read_csv(tmp_path / "cloud.csv"), pd.read_csv(tmp_path / "local.csv")
    assert len(cloud) == len(local)
    apart = (cloud["exit_2_certainty"] - local["exit_2_certainty"]).abs()
    assert 1e-5 < apart.mean() < 0.02
