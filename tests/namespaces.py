"""A network of the tests' own: a namespace that the calling thread is in for a while, and frames sent in it."""

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
"""Interfaces with a cable between them: what the one sends, the other receives."""

_LIBC = ctypes.CDLL(None, use_errno=True)  # os.unshare and os.setns are of Python 3.12
_NEW_NETWORK = 0x40000000


def cannot(reason: str) -> None:
    """Skip, but fail under CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def need(program: str, package: str) -> None:
    """Skip where a program is not installed, but fail under CI."""
    if shutil.which(program) is None:
        cannot(f"{program} is not installed (on Debian: apt install {package})")


def ip(*arguments: str) -> str:
    """Run the program ``ip``, and return what it prints."""
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout


@contextmanager
def own_network() -> Iterator[None]:
    """Have this thread, and the programs that it starts, in a new network: ``lo``, and a cable from left to right."""
    need("ip", "iproute2")
    with Path("/proc/thread-self/ns/net").open() as before:
        if _LIBC.unshare(_NEW_NETWORK):
            cannot(f"a network namespace cannot be made here, but by root: {os.strerror(ctypes.get_errno())}")
        try:
            without_ipv6 = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
            if without_ipv6.exists():  # which says hello whenever a link comes up
                without_ipv6.write_text("1")
            ip("link", "add", LEFT, "type", "veth", "peer", "name", RIGHT)
            for name in ("lo", LEFT, RIGHT):
                ip("link", "set", name, "up")
            yield
        finally:
            assert _LIBC.setns(before.fileno(), _NEW_NETWORK) == 0


@contextmanager
def cable_end(name: str = LEFT) -> Iterator[socket.socket]:
    """Open a socket that sends whole frames by an interface."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as end:
        end.bind((name, 0))
        yield end


@contextmanager
def stamped_once() -> Iterator[None]:
    """Have the kernel stamp frames when they come, for all who receive them; else each ring has a time of its own."""
    with socket.socket(type=socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
        time.sleep(0.3)  # the kernel does so a little later
        yield


@contextmanager
def tcpdump(path: Path) -> Iterator[None]:
    """Have tcpdump capture what comes by the right end within the block; it must not lose any.

    In immediate mode the kernel keeps room for a whole frame of ``-s`` bytes for each: here for 30,000 frames.
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
    """Wait until tcpdump has written every frame that the kernel took for it, by the counts it prints at SIGUSR1."""
    time.sleep(0.3)  # for frames that the kernel still passes from one end of a cable to the other

    def has_caught_up() -> bool:
        assert tcpdump.stderr is not None
        tcpdump.send_signal(signal.SIGUSR1)
        line = tcpdump.stderr.readline()
        counts = re.search(r"(\d+) packets captured, (\d+) packets received by filter, (\d+) packets dropped", line)
        assert counts is not None, line
        captured, received, dropped = map(int, counts.groups())
        return captured + dropped >= received

    wait_until(has_caught_up, 60)
