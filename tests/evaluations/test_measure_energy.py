"""The whole script: real networks on a small dataset, each kind of meter, and a real worker."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from evaluations import energy_meters
from figs.energy_data import TWO_EXITS_LOCAL, TWO_EXITS_OFFLOADED
from figs.figure_data import SINGLE
from models.checkpoint import write_checkpoint
from offload.link.private_broker import PrivateBroker
from tests.captures import SHARED, needs_shared
from tests.evaluations.test_energy_meters import JOULE, write_zone
from tests.networks import new_network
from tests.scripts import EXPORT, Ended, call

pytestmark = pytest.mark.slow

SCRIPT = "evaluations/measure-energy.py"
ROWS = 60


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MobileNetV2 with a single exit."""
    path = tmp_path_factory.mktemp("single") / "single.pth"
    write_checkpoint(path, new_network("MobileNetV2"), {})
    return path


@pytest.fixture
def measuring(checkpoint: Path, single: Path, sample: Path, tmp_path: Path) -> tuple[object, ...]:
    """The arguments of a short measurement."""
    lines = (sample / "2016_03.csv").read_text().splitlines(keepends=True)
    (tmp_path / "month.csv").write_text("".join(lines[: ROWS + 1]))
    return (
        "--trained-model", checkpoint, "--single-exit", single, "--dataset", tmp_path / "month.csv",
        "--normal-exit1-min-certainty", 0.9, "--attack-exit1-min-certainty", 0.9, "--batch-size", 25,
        "--rounds", 2, "--seconds", 0, "--idle-seconds", 0.2, "--savefile", tmp_path / "energy.csv",
    )  # fmt: skip


@pytest.fixture
def no_rabbitmq(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide RabbitMQ, as on a machine without it."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture(autouse=True)
def powercap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return an empty folder in place of the kernel's."""
    monkeypatch.setattr(energy_meters, "POWERCAP", tmp_path / "powercap")
    return tmp_path / "powercap"


@contextlib.contextmanager
def repeating(work: Callable[[], object]) -> Iterator[None]:
    """Do something every 50 ms in another thread."""
    end = threading.Event()

    def repeat() -> None:
        while not end.wait(0.05):
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def refusal(ended: Ended, code: int = 2) -> str:
    (line,) = ended.err.splitlines()
    assert ended.code == code
    assert line.startswith("measure-energy.py: error: ")
    return line


@pytest.mark.usefixtures("no_rabbitmq")
def test_a_stated_power_turns_processor_time_into_joules_and_is_called_a_model(
    capsys: pytest.CaptureFixture[str], measuring: tuple[object, ...], tmp_path: Path
) -> None:
    picture = tmp_path / "energy.png"
    ended = call(capsys, SCRIPT, *measuring, "--meter", "model", "--watts", 2.5, "--picture", picture)
    assert (ended.code, ended.err) == (0, "")
    table = pd.read_csv(tmp_path / "energy.csv").set_index("method")
    assert list(table.index) == [SINGLE, TWO_EXITS_LOCAL]
    assert set(table["meter"]) == {"model"}
    assert (table["cpu_ms_least"] > 0).all()
    assert table["joules"].tolist() == pytest.approx([2.5 * each / 1e3 for each in table["cpu_ms"]])
    assert set(table["events"]) == {2 * ROWS}
    assert 0 < float(table["exit_2_share"][TWO_EXITS_LOCAL]) < 1
    assert "energy by MODEL, no reading: processor time times the stated 2.5 W\n" in ended.out
    assert "no cloud, so two exits, offloaded is left out: RabbitMQ is not installed" in ended.out
    assert "36" in ended.out and "the paper's own, on a Raspberry Pi" in ended.out
    assert picture.stat().st_size > 10_000
    assert not (tmp_path / "energy.intervals.json").exists()


@pytest.mark.usefixtures("broker")
def test_with_rabbitmq_a_worker_answers_and_the_client_alone_is_counted(
    capsys: pytest.CaptureFixture[str], measuring: tuple[object, ...], tmp_path: Path
) -> None:
    ended = call(capsys, SCRIPT, *measuring, "--watts", 1)
    assert (ended.code, ended.err) == (0, "")
    table = pd.read_csv(tmp_path / "energy.csv").set_index("method")
    assert list(table.index) == [SINGLE, TWO_EXITS_LOCAL, TWO_EXITS_OFFLOADED]
    for column in ("exit_2_share", "rejected_share", "error"):
        assert table[column][TWO_EXITS_OFFLOADED] == pytest.approx(table[column][TWO_EXITS_LOCAL])
    assert table["paper_microampere_hours_a_request"].fillna(0).tolist() == [36.0, 0, 15.7]
    # Warmed up once and measured twice, with a request for each of three batches.
    assert "stopped: 9 requests answered" in ended.out


@pytest.mark.usefixtures("no_rabbitmq")
def test_the_processors_counters_are_read_in_each_interval_less_the_idle_power(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    measuring: tuple[object, ...],
    powercap: Path,
    tmp_path: Path,
) -> None:
    counter, read = write_zone(powercap, "intel-rapl:0", "package-0", 0), energy_meters._read_number

    def ten_watts(path: Path) -> int:
        """Return the counter's value at this moment; a file written by a thread could be late."""
        return int(10 * JOULE * time.time()) % (100_000 * JOULE) if path == counter else read(path)

    monkeypatch.setattr(energy_meters, "_read_number", ten_watts)
    ended = call(capsys, SCRIPT, *measuring, "--seconds", 0.6, "--idle-seconds", 0.6)
    assert (ended.code, ended.err) == (0, "")
    table = pd.read_csv(tmp_path / "energy.csv")
    assert set(table["meter"]) == {"rapl"} and set(table["basis"]) == {"reading less idle power"}
    assert "energy by RAPL, package-0; idle power " in ended.out
    idle = float(ended.out.partition("idle power ")[2].split()[0])
    assert idle == pytest.approx(10, rel=0.5)
    # Ten watts whether it idles or works: of the six joules or more of an interval, little is left over idling.
    assert (table["joules"].abs() * table["events"] / 2 < 3).all()


@pytest.mark.usefixtures("no_rabbitmq")
def test_a_meters_log_that_comes_later_is_integrated_over_the_intervals_that_were_written(
    capsys: pytest.CaptureFixture[str], measuring: tuple[object, ...], tmp_path: Path
) -> None:
    first = call(capsys, SCRIPT, *measuring, "--meter", "csv", "--seconds", 0.2)
    recorded, savefile = tmp_path / "energy.intervals.json", tmp_path / "energy.csv"
    assert (first.code, first.err, savefile.exists()) == (0, "", False)
    later = f"measure-energy.py --intervals {recorded} --meter-csv METER.csv --savefile {savefile}\n"
    assert first.out.endswith(later)

    idle, *intervals = json.loads(recorded.read_text())["intervals"]
    assert idle["method"] == "idle"
    # One watt until idling ends, then five; and nothing between the two, so that the meter meets no edge but that.
    times = [idle["start"] - 1 + 0.01 * step for step in range(int(100 * (intervals[-1]["end"] - idle["start"] + 2)))]
    lines = [f"{when!r},{1 if when <= idle['end'] else 5}\n" for when in times]
    (tmp_path / "meter.csv").write_text("timestamp,watts\n" + "".join(lines))
    ended = call(capsys, SCRIPT, "--intervals", recorded, "--meter-csv", tmp_path / "meter.csv", "--savefile", savefile)
    assert (ended.code, ended.err) == (0, "")
    table = pd.read_csv(savefile).set_index("method")
    for method in (SINGLE, TWO_EXITS_LOCAL):
        joules = [4 * (part["end"] - part["start"]) / part["events"] for part in intervals if part["method"] == method]
        assert table.loc[method, "joules_least"] == pytest.approx(min(joules), rel=0.2)
        assert table.loc[method, "joules_most"] == pytest.approx(max(joules), rel=0.2)
    assert "external meter, meter.csv; idle power 1." in ended.out


@pytest.mark.usefixtures("no_rabbitmq")
def test_a_log_that_grows_while_it_measures_needs_no_second_run(
    capsys: pytest.CaptureFixture[str], measuring: tuple[object, ...], tmp_path: Path
) -> None:
    meter = tmp_path / "meter.csv"
    with meter.open("w", buffering=1) as stream:
        stream.write("timestamp,amperes,volts\n")
        with repeating(lambda: stream.write(f"{time.time():.4f},0.5,5\n")):
            time.sleep(0.2)
            ended = call(capsys, SCRIPT, *measuring, "--meter-csv", meter, "--seconds", 0.6, "--idle-seconds", 0.6)
    assert (ended.code, ended.err) == (0, "")
    assert "external meter, meter.csv; idle power 2.50 W is subtracted" in ended.out
    assert "do not stand out from idling" in ended.out
    assert set(pd.read_csv(tmp_path / "energy.csv")["meter"]) == {"csv"}


@pytest.mark.usefixtures("no_rabbitmq")
def test_a_log_that_does_not_reach_far_enough_costs_no_measurement(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, measuring: tuple[object, ...], tmp_path: Path
) -> None:
    monkeypatch.setattr(energy_meters, "_LOG_LATENESS", 0.0)
    (tmp_path / "meter.csv").write_text("timestamp,watts\n1,1\n2,1\n3,1\n")
    line = refusal(call(capsys, SCRIPT, *measuring, "--meter-csv", tmp_path / "meter.csv"))
    assert "meter.csv: covers 1970-01-01T00:00:01.000 to" in line
    kept = "the measurement is kept; with a better log, run: python evaluations/measure-energy.py"
    assert f"{kept} --intervals {tmp_path}" in line
    assert (tmp_path / "energy.intervals.json").exists() and not (tmp_path / "energy.csv").exists()


def test_without_any_meter_the_script_ends_and_names_the_choices(
    capsys: pytest.CaptureFixture[str], measuring: tuple[object, ...], powercap: Path, tmp_path: Path
) -> None:
    line = refusal(call(capsys, SCRIPT, *measuring))
    assert f"no meter: {powercap} has no RAPL counters; give" in line
    assert "--meter-csv" in line and "--watts" in line
    assert not (tmp_path / "energy.csv").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--meter", "model"), "--meter model: needs a power"),
        (("--meter", "rapl"), "has no RAPL counter of a processor package"),
        (("--meter", "rapl", "--watts", 3), "--watts is for --meter model, but the meter is rapl"),
        (("--meter", "csv", "--watts", 3), "--watts is for --meter model, but the meter is csv"),
        (("--watts", 3, "--meter-csv", "{log}"), "--watts is for --meter model, but the meter is csv"),
        (("--meter", "model", "--watts", 3, "--meter-csv", "{log}"), "--meter-csv is for --meter csv, but"),
        (("--watts", 3, "--single-exit", "{two}"), "holds MobileNetV2WithExits; name a network with a single exit"),
        (("--watts", 3, "--trained-model", "{one}"), "which has one exit. Name a network with two."),
        (("--watts", 3, "--single-exit", "{alexnet}"), "calibrated.pth: holds MobileNetV2WithExits (mobilenet), but "),
        (("--watts", 3, "--savefile", "{data}"), "is an input, too, and would be lost"),
        (("--watts", 3, "--picture", "{data}"), "the ending must say the picture's format"),
    ],
)
def test_an_impossible_measurement_is_one_line_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str],
    measuring: tuple[object, ...],
    checkpoint: Path,
    single: Path,
    tmp_path: Path,
    more: tuple[object, ...],
    says: str,
) -> None:
    (tmp_path / "meter.csv").write_text("timestamp,watts\n1,1\n")
    if "{alexnet}" in more:
        write_checkpoint(tmp_path / "alexnet.pth", new_network("AlexNet"), {})
    files = {
        "{log}": tmp_path / "meter.csv",
        "{two}": checkpoint,
        "{one}": single,
        "{alexnet}": tmp_path / "alexnet.pth",
        "{data}": tmp_path / "month.csv",
    }
    ended = call(capsys, SCRIPT, *measuring, *(files.get(str(each), each) for each in more))
    assert says in refusal(ended)
    assert ended.out == ""


def test_missing_options_and_those_that_contradict_intervals_are_refused(
    capsys: pytest.CaptureFixture[str], measuring: tuple[object, ...], tmp_path: Path
) -> None:
    recorded = tmp_path / "run.json"
    recorded.write_text(
        '{"family": "mobilenet", "shared": "", '
        '"outcomes": {"a": {"exit_2_share": 0, "rejected_share": 0, "error": 0}}, "intervals": '
        '[{"method": "a", "start": 1, "end": 2, "cpu_seconds": 1, "busy_seconds": 1, "events": 1}]}'
    )
    later = ("--intervals", recorded, "--savefile", tmp_path / "energy.csv")
    assert "needs --meter-csv and no other meter; add the log" in refusal(call(capsys, SCRIPT, *later))
    (tmp_path / "meter.csv").write_text("timestamp,watts\n1,1\n2,1\n")
    log = ("--meter-csv", tmp_path / "meter.csv")
    assert "nothing is measured now; leave out" in refusal(call(capsys, SCRIPT, *measuring, *later, *log))
    assert "has 0 readings in a measurement of 1.00 s" in refusal(call(capsys, SCRIPT, *later, *log))
    missing = refusal(call(capsys, SCRIPT, "--watts", 2, "--savefile", tmp_path / "energy.csv"))
    assert "--trained-model is missing; add it, or --intervals" in missing


def test_a_named_broker_is_used(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    broker: PrivateBroker,
    measuring: tuple[object, ...],
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    queue = ("--mq-queue", "energy-of-a-test")
    for variable, password in broker.environment.items():
        monkeypatch.setenv(variable, password)
    with broker.run_worker(checkpoint, "mobilenet", *queue):
        ended = call(capsys, SCRIPT, *measuring, "--watts", 1, *broker.options, *queue)
    assert (ended.code, ended.err) == (0, "")
    assert "ready:" not in ended.out  # it started no worker of its own
    assert TWO_EXITS_OFFLOADED in set(pd.read_csv(tmp_path / "energy.csv")["method"])


def exit_2_share(path: Path) -> float:
    """Return the share of the events that went to exit 2."""
    table = pd.read_csv(path)
    return float(table.loc[table["method"] == TWO_EXITS_LOCAL, "exit_2_share"].to_numpy()[0])


@pytest.mark.usefixtures("no_rabbitmq")
def test_the_edge_can_run_the_exported_network_if_it_is_the_same(
    checkpoint: Path,
    measuring: tuple[object, ...],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    edge, other = tmp_path / "edge.onnx", tmp_path / "other.onnx"
    write_checkpoint(tmp_path / "other.pth", new_network("MobileNetV2WithExits"), {})
    for source, output in ((checkpoint, edge), (tmp_path / "other.pth", other)):
        assert call(capsys, EXPORT, "--trained-model", source, "--output", output).code == 0
    ended = call(capsys, SCRIPT, *measuring, "--watts", 3, "--edge-model", edge, "--plain-single-exit")
    assert ended.code == 0, ended.err
    table = pd.read_csv(tmp_path / "energy.csv")
    assert (table["cpu_ms"] > 0).all() and (table["meter"] == "model").all()
    some = exit_2_share(tmp_path / "energy.csv")
    # The thresholds in the file hold where the command line names none: 1 at exit 1 asks exit 2 about all.
    everything = ("--normal-exit1-min-certainty", 1, "--attack-exit1-min-certainty", 1)
    assert call(capsys, EXPORT, "--trained-model", checkpoint, "--output", edge, *everything).code == 0
    named = measuring.index("--normal-exit1-min-certainty")
    assert (
        call(capsys, SCRIPT, *measuring[:named], *measuring[named + 4 :], "--watts", 3, "--edge-model", edge).code == 0
    )
    assert exit_2_share(tmp_path / "energy.csv") == 1 > some
    assert "exported from another network" in refusal(
        call(capsys, SCRIPT, *measuring, "--watts", 3, "--edge-model", other)
    )


@needs_shared
def test_a_meter_that_logs_nanoseconds_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = SHARED / "data" / "field" / "energy-ns-timestamps"
    files = ("--intervals", folder / "intervals.json", "--meter-csv", folder / "meter.csv")
    ended = call(capsys, SCRIPT, *files, "--savefile", tmp_path / "e.csv")
    (line,) = ended.err.splitlines()
    assert (ended.code, "write seconds since the epoch, not milliseconds or nanoseconds" in line) == (2, True)
