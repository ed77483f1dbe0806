#!/usr/bin/env python3
"""How many packets a second a live sensor on one core takes from an interface, up to its records, without a loss.

Run, as root:
    python tests/benchmarks/live.py [--rates N ...] [--seconds S] [--ring MIB] [--steered]

A cable is laid in a network namespace of its own. One process, on core 0, sends frames of 2,000 hosts of 60 to 1,514
bytes; another, on core 1, captures, and makes the records of each window once it is over, while frames go on coming.
Each step begins with a window. Core 0 does the kernel's part of receiving too, as another core than the sensor's
may for a network card; ``--steered`` has core 1 do that besides, so that all is done on one core. Both processes go
before others that run here, so that a busy machine has nearly the figures of an idle one; how long the sensor had to
wait for its core is told.
"""

import argparse
import ctypes
import multiprocessing
import os
import random
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

from dataset.packets.interface import Interface
from dataset.packets.traffic_counts import TrafficCounts
from dataset.records.live_records import make_live_windows, read_live_records
from tests.namespaces import RIGHT, cable_end, own_network
from utils.records import WINDOW_SECONDS
from utils.stopping import Stop

SENDER, RECEIVER = 0, 1
POOL = 50_000
TURN = 0.001
MOST_AT_ONCE = 1_024  # messages that a call of sendmmsg takes


class Message(ctypes.Structure):
    """``struct mmsghdr`` of 64 bits."""

    _fields_ = (
        ("name", ctypes.c_void_p), ("name_length", ctypes.c_size_t), ("parts", ctypes.c_void_p),
        ("part_count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_size_t), ("sent", ctypes.c_size_t),
    )  # fmt: skip


class Part(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("start", ctypes.c_char_p), ("length", ctypes.c_size_t))


@dataclass
class Seen:
    """What the sensor made of a step."""

    counts: TrafficCounts = field(default_factory=TrafficCounts)
    records: int = 0
    slowest: float = 0.0  # seconds from a window's end to its records
    cpu: float = 0.0  # seconds
    waited: float = 0.0  # seconds, for the core
    memory: int = 0  # MB at most


def mixed_frames(seed: int = 0) -> list[bytes]:
    """Return frames that few of 2,000 hosts send or receive most of."""
    draw = random.Random(seed)
    frames = []
    for _ in range(POOL):
        busy, other = int(2_000 * draw.random() ** 3), draw.randrange(2_000)
        hosts = (busy, other) if draw.random() < 0.5 else (other, busy)
        size = draw.choices((60, draw.randint(61, 1513), 1514), (45, 20, 35))[0]
        protocol = draw.choices((6, 17, 1), (80, 18, 2))[0]
        addresses = (0x0A000000 + host for host in hosts)
        header = struct.pack(">BBHHHBBHII", 0x45, 0, size - 14, 0, 0, 64, protocol, 0, *addresses)
        ports = struct.pack(">HHIIBB", draw.randrange(1024, 65536), 443, 0, 0, 0x50, draw.choice((2, 16, 24)))
        frames.append((bytes(12) + b"\x08\0" + header + ports).ljust(size, b"\0"))
    return frames


def send(rate: int, seconds: float) -> float:
    """Send frames at a rate; return the rate it was."""
    frames = mixed_frames()
    parts = (Part * POOL)(*(Part(one, len(one)) for one in frames))
    messages = (Message * POOL)(
        *(Message(parts=ctypes.addressof(parts) + at * ctypes.sizeof(Part), part_count=1) for at in range(POOL))
    )
    library, sent, total = ctypes.CDLL(None, use_errno=True), 0, round(rate * seconds)
    time.sleep(WINDOW_SECONDS - time.time() % WINDOW_SECONDS)
    with cable_end() as end:
        start = time.perf_counter()
        while sent < total:
            due = min(total, round(rate * (time.perf_counter() - start + TURN)))
            while sent < due:
                at = sent % POOL
                count = min(due - sent, POOL - at, MOST_AT_ONCE)
                done = library.sendmmsg(end.fileno(), ctypes.byref(messages, at * ctypes.sizeof(Message)), count, 0)
                if done < 0:
                    raise OSError(ctypes.get_errno(), "sendmmsg")
                sent += done
            time.sleep(TURN)
        return total / (time.perf_counter() - start)


def receive(pipe: Connection, ring: int) -> None:
    """Be a sensor until SIGTERM; send what was seen."""
    take_core(RECEIVER)
    seen, stop = Seen(), Stop()
    windows = make_live_windows(seen.counts)
    with stop.on_signals(), Interface(RIGHT, seen.counts, ring_bytes=ring << 20) as interface:
        begun = time.process_time()
        pipe.send("ready")
        for found in read_live_records(interface, windows, lambda: stop.requested):
            for records in found:
                seen.records += len(records)
                if not stop.requested:
                    late = time.time() - int(records.window_start[-1]) - WINDOW_SECONDS
                    seen.slowest = max(seen.slowest, late)
    seen.waited = int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    seen.cpu, seen.memory = time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    pipe.send(seen)


def take_core(core: int) -> None:
    """Run on one core, before all that is not urgent."""
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


@contextmanager
def sensor(ring: int) -> Iterator[tuple["multiprocessing.process.BaseProcess", Connection]]:
    """Run a sensor in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=receive, args=(theirs, ring))
    process.start()
    try:
        assert ours.recv() == "ready"
        yield process, ours
    finally:
        process.kill()
        process.join()


def step(rate: int, seconds: float, ring: int) -> bool:
    """Measure one rate, print what was found, and return whether nothing was lost."""
    with sensor(ring) as (process, pipe):
        offered = send(rate, seconds)
        time.sleep(0.5)
        process.terminate()
        seen: Seen = pipe.recv()
    sent = round(rate * seconds)
    counts, dropped = seen.counts, seen.counts.dropped or 0
    before = sent - counts.packets - dropped
    print(
        f"offered {offered:,.0f}/s: sent {sent:,}, received {counts.packets:,}, dropped {dropped:,}, "
        f"lost before the ring {before:,}, left out {counts.left_out:,}; CPU {seen.cpu / seconds:.0%} of a core, "
        f"waited for it {seen.waited:.2f} s; {seen.records:,} records, at most {seen.slowest:.2f} s "
        f"after their window; {seen.memory} MB",
        flush=True,
    )
    return not (before or dropped or counts.left_out)


def steer() -> None:
    """Have the receiver's core do the kernel's part of receiving."""
    # The files of this namespace's interfaces are those of a mount made in it.
    file = f"/sys/class/net/{RIGHT}/queues/rx-0/rps_cpus"
    command = f"mount -t sysfs sysfs /sys && echo {1 << RECEIVER:x} > {file}"
    subprocess.run(["unshare", "--mount", "sh", "-c", command], check=True)


def main() -> int:
    """Measure; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=int, nargs="+", default=[50_000, 100_000, 150_000, 200_000, 300_000])
    parser.add_argument("--seconds", type=float, default=20.0, help="of a step")
    parser.add_argument("--ring", type=int, default=64, help="MiB")
    parser.add_argument("--steered", action="store_true")
    args = parser.parse_args()
    with own_network():
        take_core(SENDER)
        if args.steered:
            steer()
        whole = [rate for rate in args.rates if step(rate, args.seconds, args.ring)]
    print(f"highest rate without a loss: {max(whole, default=0):,}/s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
