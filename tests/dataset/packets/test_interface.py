"""Frames sent on a virtual cable and on loopback are captured unchanged."""

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
from dataset.packets.interface import BLOCK_BYTES, RING_BYTES, SNAP_LENGTH, Interface, parse_block
from dataset.packets.packets import NO_PACKETS, Packets
from dataset.packets.traffic_counts import TrafficCounts
from dataset.records.live_records import Source
from tests.captures import Frame, read_packets
from tests.dataset.packets.test_captures import assert_same, frame, make_packets
from tests.namespaces import LEFT, RIGHT, cable_end, cannot, ip, need, own_network, stamped_once, tcpdump
from tests.offload.link_ends import wait_until
from utils.errors import CaptureError
from utils.stopping import Stop

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[3]
MICROSECONDS = 1_000_000
SMALLEST_RING = 2 * BLOCK_BYTES
MOST_SECONDS = 120.0


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    with own_network():
        yield


def make_traffic(count: int, seed: int = 0) -> list[bytes]:
    """Return IPv4 frames of various protocols, sizes, header lengths and fragments with random payload."""
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


def add_tag(one: bytes) -> bytes:
    return one[:12] + b"\x81\0\0\5" + one[12:]


def receive(interface: Interface, count: int) -> Packets:
    """Return the packets captured until ``count`` were captured or dropped, and those of one more read."""
    found = [NO_PACKETS]
    deadline = time.monotonic() + MOST_SECONDS
    while sum(map(len, found)) + (interface.counts.dropped or 0) < count and time.monotonic() < deadline:
        found.append(interface.read_packets(0.2))
    found.append(interface.read_packets(0.2))
    return Packets.concatenate(found)


def expect_packets(frames: list[bytes], found: Packets) -> Packets:
    """Return the packets that a plain reader finds in frames, with the timestamps of ``found``."""
    assert len(found) == len(frames)
    rows: list[Frame] = [(time, len(one), one) for time, one in zip(found.timestamp.tolist(), frames, strict=True)]
    return make_packets(rows)


def capture_refusal(name: str) -> str:
    with pytest.raises(CaptureError) as raised, Interface(name, TrafficCounts()):
        pass
    (message,) = str(raised.value).splitlines()
    return message


def test_packets_arrive_as_sent_in_order_and_with_their_times() -> None:
    frames, counts = make_traffic(3_000), TrafficCounts()
    with Interface(RIGHT, counts) as interface, cable_end() as end:
        before = time.time()
        for one in frames:
            end.send(one)
        after = time.time()
        found = receive(interface, len(frames))
        assert interface.counts.dropped == 0
    assert_same(found, expect_packets(frames, found))
    assert counts == TrafficCounts(ipv4=3_000, dropped=0)
    assert before * MICROSECONDS - 1 <= found.timestamp[0] and found.timestamp[-1] <= after * MICROSECONDS
    assert (np.diff(found.timestamp) >= 0).all()


def test_packets_equal_those_in_tcpdumps_capture_to_the_microsecond(tmp_path: Path) -> None:
    frames = make_traffic(2_000, seed=1)
    sent = [part for one in frames for part in (one, add_tag(one), frame(1, kind=0x86DD))]
    capture = tmp_path / "tcpdump.pcap"
    with stamped_once(), tcpdump(capture), Interface(RIGHT, counts := TrafficCounts()) as interface:
        with cable_end() as end:
            for one in sent:
                end.send(one)
        found = receive(interface, len(frames))
    assert_same(found, read_packets(capture))
    assert counts == TrafficCounts(ipv4=2_000, other=4_000, dropped=0)


def test_frames_that_are_not_ipv4_count_as_other_and_short_ones_as_malformed() -> None:
    counts = TrafficCounts()
    with Interface(RIGHT, counts) as interface, cable_end() as end:
        for one in (frame(1), frame(1, kind=0x0806), frame(1, kind=0x86DD), add_tag(frame(1)), frame(1)[:33]):
            end.send(one)
        assert len(receive(interface, 1)) == 1
    assert counts == TrafficCounts(ipv4=1, other=3, malformed=1, dropped=0)


def test_a_packet_on_loopback_is_counted_once_with_its_true_size() -> None:
    sizes = [100, 1_400, 60_000]
    with Interface("lo", counts := TrafficCounts()) as interface, socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.bind(("127.0.0.1", 0))
        for size in sizes:
            sender.sendto(bytes(size), sender.getsockname())
        found = receive(interface, len(sizes))
    assert found.size.tolist() == [14 + 20 + 8 + size for size in sizes]
    assert counts == TrafficCounts(ipv4=3, dropped=0)


def test_both_directions_of_a_link_are_captured() -> None:
    with Interface(RIGHT, TrafficCounts()) as interface, cable_end(LEFT) as there, cable_end(RIGHT) as here:
        there.send(frame(1))
        here.send(frame(2))
        assert receive(interface, 2).destination.tolist() == [0x0A000101, 0x0A000102]


def test_only_the_first_bytes_of_frames_take_room() -> None:
    ring, size = 16 * BLOCK_BYTES, 60_000
    count = 2 * ring // size
    with (
        Interface("lo", TrafficCounts(), ring_bytes=ring) as interface,
        socket.socket(type=socket.SOCK_DGRAM) as sender,
    ):
        sender.bind(("127.0.0.1", 0))
        for _ in range(count):
            sender.sendto(bytes(size), sender.getsockname())
        assert len(receive(interface, count)) == count
        assert interface.counts.dropped == 0


def test_a_ring_that_wraps_around_keeps_the_order() -> None:
    ring = 8 * BLOCK_BYTES
    count = ring // 144 + 10_000
    one, found = frame(1), [NO_PACKETS]
    with Interface(RIGHT, TrafficCounts(), ring_bytes=ring) as interface, cable_end() as end:
        for number in range(count):
            end.send(one[:34] + struct.pack(">I", number) + one[38:])  # where the ports stand
            if not interface.is_drained:
                found.append(interface.read_packets(0))
        found.append(receive(interface, count - sum(map(len, found))))
        assert interface.counts.dropped == 0
    np.testing.assert_array_equal(Packets.concatenate(found).ports, np.arange(count))


def test_frames_without_room_in_the_ring_are_counted_exactly() -> None:
    count = 3 * SMALLEST_RING // 144
    with Interface(RIGHT, counts := TrafficCounts(), ring_bytes=SMALLEST_RING) as interface, cable_end() as end:
        for _ in range(count):
            end.send(frame(1))
        found = len(receive(interface, count))
        once = interface.counts.dropped or 0
        end.send(frame(1))
        assert len(receive(interface, 1)) == 1  # capturing continues
    assert interface.counts.dropped == once > count // 2
    assert found + once == count
    assert counts.packets == found + 1


def test_it_is_drained_once_all_packets_were_read() -> None:
    source: Source
    with Interface(RIGHT, TrafficCounts()) as source, cable_end() as end:
        assert source.is_drained
        end.send(frame(1))
        wait_until(lambda: not source.is_drained)
        assert len(source.read_packets(0)) == 1
        assert source.is_drained
        assert len(source.read_packets(0)) == 0


def test_a_link_that_goes_down_may_come_up_again() -> None:
    with Interface(RIGHT, TrafficCounts()) as interface, cable_end() as end:
        end.send(frame(1))
        ip("link", "set", RIGHT, "down")
        assert len(receive(interface, 1)) == 1
        reads = 0
        end_of_wait = time.monotonic() + 0.5
        while time.monotonic() < end_of_wait:
            assert len(interface.read_packets(0.1)) == 0
            reads += 1
        assert reads < 20  # the reads block
        ip("link", "set", RIGHT, "up")
        found = NO_PACKETS
        deadline = time.monotonic() + MOST_SECONDS
        while not len(found) and time.monotonic() < deadline:  # the link takes a while to come up
            end.send(frame(2))
            found = interface.read_packets(0.05)
        assert found.destination[0] == 0x0A000102


def test_a_removed_interface_raises_an_error_once_all_packets_were_read() -> None:
    with Interface(RIGHT, TrafficCounts()) as interface, cable_end() as end:
        end.send(frame(1))
        ip("link", "delete", RIGHT)
        assert len(interface.read_packets(1.0)) == 1
        with pytest.raises(CaptureError, match="right: the interface was removed; start again when it is back"):
            for _ in range(100):
                interface.read_packets(0.05)


def test_a_signal_during_a_wait_raises_no_error() -> None:
    stop = Stop()
    with Interface(RIGHT, TrafficCounts()) as interface, stop.on_signals():
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        while not stop.requested:
            assert len(interface.read_packets(0.5)) == 0


def test_a_missing_interface_is_refused_with_a_list_of_the_others() -> None:
    for name in ("eth77", "", "a-name-that-no-interface-can-have", f"{RIGHT}-and-more-than-it"):
        message = capture_refusal(name)
        assert message.startswith(f"{name}: no such interface; choose one of lo, ")
        assert {LEFT, RIGHT} <= set(message.rpartition("one of ")[2].split(", "))


def test_an_interface_that_is_down_is_refused_with_the_command_that_helps() -> None:
    ip("link", "set", RIGHT, "down")
    assert capture_refusal(RIGHT) == "right: is down; bring it up, with: ip link set right up"


def test_a_ring_larger_than_memory_is_refused() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + RING_BYTES // 2, before[1]))
    try:
        assert capture_refusal(RIGHT) == "right: there is not enough memory for the ring buffer; free some"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_an_interface_is_refused_outside_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_PACKET")
    assert capture_refusal(RIGHT).startswith("interfaces can be captured on Linux only")


CHILD = """
import sys
from dataset.packets.traffic_counts import TrafficCounts
from dataset.packets.interface import Interface
from utils.errors import CaptureError
try:
    with Interface("right", TrafficCounts()) as interface:
        print("ready", flush=True)
        print(len(interface.read_packets(30.0)))
except CaptureError as problem:
    print(problem)
"""


@contextmanager
def child_with(capabilities: str) -> Iterator[subprocess.Popen[str]]:
    """Capture in a process with no other capabilities than these."""
    need("setpriv", "util-linux")
    command = ["setpriv", f"--bounding-set=-all{capabilities}", "--inh-caps=-all", sys.executable, "-c", CHILD]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        try:
            yield program
        finally:
            program.kill()


def test_it_needs_only_cap_net_raw_and_captures_frames_for_other_hosts() -> None:
    assert "promiscuity 0" in ip("-details", "link", "show", RIGHT)
    with child_with(",+net_raw") as program, cable_end() as end:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        assert "promiscuity 1" in ip("-details", "link", "show", RIGHT)
        end.send(frame(1))
        assert program.stdout.read() == "1\n"
    assert "promiscuity 0" in ip("-details", "link", "show", RIGHT)


def test_without_cap_net_raw_the_error_says_how_to_grant_it() -> None:
    with child_with("") as program:
        assert program.stdout is not None
        (message,) = program.stdout.read().splitlines()
    assert message.startswith("right: capturing needs CAP_NET_RAW: run as root, or ")
    assert "setcap cap_net_raw+ep" in message and "AmbientCapabilities=CAP_NET_RAW" in message


@contextmanager
def tunnel(kind: int | None = None) -> Iterator[int]:
    """Create an interface ``tunnel`` of an ARPHRD_ type; yield the file that reads and writes its packets."""
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


def test_packets_of_a_tunnel_have_their_size_on_ethernet() -> None:
    frames = make_traffic(50, seed=2)
    with tunnel() as file, Interface("tunnel", counts := TrafficCounts()) as interface:
        for one in frames:
            os.write(file, one[14:])
        os.write(file, b"\x60" + bytes(39))  # IPv6
        found = receive(interface, len(frames))
    assert_same(found, expect_packets(frames, found))
    assert counts == TrafficCounts(ipv4=50, other=1, dropped=0)


def test_an_interface_of_an_unsupported_type_is_refused() -> None:
    with tunnel(kind=801):
        assert capture_refusal("tunnel") == (
            "tunnel: is of ARPHRD type 801; supported are Ethernet, loopback and raw IP, such as a tunnel"
        )


def make_block(frames: list[Frame]) -> bytes:
    """Return a block as the kernel would fill it."""
    body = b""
    for number, (at, size, captured) in enumerate(frames):
        length = -(-(82 + len(captured)) // 8) * 8
        step = 0 if number == len(frames) - 1 else length
        numbers = (step, at // MICROSECONDS, at % MICROSECONDS * 1_000 + 999, len(captured), size, 1)
        body += (struct.pack("6IHH", *numbers, 82, 96).ljust(82, b"\0") + captured).ljust(length, b"\0")
    return struct.pack("II4I24x", 1, 48, 1, len(frames), 48, 48 + len(body)) + body


def make_sample_block() -> tuple[bytes, list[Frame]]:
    frames: list[Frame] = [(2**31 * MICROSECONDS + number, len(one), one[:SNAP_LENGTH]) for number, one in
                           enumerate(make_traffic(20, seed=3))]  # fmt: skip
    return make_block(frames), frames


def test_times_are_rounded_down_to_the_microsecond() -> None:
    block, frames = make_sample_block()
    found, others = parse_block(block, 1)
    assert others == 0
    assert found.timestamp.tolist() == [time for time, _, _ in frames]


def test_a_damaged_block_never_gives_frames_beyond_its_end() -> None:
    block, _ = make_sample_block()
    draw, damaged = random.Random(4), 0
    for _ in range(3_000):
        bad = bytearray(block[: draw.choice((len(block), draw.randrange(len(block))))])
        for _ in range(draw.randint(1, 4)):
            if bad:
                bad[draw.choice((draw.randrange(len(bad)), draw.randrange(min(len(bad), 80))))] = draw.randrange(256)
        try:
            found, _ = parse_block(bytes(bad), 1)
        except CaptureError as problem:
            assert "the kernel's ring is damaged" in str(problem)
            damaged += 1
        else:
            assert are_within(found)
    assert 500 < damaged < 3_000


def are_within(frames: Frames) -> bool:
    whole = frames.captured > 0
    return bool((frames.start + frames.captured <= len(frames.content))[whole].all())
