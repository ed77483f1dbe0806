"""A network namespace for the calling thread, with a virtual cable to send frames on."""

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.offload.link_ends import wait_until

LEFT, RIGHT = "left", "right"
"""Two interfaces joined by a virtual cable: each receives the frames that the other sends."""

_LIBC = ctypes.CDLL(None, use_errno=True)  # os.unshare and os.setns need Python 3.12
_NEW_NETWORK = 0x40000000


def cannot(reason: str) -> None:
    """Skip the test; under CI, fail it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def need(program: str, package: str) -> None:
    """Skip the test if a program is not installed; under CI, fail it."""
    if shutil.which(program) is None:
        cannot(f"{program} is not installed (on Debian: apt install {package})")


def ip(*arguments: str) -> str:
    """Run the program ``ip`` and return its output."""
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout


@contextmanager
def own_network() -> Iterator[None]:
    """Move this thread and the programs that it starts to a new network with ``lo`` and a cable from left to right."""
    need("ip", "iproute2")
    with Path("/proc/thread-self/ns/net").open() as before:
        if _LIBC.unshare(_NEW_NETWORK):
            cannot(f"only root can create a network namespace here: {os.strerror(ctypes.get_errno())}")
        try:
            without_ipv6 = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
            if without_ipv6.exists():  # IPv6 sends packets whenever a link comes up
                without_ipv6.write_text("1")
            ip("link", "add", LEFT, "type", "veth", "peer", "name", RIGHT)
            for name in ("lo", LEFT, RIGHT):
                ip("link", "set", name, "up")
            yield
        finally:
            assert _LIBC.setns(before.fileno(), _NEW_NETWORK) == 0


@contextmanager
def cable_end(name: str = LEFT) -> Iterator[socket.socket]:
    """Open a socket that sends whole frames on an interface."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as end:
        end.bind((name, 0))
        yield end


@contextmanager
def stamped_once() -> Iterator[None]:
    """Make the kernel stamp frames on arrival, once for all receivers; otherwise each ring stamps them itself."""
    with socket.socket(type=socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
        time.sleep(0.3)  # the kernel switches with a delay
        yield


@contextmanager
def tcpdump(path: Path) -> Iterator[None]:
    """Capture the frames at the right end with tcpdump while the block runs; none may be dropped.

    In immediate mode the kernel reserves ``-s`` bytes for each frame; the buffer has room for 30,000 frames.
    """
    need("tcpdump", "tcpdump")
    command = ["tcpdump", "-i", RIGHT, "-w", str(path), "-U", "--immediate-mode", "-B", "65536", "-s", "2048"]
    command += ["-Z", "root"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        assert program.stderr is not None
        try:
            while "listening on" not in program.stderr.readline():
                assert program.poll() is None
            yield
            wait_until_written(program)
        finally:
            program.terminate()
            said = program.communicate(timeout=60)[1]
    assert "0 packets dropped by kernel" in said


def wait_until_written(tcpdump: "subprocess.Popen[str]") -> None:
    """Wait until tcpdump has written all frames that it received, by the counts that it prints at SIGUSR1."""
    time.sleep(0.3)  # the kernel may still be passing frames along the cable

    def has_caught_up() -> bool:
        assert tcpdump.stderr is not None
        tcpdump.send_signal(signal.SIGUSR1)
        line = tcpdump.stderr.readline()
        counts = re.search(r"(\d+) packets captured, (\d+) packets received by filter, (\d+) packets dropped", line)
        assert counts is not None, line
        captured, received, dropped = map(int, counts.groups())
        return captured + dropped >= received

    wait_until(has_caught_up, 60)
