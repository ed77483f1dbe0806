"""Traffic captured live gives the records of the pcap that tcpdump writes meanwhile."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dataset.packets.replay import read_frames, replay
from tests.namespaces import LEFT, RIGHT, cable_end, own_network, stamped_once, tcpdump
from tests.network import hosts
from tests.network.hosts import Network, skip_without_network
from tests.network.scenario import ATTACKERS, HOSTS, OFFICE, SERVER, act, serve
from tests.offload.link_ends import wait_until
from tests.scripts import EXTRACT, ROOT, call
from utils.schema import FEATURES, IDENTITY

pytestmark = pytest.mark.system

ORDERS = (
    *((name, activity, SERVER, 0.0, 1.0) for name in OFFICE for activity in ("browse", "work", "transfer")),
    ("office1", "ping", "203.0.113.0/24", 0.0, 1.0),
    ("scanner", "scan_ports", SERVER, 0.0, 1.0),
    ("sweeper", "sweep", "192.0.2.0/24", 0.0, 1.0),
    ("flooder", "flood_connections", SERVER, 0.2, 0.8),
    ("flooder", "flood_datagrams", OFFICE["office1"], 0.0, 0.6),
    ("guesser", "guess_passwords", SERVER, 0.0, 1.0),
)
OF_TIME = [name for name in FEATURES if "InterArrivalTime" in name or "throughput" in name]
Start = Callable[[list[str]], "subprocess.Popen[str]"]
MOST_DIFFERENCE = 20_000
"""Microseconds: each of the two rings stamps packets of the kernel's TCP itself."""


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> tuple[Path, Path]:
    """The bundled capture, replayed at ten times its pace: records captured live, and tcpdump's pcap."""
    folder = tmp_path_factory.mktemp("replayed")
    frames = [(at / 10, frame) for at, frame in read_frames(sample / "network" / "capture.pcap.gz")]
    with (
        own_network(),
        stamped_once(),
        cable_end(LEFT) as end,
        tcpdump(folder / "all.pcap"),
        run_extraction(RIGHT, folder / "live.csv", start_process),
    ):
        replay(iter(frames), end.send)
    return folder / "live.csv", folder / "all.pcap"


@contextmanager
def run_extraction(interface: str, output: Path, start: Start) -> Iterator[None]:
    """Extract the records of an interface in a process while the block runs; then stop it with SIGTERM."""
    options = ["--interface", interface, "--output", str(output), "--raw", "--identity"]
    with start([sys.executable, str(ROOT / EXTRACT), *options]) as program:
        try:
            wait_until_captures(program.pid)
            yield
            wait_until_idle(program.pid)
        finally:
            program.terminate()
            said, _ = program.communicate(timeout=300)
    assert program.returncode == 0
    assert " 0 dropped by the kernel" in said


def start_process(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_until_captures(process: int) -> None:
    """Wait until a process has mapped its ring, its last step before it captures."""
    wait_until(lambda: "socket:" in Path(f"/proc/{process}/maps").read_text(), 120)


def wait_until_idle(process: int) -> None:
    """Wait until a process has read all packets: it neither runs nor waits for a processor."""

    def count_busy_time() -> int:
        """Return the nanoseconds for which its threads have run or waited for a processor."""
        threads = [path.read_text().split() for path in Path(f"/proc/{process}/task").glob("*/schedstat")]
        return sum(int(running) + int(waiting) for running, waiting, _ in threads)

    def is_idle() -> bool:
        before = count_busy_time()
        time.sleep(0.5)
        return count_busy_time() - before < 100_000_000

    time.sleep(0.3)
    wait_until(is_idle, 120)


def wait_until_still(capture: Path) -> None:
    """Wait until a capture has not grown for two seconds: no more packets come."""

    def is_still() -> bool:
        before = capture.stat().st_size
        time.sleep(2.0)
        return capture.stat().st_size == before

    wait_until(is_still, 120)


def extract_records(capsys: pytest.CaptureFixture[str], capture: Path) -> Path:
    output = capture.with_suffix(".csv")
    assert call(capsys, EXTRACT, "--pcap", capture, "--output", output, "--raw", "--identity").code == 0
    return output


def test_packets_captured_live_give_the_records_of_their_pcap_bit_for_bit(
    replayed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    live, capture = replayed
    assert live.read_bytes() == extract_records(capsys, capture).read_bytes()
    assert len(pd.read_csv(live)) > 300


def test_traffic_of_real_programs_gives_the_records_of_its_pcap_apart_from_the_clocks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        skip_without_network(),
        Network(HOSTS, gateway="gateway", beyond=("203.0.113.0/24", "192.0.2.0/28")) as network,
    ):
        for name in ("gateway", "server"):
            serve(network[name])
        sensor = network.sensor

        def start_inside(command: list[str]) -> "subprocess.Popen[str]":
            return sensor.start(command, cwd=ROOT, stdout=subprocess.PIPE)

        with (
            stamped_once(),
            hosts.tcpdump(sensor, tmp_path / "all.pcap"),
            run_extraction(sensor.interface, tmp_path / "live.csv", start_inside),
        ):
            act(network, ORDERS, seconds=5.0, seed=1)
            wait_until_still(tmp_path / "all.pcap")  # on a busy machine, programs still take leave of each other
    live, heard = (
        pd.read_csv(path) for path in (tmp_path / "live.csv", extract_records(capsys, tmp_path / "all.pcap"))
    )
    same = [*IDENTITY, *(name for name in FEATURES if name not in OF_TIME)]
    pd.testing.assert_frame_equal(live[same], heard[same])
    steps = [name for name in OF_TIME if "variance" not in name and "throughput" not in name]
    differences = np.abs(live[steps].to_numpy() - heard[steps].to_numpy())
    # On a busy machine the kernel may be interrupted between the two rings, but only for a few packets.
    assert np.quantile(differences, 0.95) < MOST_DIFFERENCE
    assert {*live["address_a"]} >= {address for name, address in ATTACKERS.items() if name != "patient"} - {
        ATTACKERS["flooder"]
    }
