import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from dataset.packets.packets import Packets
from dataset.records.capture_records import read_capture_records
from dataset.records.labels import read_labels
from dataset.records.windows import Windows
from tests.captures import read_frames, read_packets
from tests.network.hosts import Host, Network, NetworkError, skip_without_network, tcpdump
from tests.network.scenario import ATTACKERS, OFFICE, ROOT, SERVER, act, list_attackers, serve
from tests.network.traffic import FORGED, TRANSFER
from tests.offload.link_ends import wait_until
from tests.scripts import EXTRACT, call
from utils.dataset import read_labelled
from utils.records import Records
from utils.schema import ATTACK

pytestmark = pytest.mark.system

HOSTS = {"gateway": "10.77.0.1", "left": "10.77.0.2", "right": "10.77.0.3"}
MAKE_CAPTURE = ROOT / "tests" / "network" / "make_capture.py"
ICMP, TCP, UDP = 1, 6, 17
ECHO_REQUEST = 8 << 16
SYN, PUSH, ACK = 2, 8, 16
LARGEST_FRAME = 1514


@pytest.fixture
def network() -> Iterator[Network]:
    with skip_without_network(), Network(HOSTS, gateway="gateway", beyond=["203.0.113.0/24"]) as made:
        yield made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The start of the names of a short capture and its labels; a busy machine needs a longer capture."""
    with skip_without_network(), Network({}):
        pass
    for seconds in (4, 12, 36):
        folder = tmp_path_factory.mktemp("network")
        command = [sys.executable, str(MAKE_CAPTURE), "--output", "made", "--seconds", str(seconds)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert [path.name for path in sorted(folder.iterdir())] == ["made-labels.txt", "made.pcap.gz"]
        packets = read_packets(folder / "made.pcap.gz")
        if sum(len(select_sent(packets, address, SERVER, TCP, 80)) for address in FORGED) >= 40:
            break
    return folder / "made"


@pytest.fixture(scope="module")
def packets(made: Path) -> Packets:
    return read_packets(made.with_name("made.pcap.gz"))


def parse_address(address: str) -> int:
    return int(IPv4Address(address))


def select_sent(
    packets: Packets, source: str, destination: str | None, protocol: int, port: int | None = None
) -> Packets:
    """Return the packets that an address sent, to one destination and port or, by default, to all."""
    chosen = (packets.source == parse_address(source)) & (packets.protocol == protocol)
    if destination is not None:
        chosen &= packets.destination == parse_address(destination)
    if port is not None:
        chosen &= packets.ports & 0xFFFF == port
    return packets.take(np.flatnonzero(chosen))


def select_flags(packets: Packets, flags: int) -> Packets:
    return packets.take(np.flatnonzero(packets.tcp_flags & flags == flags))


def count_probed_ports(packets: Packets) -> int:
    return len(np.unique(packets.take(np.flatnonzero(packets.tcp_flags == SYN)).ports & 0xFFFF))


def read_namespace(pid: int | str) -> str:
    """Return the network namespace of a process; an empty text if the process has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")  # noqa: PTH115  # its target is no path
    except OSError:
        return ""


def is_inhabited(namespaces: set[str]) -> bool:
    return any(read_namespace(path.name) in namespaces for path in Path("/proc").glob("[0-9]*"))


def list_namespaces(*hosts: Host) -> set[str]:
    return {host.run(["readlink", "/proc/self/ns/net"]).strip() for host in hosts}


def list_interfaces(host: Host) -> list[str]:
    return sorted(line.split(": ")[1].partition("@")[0] for line in host.run(["ip", "-o", "link"]).splitlines())


def test_hosts_reach_only_each_other_and_the_networks_of_the_gateway() -> None:
    own = socket.if_nameindex()
    with skip_without_network(), Network(HOSTS, gateway="gateway", beyond=["203.0.113.0/24"]) as network:
        left = network["left"]
        for address in (HOSTS["right"], "203.0.113.9"):
            assert "1 received" in left.run(["ping", "-n", "-c", "1", address])
        with pytest.raises(NetworkError, match="0 received"):
            left.run(["ping", "-n", "-c", "1", "-W", "1", "192.0.2.9"])
        for host in (network.sensor, *(network[name] for name in HOSTS)):
            assert list_interfaces(host) == ["eth0", "lo"]
        assert list_interfaces(network.hub) == sorted([*HOSTS, "hub", "lo", "sensor"])
        assert socket.if_nameindex() == own


def test_every_frame_reaches_the_sensor_once_and_complete(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "ping.pcap"
    with tcpdump(network.sensor, path):
        network["left"].run(["ping", "-n", "-q", "-c", "3", "-i", "0.2", "-s", "1400", HOSTS["right"]])
    heard = read_packets(path)
    there, back = (select_sent(heard, HOSTS[name], None, ICMP) for name in ("left", "right"))
    assert (len(heard), len(there), len(back)) == (6, 3, 3)
    assert set(heard.size) == {14 + 20 + 8 + 1400}


def test_two_listeners_capture_the_same_frames_in_the_same_order_as_on_a_wire(network: Network, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.pcap", "other.pcap")]
    orders = [("left", activity, HOSTS["right"], 0.0, 1.0) for activity in ("transfer", "work", "scan_ports")]
    serve(network["right"])
    with tcpdump(network.sensor, paths[0]), tcpdump(network.sensor, paths[1]):
        act(network, orders, seconds=1.0, seed=1)
    one, other = ([frame[1:] for frame in read_frames(path)] for path in paths)
    both = min(len(one), len(other))  # one of them may listen longer and capture a late reply
    assert one[:both] == other[:both]
    assert both > TRANSFER // 1_448
    assert max(size for size, _ in one) == LARGEST_FRAME
    assert all(has_right_checksums(frame) for _, frame in one if frame[12:14] == b"\x08\x00")


def has_right_checksums(frame: bytes) -> bool:
    """Return whether the checksums of an IPv4 packet, and of its TCP segment if any, are right."""
    header, segment = frame[14:34], frame[34 : 14 + int.from_bytes(frame[16:18])]
    pseudo = header[12:20] + bytes((0, TCP)) + len(segment).to_bytes(2)
    return sum_ones_complement(header) == 0xFFFF and (
        header[9] != TCP or sum_ones_complement(pseudo + segment) == 0xFFFF
    )


def sum_ones_complement(content: bytes) -> int:
    total: int = sum(struct.unpack(f">{(len(content) + 1) // 2}H", content + bytes(len(content) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize("client", OFFICE.values())
def test_an_office_host_browses_resolves_names_works_transfers_and_pings(packets: Packets, client: str) -> None:
    pages = select_sent(packets, client, None, TCP, 80)
    assert np.any(pages.destination >> 8 == parse_address("203.0.113.0") >> 8)
    assert len(select_sent(packets, client, SERVER, UDP, 53)) >= 1
    assert len(select_flags(select_sent(packets, client, SERVER, TCP, 22), PUSH)) >= 3
    assert np.any(select_sent(packets, client, None, ICMP).ports == ECHO_REQUEST)
    large = [way.size == LARGEST_FRAME for way in (pages, select_sent(packets, SERVER, client, TCP))]
    assert sum(map(np.count_nonzero, large)) >= TRANSFER // 1_448


def test_each_attacker_makes_its_attacks(packets: Packets) -> None:
    scanner, sweeper, flooder, guesser, patient = ATTACKERS.values()
    office1, office2, office3 = OFFICE.values()
    assert count_probed_ports(select_sent(packets, scanner, SERVER, TCP)) >= 20
    assert count_probed_ports(select_sent(packets, scanner, office2, TCP)) >= 10
    assert len(np.unique(select_sent(packets, sweeper, None, ICMP).destination)) >= 10
    assert len(select_sent(packets, flooder, office1, UDP)) >= 20
    assert sum(len(select_sent(packets, address, SERVER, TCP, 80)) for address in FORGED) >= 40
    assert sum(len(select_flags(select_sent(packets, SERVER, address, TCP), SYN | ACK)) for address in FORGED) >= 40
    assert len(select_flags(select_sent(packets, guesser, SERVER, TCP, 22), PUSH)) >= 6
    assert 1 <= count_probed_ports(select_sent(packets, patient, office3, TCP)) <= 20


def test_extraction_finds_records_of_every_attacker_and_office_host(
    capsys: pytest.CaptureFixture[str], made: Path, tmp_path: Path
) -> None:
    output = tmp_path / "records.csv"
    ended = call(capsys, EXTRACT, "--pcap", f"{made}.pcap.gz", "--output", output, "--identity")
    assert (ended.code, ended.err) == (0, "")
    table = pd.read_csv(output)
    found = {*table["address_a"], *table["address_b"]}
    assert {*ATTACKERS.values(), *OFFICE.values()} <= found
    assert len(found & set(FORGED)) >= 20
    assert not found & {"0.0.0.0", "255.255.255.255"}


def test_a_closed_network_leaves_nothing(network: Network) -> None:
    made = list_namespaces(network.hub, network.sensor, *(network[name] for name in HOSTS))
    sleeping = network["left"].start(["sleep", "60"])
    assert len(made) == len(HOSTS) + 2
    assert is_inhabited(made)
    network.__exit__(None, None, None)
    assert sleeping.poll() == -signal.SIGKILL
    assert not is_inhabited(made)


def test_a_killed_process_leaves_nothing_of_its_network() -> None:
    with skip_without_network(), Network({}):
        pass
    program = (
        "from tests.network.hosts import Network\n"
        f"with Network({HOSTS}) as network:\n"
        "    network['left'].start(['sleep', '60'])\n"
        "    print(*(host.run(['readlink', '/proc/self/ns/net']).strip() for host in (network.hub, network['left'])))\n"
        "    print(flush=True)\n"
        "    network['right'].start(['sleep', '60']).wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        made = set(maker.stdout.readline().split())
        assert len(made) == 2
        assert is_inhabited(made)
        maker.kill()
    wait_until(lambda: not is_inhabited(made))


@pytest.mark.parametrize(("under_ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_missing_programs_are_named_and_fail_only_under_ci(
    monkeypatch: pytest.MonkeyPatch, under_ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", under_ci)
    packages = "ethtool iproute2 iputils-ping tcpdump util-linux"
    with pytest.raises(outcome, match=f"apt install {packages}"), skip_without_network(), Network({}):
        pass


def test_the_labels_of_a_capture_match_the_attackers(made: Path) -> None:
    records, labels = read_labelled_capture(made)
    attackers_records = [
        {*pair} & set(map(parse_address, list_attackers()))
        for pair in zip(records.address_a, records.address_b, strict=True)
    ]
    assert labels.tolist() == [int(bool(found)) for found in attackers_records]
    assert 20 < np.count_nonzero(labels == ATTACK) < len(labels) - 20


def read_labelled_capture(name: Path) -> tuple[Records, NDArray[np.int64]]:
    """Return the records of a capture and their classes, given the start of its name."""
    capture, truth = (name.with_name(name.name + ending) for ending in (".pcap.gz", "-labels.txt"))
    records = Records.concatenate(list(read_capture_records([capture], Windows())))
    return records, read_labels(truth).classify(records)


def test_the_bundled_capture_matches_its_readme(sample: Path) -> None:
    description = (sample / "network" / "README.md").read_text()
    capture = sample / "network" / "capture.pcap.gz"
    frames = list(read_frames(capture))
    records, labels = read_labelled_capture(sample / "network" / "capture")
    attacks = np.count_nonzero(labels == ATTACK)
    assert f"{len(frames):,} frames" in description
    for name in ("train.csv.gz", "choose.csv.gz"):
        assert re.search(rf"`{name}` \({len(read_labelled(sample / 'network' / name)[1])}( records)?\)", description)
    assert f"{len(records)} records in {len(np.unique(records.window_start))} windows" in description
    assert f"{attacks} of them attacks" in description
    assert {size for _, size, _ in frames} <= set(range(42, LARGEST_FRAME + 1))
    assert max(len(kept) for _, _, kept in frames) == 96
    assert capture.stat().st_size < 400_000
    addresses = {*records.address_a, *records.address_b}
    assert {parse_address(address) for address in list_attackers()} <= addresses
