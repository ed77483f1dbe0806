"""Frames that are really sent come from an interface as they were: on a cable of the tests' own, and on loopback."""

import fcntl
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from dataset.packets.frames import Frames
from dataset.packets.interface import BLOCK, KEPT, RING, Interface, block_frames
from dataset.packets.packets import NO_PACKETS, Packets
from dataset.packets.traffic_counts import TrafficCounts
from dataset.records.live_records import Source
from tests.captures import Frame, read_packets
from tests.dataset.packets.test_captures import assert_same, expected, frame
from tests.namespaces import LEFT, RIGHT, cable_end, cannot, ip, need, own_network, stamped_once, tcpdump
from tests.offload.link_ends import wait_until
from utils.errors import CaptureError
from utils.stopping import Stop

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[3]
MICROSECONDS = 1_000_000
SMALLEST_RING = 2 * BLOCK
MOST_SECONDS = 120.0


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    with own_network():
        yield


def traffic(count: int, seed: int = 0) -> list[bytes]:
    """Return IPv4 frames of all protocols, sizes, header lengths and fragments; the rest of them is noise."""
    draw = random.Random(seed)
    frames = []
    for _ in range(count):
        words, size = draw.randint(5, 15), draw.choice((60, 64, 128, 129, 590, 1514))
        fragment = draw.choice((0, 0, 0, 0x2000, 0x2000 | 185, 370))
        protocol = draw.choice((1, 6, 6, 6, 17, 17, 47, 132))
        addresses = draw.randbytes(8)
        header = struct.pack(">BBHHHBBH", 0x40 | words, 0, size - 14, 0, fragment, 64, protocol, 0) + addresses
        frames.append(draw.randbytes(12) + b"\x08\0" + header + draw.randbytes(size - 34))
    return frames


def tagged(one: bytes) -> bytes:
    return one[:12] + b"\x81\0\0\5" + one[12:]


def received(interface: Interface, count: int) -> Packets:
    """Return what comes until that and what was dropped are so many packets, and what comes in a while after."""
    found = [NO_PACKETS]
    deadline = time.monotonic() + MOST_SECONDS
    while sum(map(len, found)) + (interface.counts.dropped or 0) < count and time.monotonic() < deadline:
        found.append(interface.packets(0.2))
    found.append(interface.packets(0.2))
    return Packets.joined(found)


def as_sent(frames: list[bytes], found: Packets) -> Packets:
    """Return the packets of frames, by a plain reader, with the times at which they were found."""
    assert len(found) == len(frames)
    rows: list[Frame] = [(time, len(one), one) for time, one in zip(found.timestamp.tolist(), frames, strict=True)]
    return expected(rows)


def refusal(name: str) -> str:
    with pytest.raises(CaptureError) as raised, Interface(name, TrafficCounts()):
        pass
    (message,) = str(raised.value).splitlines()
    return message


def test_packets_come_as_they_were_sent_in_their_order_and_at_their_times() -> None:
    frames, counts = traffic(3_000), TrafficCounts()
    with Interface(RIGHT, counts) as interface, cable_end() as end:
        before = time.time()
        for one in frames:
            end.send(one)
        after = time.time()
        found = received(interface, len(frames))
        assert interface.counts.dropped == 0
    assert_same(found, as_sent(frames, found))
    assert counts == TrafficCounts(ipv4=3_000, dropped=0)
    assert before * MICROSECONDS - 1 <= found.timestamp[0] and found.timestamp[-1] <= after * MICROSECONDS
    assert (np.diff(found.timestamp) >= 0).all()


def test_packets_are_what_tcpdump_writes_of_them_to_the_microsecond(tmp_path: Path) -> None:
    frames = traffic(2_000, seed=1)
    sent = [part for one in frames for part in (one, tagged(one), frame(1, kind=0x86DD))]
    capture = tmp_path / "tcpdump.pcap"
    with stamped_once(), tcpdump(capture), Interface(RIGHT, counts := TrafficCounts()) as interface:
        with cable_end() as end:
            for one in sent:
                end.send(one)
        found = received(interface, len(frames))
    assert_same(found, read_packets(capture))
    assert counts == TrafficCounts(ipv4=2_000, other=4_000, dropped=0)


def test_what_is_not_ipv4_is_counted_as_other_and_what_is_cut_off_as_malformed() -> None:
    counts = TrafficCounts()
    with Interface(RIGHT, counts) as interface, cable_end() as end:
        for one in (frame(1), frame(1, kind=0x0806), frame(1, kind=0x86DD), tagged(frame(1)), frame(1)[:33]):
            end.send(one)
        assert len(received(interface, 1)) == 1
    assert counts == TrafficCounts(ipv4=1, other=3, malformed=1, dropped=0)


def test_a_packet_on_loopback_is_counted_once_with_its_true_size() -> None:
    sizes = [100, 1_400, 60_000]
    with Interface("lo", counts := TrafficCounts()) as interface, socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.bind(("127.0.0.1", 0))
        for size in sizes:
            sender.sendto(bytes(size), sender.getsockname())
        found = received(interface, len(sizes))
    assert found.size.tolist() == [14 + 20 + 8 + size for size in sizes]
    assert counts == TrafficCounts(ipv4=3, dropped=0)


def test_both_directions_of_a_link_are_seen() -> None:
    with Interface(RIGHT, TrafficCounts()) as interface, cable_end(LEFT) as there, cable_end(RIGHT) as here:
        there.send(frame(1))
        here.send(frame(2))
        assert received(interface, 2).destination.tolist() == [0x0A000101, 0x0A000102]


def test_only_the_beginnings_of_frames_take_room() -> None:
    ring, size = 16 * BLOCK, 60_000
    count = 2 * ring // size
    with (
        Interface("lo", TrafficCounts(), ring_bytes=ring) as interface,
        socket.socket(type=socket.SOCK_DGRAM) as sender,
    ):
        sender.bind(("127.0.0.1", 0))
        for _ in range(count):
            sender.sendto(bytes(size), sender.getsockname())
        assert len(received(interface, count)) == count
        assert interface.counts.dropped == 0


def test_a_ring_goes_round_and_keeps_the_order() -> None:
    ring = 8 * BLOCK
    count = ring // 144 + 10_000
    one, found = frame(1), [NO_PACKETS]
    with Interface(RIGHT, TrafficCounts(), ring_bytes=ring) as interface, cable_end() as end:
        for number in range(count):
            end.send(one[:34] + struct.pack(">I", number) + one[38:])  # where the ports stand
            if not interface.is_drained:
                found.append(interface.packets(0))
        found.append(received(interface, count - sum(map(len, found))))
        assert interface.counts.dropped == 0
    np.testing.assert_array_equal(Packets.joined(found).ports, np.arange(count))


def test_what_the_ring_has_no_room_for_is_counted_to_the_frame() -> None:
    count = 3 * SMALLEST_RING // 144
    with Interface(RIGHT, counts := TrafficCounts(), ring_bytes=SMALLEST_RING) as interface, cable_end() as end:
        for _ in range(count):
            end.send(frame(1))
        found = len(received(interface, count))
        once = interface.counts.dropped or 0
        end.send(frame(1))
        assert len(received(interface, 1)) == 1  # it goes on
    assert interface.counts.dropped == once > count // 2
    assert found + once == count
    assert counts.packets == found + 1


def test_it_is_drained_when_all_that_came_was_read() -> None:
    source: Source
    with Interface(RIGHT, TrafficCounts()) as source, cable_end() as end:
        assert source.is_drained
        end.send(frame(1))
        wait_until(lambda: not source.is_drained)
        assert len(source.packets(0)) == 1
        assert source.is_drained
        assert len(source.packets(0)) == 0


def test_a_link_that_goes_down_is_waited_for() -> None:
    with Interface(RIGHT, TrafficCounts()) as interface, cable_end() as end:
        end.send(frame(1))
        ip("link", "set", RIGHT, "down")
        assert len(received(interface, 1)) == 1
        looks = 0
        end_of_wait = time.monotonic() + 0.5
        while time.monotonic() < end_of_wait:
            assert len(interface.packets(0.1)) == 0
            looks += 1
        assert looks < 20  # it really waits
        ip("link", "set", RIGHT, "up")
        found = NO_PACKETS
        deadline = time.monotonic() + MOST_SECONDS
        while not len(found) and time.monotonic() < deadline:  # the cable takes a while to be one again
            end.send(frame(2))
            found = interface.packets(0.05)
        assert found.destination[0] == 0x0A000102


def test_an_interface_that_is_removed_ends_it_once_all_was_read() -> None:
    with Interface(RIGHT, TrafficCounts()) as interface, cable_end() as end:
        end.send(frame(1))
        ip("link", "delete", RIGHT)
        assert len(interface.packets(1.0)) == 1
        with pytest.raises(CaptureError, match="right: the interface was removed; start again when it is back"):
            for _ in range(100):
                interface.packets(0.05)


def test_a_signal_ends_no_wait() -> None:
    stop = Stop()
    with Interface(RIGHT, TrafficCounts()) as interface, stop.on_signals():
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        while not stop.requested:
            assert len(interface.packets(0.5)) == 0


def test_an_interface_that_is_not_there_is_refused_with_those_that_are() -> None:
    for name in ("eth77", "", "a-name-that-no-interface-can-have", f"{RIGHT}-and-more-than-it"):
        message = refusal(name)
        assert message.startswith(f"{name}: no such interface; there are lo, ")
        assert {LEFT, RIGHT} <= set(message.rpartition("are ")[2].split(", "))


def test_an_interface_that_is_down_is_refused_with_the_command_that_helps() -> None:
    ip("link", "set", RIGHT, "down")
    assert refusal(RIGHT) == "right: is down; bring it up, with: ip link set right up"


def test_a_ring_that_memory_has_no_room_for_is_refused() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + RING // 2, before[1]))
    try:
        assert refusal(RIGHT) == "right: there is not enough memory for its ring; ask for a smaller one"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_elsewhere_than_on_linux_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_PACKET")
    assert refusal(RIGHT).startswith("interfaces are captured on Linux alone")


CHILD = """
import sys
from dataset.packets.traffic_counts import TrafficCounts
from dataset.packets.interface import Interface
from utils.errors import CaptureError
try:
    with Interface("right", TrafficCounts()) as interface:
        print("ready", flush=True)
        print(len(interface.packets(30.0)))
except CaptureError as problem:
    print(problem)
"""


@contextmanager
def child_with(capabilities: str) -> Iterator[subprocess.Popen[str]]:
    """Capture in a process that has no capabilities but these."""
    need("setpriv", "util-linux")
    command = ["setpriv", f"--bounding-set=-all{capabilities}", "--inh-caps=-all", sys.executable, "-c", CHILD]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        try:
            yield program
        finally:
            program.kill()


def test_it_needs_no_capability_but_that_of_raw_sockets_and_sees_frames_for_others() -> None:
    assert "promiscuity 0" in ip("-details", "link", "show", RIGHT)
    with child_with(",+net_raw") as program, cable_end() as end:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        assert "promiscuity 1" in ip("-details", "link", "show", RIGHT)
        end.send(frame(1))
        assert program.stdout.read() == "1\n"
    assert "promiscuity 0" in ip("-details", "link", "show", RIGHT)


def test_without_that_capability_it_says_what_is_missing_and_how_to_give_it() -> None:
    with child_with("") as program:
        assert program.stdout is not None
        (message,) = program.stdout.read().splitlines()
    assert message.startswith("right: capturing needs CAP_NET_RAW: run as root, or ")
    assert "setcap cap_net_raw+ep" in message and "AmbientCapabilities=CAP_NET_RAW" in message


@contextmanager
def tunnel(kind: int | None = None) -> Iterator[int]:
    """Make an interface ``tunnel`` whose packets are read and written by a file; ``kind``: an ARPHRD_ number."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        cannot("/dev/net/tun is not here")
    file = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(file, 0x400454CA, struct.pack("16sH22x", b"tunnel", 0x1001))  # TUNSETIFF: TUN without more headers
        if kind is not None:
            fcntl.ioctl(file, 0x400454CD, kind)  # TUNSETLINK
        ip("link", "set", "tunnel", "up")
        yield file
    finally:
        os.close(file)


def test_a_tunnel_gives_packets_of_the_size_they_would_have_on_ethernet() -> None:
    frames = traffic(50, seed=2)
    with tunnel() as file, Interface("tunnel", counts := TrafficCounts()) as interface:
        for one in frames:
            os.write(file, one[14:])
        os.write(file, b"\x60" + bytes(39))  # IPv6
        found = received(interface, len(frames))
    assert_same(found, as_sent(frames, found))
    assert counts == TrafficCounts(ipv4=50, other=1, dropped=0)


def test_an_interface_of_another_kind_is_refused_with_those_that_are_known() -> None:
    with tunnel(kind=801):
        assert refusal("tunnel") == (
            "tunnel: is of ARPHRD type 801; known are Ethernet, loopback and raw IP, such as a tunnel's"
        )


def block_of(frames: list[Frame]) -> bytes:
    """Return a block as the kernel would fill it."""
    body = b""
    for number, (at, size, captured) in enumerate(frames):
        length = -(-(82 + len(captured)) // 8) * 8
        step = 0 if number == len(frames) - 1 else length
        numbers = (step, at // MICROSECONDS, at % MICROSECONDS * 1_000 + 999, len(captured), size, 1)
        body += (struct.pack("6IHH", *numbers, 82, 96).ljust(82, b"\0") + captured).ljust(length, b"\0")
    return struct.pack("II4I24x", 1, 48, 1, len(frames), 48, 48 + len(body)) + body


def sample_block() -> tuple[bytes, list[Frame]]:
    frames: list[Frame] = [(2**31 * MICROSECONDS + number, len(one), one[:KEPT]) for number, one in
                           enumerate(traffic(20, seed=3))]  # fmt: skip
    return block_of(frames), frames


def test_times_are_rounded_down_to_the_microsecond() -> None:
    block, frames = sample_block()
    found, others = block_frames(block, 1)
    assert others == 0
    assert found.timestamp.tolist() == [time for time, _, _ in frames]


def test_no_damage_to_a_block_leads_beyond_it() -> None:
    block, _ = sample_block()
    draw, damaged = random.Random(4), 0
    for _ in range(3_000):
        bad = bytearray(block[: draw.choice((len(block), draw.randrange(len(block))))])
        for _ in range(draw.randint(1, 4)):
            if bad:
                bad[draw.choice((draw.randrange(len(bad)), draw.randrange(min(len(bad), 80))))] = draw.randrange(256)
        try:
            found, _ = block_frames(bytes(bad), 1)
        except CaptureError as problem:
            assert "the kernel's ring is damaged" in str(problem)
            damaged += 1
        else:
            assert within(found)
    assert 500 < damaged < 3_000


def within(frames: Frames) -> bool:
    whole = frames.captured > 0
    return bool((frames.start + frames.captured <= len(frames.content))[whole].all())
