"""The client on traffic: captures, a file that grows and a live interface become verdicts and alerts."""

import array
import fcntl
import json
import os
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from offload.alerts.eve import Event, compute_community_id
from offload.link.broker import PASSWORD_VARIABLE, Broker
from offload.link.protocol import make_id
from tests.captures import SHARED, needs_shared
from tests.dataset.packets.test_captures import frame, pcap
from tests.namespaces import LEFT, RIGHT, cable_end, own_network
from tests.offload.alerts.test_eve import faults_of
from tests.offload.link_ends import Program, open_channel, wait_until
from tests.scripts import CLIENT, EXTRACT, ROOT, call
from utils.schema import IDENTITY, OFFLOAD_COLUMNS

FOLDER = SHARED / "data" / "pcaps"
SCAN = FOLDER / "nmap-version-scan.pcap"
CAPTURES = (SCAN, FOLDER / "synack-reflection.pcap", FOLDER / "dhcp-flood.pcap")
WINDOW = 15
SOON = WINDOW / 2
"""Seconds after a window's end, of which an idle machine needs one at most."""
THRESHOLDS = (
    "--normal-exit1-min-certainty", 0.7, "--attack-exit1-min-certainty", 0.7,
    "--normal-exit2-min-certainty", 0.7, "--attack-exit2-min-certainty", 0.7,
)  # fmt: skip


@pytest.fixture
def options(checkpoint: Path) -> tuple[object, ...]:
    return ("--trained-network-file", checkpoint, "--network", "mobilenet", "--process-exit2-locally", *THRESHOLDS)


def events_in(path: Path) -> list[Event]:
    """Return the events of the whole lines of a file: while the disk is full, half a line may stand there."""
    whole, _, _ = path.read_text().rpartition("\n") if path.exists() else ("", "", "")
    return [json.loads(line) for line in whole.splitlines()]


def alerts_in(path: Path) -> list[Event]:
    return [event for event in events_in(path) if event["event_type"] == "alert"]


def last_stats(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = [event["stats"] for event in events_in(path) if event["event_type"] == "stats"][-1]
    return found


@needs_shared
def test_captures_get_the_same_verdicts_as_their_dataset(
    capsys: pytest.CaptureFixture[str], options: tuple[object, ...], tmp_path: Path
) -> None:
    direct, records, detour, eve = (tmp_path / name for name in ("direct.csv", "records.csv", "detour.csv", "eve.json"))
    told_all = ("--alerts", eve, "--max-alerts-per-source", 0)
    ended = call(capsys, CLIENT, *options, "--pcap", *CAPTURES, "--savefile", direct, *told_all)
    assert (ended.code, ended.err) == (0, "")
    assert call(capsys, EXTRACT, "--pcap", *CAPTURES, "--output", records, "--identity").code == 0
    assert call(capsys, CLIENT, *options, "--dataset", records, "--savefile", detour).code == 0
    found = pd.read_csv(direct, keep_default_na=False)
    assert list(found) == [*IDENTITY, *OFFLOAD_COLUMNS]
    pd.testing.assert_frame_equal(found[list(IDENTITY)], pd.read_csv(records)[list(IDENTITY)])
    pd.testing.assert_frame_equal(found[list(OFFLOAD_COLUMNS)], pd.read_csv(detour, keep_default_na=False))

    assert [fault for event in events_in(eve) for fault in faults_of(event)] == []
    attacks = found[found["final_prediction"] == "1"]
    told = [alert for alert in alerts_in(eve) if alert["early_exit"]["decider"] != "rejected"]
    assert [(alert["src_ip"], alert["dest_ip"]) for alert in told] == list(
        zip(attacks["address_a"], attacks["address_b"], strict=True)
    )
    rejected = int((found["final_prediction"] == "rejected").sum())
    counts = last_stats(eve)
    assert counts["early_exit"]["records"] == len(found)
    assert counts["early_exit"]["alerts"] == len(alerts_in(eve))
    assert counts["early_exit"]["rejected"] == rejected
    assert len(alerts_in(eve)) - len(told) + counts["early_exit"]["rejected_suppressed"] == rejected
    assert f"{len(alerts_in(eve))} alerts" in ended.out and str(eve) in ended.out


@pytest.mark.parametrize("words", [0, 1, 4])
def test_a_header_with_an_impossible_length_gives_an_alert_without_ports(
    capsys: pytest.CaptureFixture[str], options: tuple[object, ...], tmp_path: Path, words: int
) -> None:
    capture, eve = tmp_path / "a.pcap", tmp_path / "eve.json"
    capture.write_bytes(pcap([(0, 60, frame(1)[:14] + bytes([0x40 | words]) + frame(1)[15:])]))
    strict = [part for option in THRESHOLDS[::2] for part in (option, 1)]
    assert call(capsys, CLIENT, *options, *strict, "--pcap", capture, "--alerts", eve).code == 0
    (alert,) = alerts_in(eve)
    assert not {"src_port", "dest_port"} & alert.keys()
    assert alert["community_id"] == compute_community_id(6, 0x0A000001, 0x0A000101, 0)


@needs_shared
def test_standard_output_holds_only_the_alerts(options: tuple[object, ...], tmp_path: Path) -> None:
    with Program(tmp_path, CLIENT, *options, "--pcap", SCAN, "--alerts", "-") as client:
        assert client.end(60) == 0
    events = [json.loads(line) for line in client.out.splitlines()]
    assert {event["event_type"] for event in events} == {"alert", "stats"}
    assert "total: 7 events" in client.err


def windows_of_frames(numbers: range, records: int) -> bytes:
    """Return a classic pcap's frames: in each of some windows so many records of one source."""
    start = 1_600_000_005
    return b"".join(
        struct.pack("<IIII", start + WINDOW * number, host, 60, 60) + frame(host)
        for number in numbers
        for host in range(records)
    )


PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)


@pytest.mark.slow
def test_a_sensor_survives_a_full_disk_and_writes_whole_lines_afterwards(
    options: tuple[object, ...], tmp_path: Path
) -> None:
    path, eve, rows = tmp_path / "growing.pcap", tmp_path / "eve.json", tmp_path / "v.csv"
    path.write_bytes(PCAP_HEADER)
    everything = ("--max-rejected-alerts", 1000, "--attack-exit1-min-certainty", 1, "--normal-exit1-min-certainty", 1,
                  "--attack-exit2-min-certainty", 1, "--normal-exit2-min-certainty", 1)  # fmt: skip
    arguments = (*options, *everything, "--pcap", path, "--follow", "--alerts", eve, "--savefile", rows)

    def watch(numbers: range) -> None:
        with path.open("ab") as stream:
            stream.write(windows_of_frames(numbers, 50))

    with Program(tmp_path, CLIENT, *arguments) as client:
        watch(range(3))
        wait_until(lambda: alerts_in(eve) and rows.exists())
        client.limit_files_to(rows.stat().st_size + 500)
        watch(range(3, 8))
        wait_until(lambda: "v.csv: cannot be written" in client.err and "eve.json: cannot be written" in client.err)
        client.limit_files_to(resource.RLIM_INFINITY)
        before = len(alerts_in(eve))
        watch(range(8, 20))
        wait_until(lambda: len(alerts_in(eve)) > before)
        client.send(signal.SIGTERM)
        assert client.end(60) == 0, client.err
    counts = last_stats(eve)["early_exit"]
    assert counts["records"] == 20 * 50
    assert counts["alerts"] == len(alerts_in(eve))
    assert counts["alerts"] + counts["unwritten"] >= counts["records"] > counts["alerts"]
    table = pd.read_csv(rows)
    assert table["final_prediction"].notna().all() and len(table) % 50 == 0
    lost = re.search(r"(\d+) lines of verdicts could not be written", client.out)
    assert lost is not None and len(table) + int(lost[1]) == counts["records"]
    assert client.err.count("eve.json: cannot be written: File too large; make room") == 1
    assert client.err.count("v.csv: cannot be written: File too large; make room") == 1


@pytest.mark.slow
def test_a_sensor_continues_if_neither_files_nor_logs_can_be_written(
    options: tuple[object, ...], tmp_path: Path
) -> None:
    path = tmp_path / "growing.pcap"
    path.write_bytes(PCAP_HEADER + windows_of_frames(range(3), 5))
    arguments = (*options, "--pcap", path, "--follow", "--alerts", "/dev/full", "--duration", 2)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, ROOT / CLIENT, *map(str, arguments)], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert "/dev/full: cannot be written: No space left on device; make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


def test_a_run_on_a_capture_ends_with_one_line_on_a_full_disk(
    capsys: pytest.CaptureFixture[str], options: tuple[object, ...], tmp_path: Path
) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(PCAP_HEADER + windows_of_frames(range(3), 5))
    ended = call(capsys, CLIENT, *options, "--pcap", path, "--alerts", "/dev/full")
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert "/dev/full: cannot be written: No space left on device; make room" in ended.err


@pytest.mark.slow
def test_a_stalled_reader_delays_a_stop_no_longer_than_the_drain_timeout(
    options: tuple[object, ...], tmp_path: Path
) -> None:
    path, pipe = tmp_path / "growing.pcap", tmp_path / "pipe"
    path.write_bytes(PCAP_HEADER + windows_of_frames(range(8), 100))
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    arguments = (*options, "--pcap", path, "--follow", "--alerts", pipe, "--drain-timeout", 1,
                 "--attack-exit1-min-certainty", 0, "--normal-exit1-min-certainty", 1, "--max-alerts-per-source", 0,
                 "--attack-exit2-min-certainty", 0, "--normal-exit2-min-certainty", 1,
                 "--max-rejected-alerts", 1000)  # fmt: skip
    try:
        with Program(tmp_path, CLIENT, *arguments) as client:
            wait_until(lambda: bytes_waiting(reader) > 60_000)  # so the client waits for the reader
            client.send(signal.SIGTERM)
            assert client.end(60) == 0, client.err
    finally:
        os.close(reader)
    assert "pipe: cannot be written: its reader has stopped reading" in client.err


def bytes_waiting(reader: int) -> int:
    """Return the number of bytes that can be read from a pipe."""
    size = array.array("i", [0])
    fcntl.ioctl(reader, termios.FIONREAD, size)
    return size[0]


@needs_shared
@pytest.mark.parametrize("how", ["text", "json"])
def test_a_growing_capture_is_followed_until_sigterm_without_loss(
    options: tuple[object, ...], tmp_path: Path, how: str
) -> None:
    content, path, eve = SCAN.read_bytes(), tmp_path / "growing.pcap", tmp_path / "eve.json"
    path.write_bytes(content[:20_000])
    arguments = (*options, "--pcap", path, "--follow", "--alerts", eve, "--log-format", how)
    with Program(tmp_path, CLIENT, *arguments, "--savefile", tmp_path / "v.csv") as client:
        wait_until(lambda: events_in(eve), 60)
        with path.open("ab") as stream:
            stream.write(content[20_000:])
        time.sleep(0.5)
        client.send(signal.SIGTERM)
        assert client.end(60) == 0
    assert len(pd.read_csv(tmp_path / "v.csv")) == 7
    assert last_stats(eve)["decoder"] == {"pkts": 547, "ipv4": 44, "invalid": 0}
    assert "warning" not in client.err


@pytest.mark.system
def test_a_live_record_gives_an_alert_soon_after_its_window(checkpoint: Path, tmp_path: Path) -> None:
    with own_network():
        arrivals = observe_a_window_and_a_half(checkpoint, tmp_path)
    eve = tmp_path / "eve.json"
    assert [fault for event in events_in(eve) for fault in faults_of(event)] == []
    alerts = alerts_in(eve)
    assert {alert["in_iface"] for alert in alerts} == {RIGHT}
    assert {alert["dest_ip"] for alert in alerts} <= {f"10.0.1.{host}" for host in range(40)}
    assert sum(alert["flow"]["pkts_toserver"] for alert in alerts) == last_stats(eve)["decoder"]["ipv4"]
    assert last_stats(eve)["capture"]["kernel_drops"] == 0
    assert min(arrivals) % WINDOW < SOON, "the first alerts came late"


def observe_a_window_and_a_half(checkpoint: Path, folder: Path) -> list[float]:
    """Send packets while a client observes, until a window is over; return when there were more alerts each time."""
    eve, arrivals = folder / "eve.json", list[float]()
    # No exit is certain enough of anything, so each record goes the long way, and is told.
    thresholds = ("--normal-exit1-min-certainty", 1, "--attack-exit1-min-certainty", 1, "--normal-exit2-min-certainty",
                  1, "--attack-exit2-min-certainty", 1, "--max-rejected-alerts", 1000)  # fmt: skip
    arguments = ("--trained-network-file", checkpoint, "--network", "mobilenet", "--process-exit2-locally", *thresholds)
    with Program(folder, CLIENT, *arguments, "--interface", RIGHT, "--alerts", eve) as client, cable_end(LEFT) as end:
        wait_until(lambda: events_in(eve), 60)
        draw, told = random.Random(1), 0
        deadline = time.time() + 8 * WINDOW
        while time.time() < deadline and not (arrivals and time.time() > arrivals[0] + 1.5):
            end.send(frame(draw.randrange(40), draw.choice((60, 300, 1514))))
            count = len(alerts_in(eve)) if time.time() % WINDOW < SOON else told
            if count > told:
                arrivals.append(time.time())
                told = count
            time.sleep(0.01)
        client.send(signal.SIGTERM)
        assert client.end(60) == 0, client.err
    return arrivals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset", "a.csv", "--alerts", "eve.json"), "--alerts is for traffic"),
        (("--dataset", "a.csv", "--follow"), "--follow is for traffic"),
        (("--dataset", "a.csv", "--duration", "3"), "--duration is for traffic"),
        (("--pcap", "a.pcap", "--savefile", "v.csv", "--resume"), "--resume needs --savefile and --dataset"),
        (("--pcap", "a.pcap", "b.pcap", "--follow"), "only one capture can be followed"),
        (("--pcap", "a.pcap", "--savefile", "v.csv", "--alerts", "v.csv"), "v.csv: is named for two outputs"),
        (("--pcap", "absent.pcap"), "absent.pcap: no such file"),
        (("--pcap", "a.pcap", "--interface", "lo"), "not allowed with argument"),
        ((), "one of the arguments --dataset --pcap --interface is required"),
    ],
)
def test_contradicting_arguments_are_refused_in_one_line(
    capsys: pytest.CaptureFixture[str],
    options: tuple[object, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = call(capsys, CLIENT, *options, *arguments)
    assert (ended.code, message in ended.err) == (2, True), ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_interface_is_exit_code_3(capsys: pytest.CaptureFixture[str], options: tuple[object, ...]) -> None:
    ended = call(capsys, CLIENT, *options, "--interface", "absent0")
    (line,) = ended.err.splitlines()
    assert (ended.code, "absent0: no such interface; choose one of " in line) == (3, True)


@needs_shared
@pytest.mark.parametrize("output", ["--savefile", "--alerts"])
@pytest.mark.parametrize("input_", ["--pcap", "--trained-network-file"])
def test_an_input_is_never_overwritten(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path, output: str, input_: str
) -> None:
    files = {"--pcap": tmp_path / "a.pcap", "--trained-network-file": tmp_path / "n.pth"}
    files["--pcap"].write_bytes(SCAN.read_bytes())
    files["--trained-network-file"].write_bytes(checkpoint.read_bytes())
    before = {option: path.read_bytes() for option, path in files.items()}
    named = [word for pair in files.items() for word in pair]
    ended = call(capsys, CLIENT, "--network", "mobilenet", "--process-exit2-locally", *named, output, files[input_])
    assert (ended.code, f"{files[input_]}: is an input, too" in ended.err) == (2, True)
    assert {option: path.read_bytes() for option, path in files.items()} == before


@needs_shared
def test_sigterm_with_a_cloud_that_does_not_answer_decides_every_record(
    link: Broker, checkpoint: Path, tmp_path: Path
) -> None:
    queue, path, eve = f"requests.{make_id()}", tmp_path / "growing.pcap", tmp_path / "eve.json"
    path.write_bytes(SCAN.read_bytes())
    arguments = ("--mq-hostname", "127.0.0.1", "--mq-port", link.hosts[0].port, "--mq-username", link.username,
                 "--mq-queue", queue, "--trained-network-file", checkpoint, "--network", "mobilenet",
                 "--pcap", path, "--follow", "--alerts", eve, "--savefile", tmp_path / "v.csv", "--show-decider",
                 "--normal-exit1-min-certainty", 1, "--attack-exit1-min-certainty", 1,
                 "--drain-timeout", 1)  # fmt: skip
    with open_channel(link) as channel:
        channel.queue_declare(queue, durable=True, arguments={"x-max-length": 1000, "x-overflow": "reject-publish"})
        with Program(tmp_path, CLIENT, *arguments, **{PASSWORD_VARIABLE: link.password}) as client:
            wait_until(lambda: events_in(eve), 60)
            time.sleep(0.5)
            client.send(signal.SIGTERM)
            assert client.end(60) == 0, client.err
        channel.queue_delete(queue)
    found = pd.read_csv(tmp_path / "v.csv")
    assert len(found) == 7
    assert set(found["decider"]) <= {"local", "rejected"}
    assert {"closed"} <= set(found["reason"]) <= {"closed", "uncertain"}  # exit 2 here was not certain either
