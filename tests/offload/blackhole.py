"""A network that can drop all packets silently, without a reset or an ICMP message.

Two network namespaces are joined by a cable. A client in the one reaches the broker, which is in neither, by way of a
relay that listens in the other; there the packets of both directions go into a black hole.
"""

import contextlib
import ctypes
import itertools
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from offload.link.broker import Host
from tests.offload.link_ends import PATIENCE

_CLIENT, _RELAY = "192.0.2.1", "192.0.2.2"
_CLONE_NEWNET = 0x40000000
_NUMBERS = itertools.count()


class Blackhole:
    """A network between clients and a broker; use it in a ``with`` block.

    The test is skipped where no network namespaces can be made.

    Args:
        port: of the broker, on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        number = next(_NUMBERS)
        self._client, self._relay = (f"ee-{os.getpid()}-{number}-{end}" for end in ("client", "relay"))
        self._resources = contextlib.ExitStack()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._host: Host | None = None

    @property
    def host(self) -> Host:
        """The broker's address inside the network."""
        assert self._host is not None
        return self._host

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Open sockets of this thread, and of threads that it starts, on the side of the clients."""
        with _within(self._client):
            yield

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Drop all packets within the block."""
        self.fall_silent()
        try:
            yield
        finally:
            self.recover()

    def fall_silent(self) -> None:
        """Drop all packets from now on."""
        # The relay's side also drops packets from a source to which it has no route (reverse path filter).
        _ip("-n", self._relay, "route", "replace", "blackhole", f"{_CLIENT}/32")

    def recover(self) -> None:
        """Let packets pass again."""
        _ip("-n", self._relay, "route", "flush", "type", "blackhole")

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as resources:
            for name in (self._client, self._relay):
                _add_namespace(name)
                resources.callback(_ip, "netns", "del", name)
            cable = ("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", self._relay)
            _ip("-n", self._client, *cable)
            for name, address in ((self._client, _CLIENT), (self._relay, _RELAY)):
                _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
                _ip("-n", name, "link", "set", "cable", "up")
            with _within(self._relay):
                Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text("1")
                listener = resources.enter_context(socket.create_server((_RELAY, 0)))
            self._host = Host(_RELAY, listener.getsockname()[1])
            resources.callback(self._hang_up)
            resources.callback(listener.shutdown, socket.SHUT_RDWR)
            self._start(self._accept, listener)
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._resources.close()

    def _start(self, work: object, *arguments: object) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))  # type: ignore[arg-type]
        self._threads[-1].start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += near, far
                self._start(_pump, near, far)
                self._start(_pump, far, near)

    def _hang_up(self) -> None:
        self._threads[0].join(PATIENCE)  # which accepts, and starts the others
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        for end in self._sockets:
            end.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _add_namespace(name: str) -> None:
    if shutil.which("ip") is None:
        pytest.skip("there is no ip command (on Debian: apt install iproute2)")
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError as refusal:
        pytest.skip(f"no network namespace can be made here: {refusal.stderr.decode().strip()}")


@contextmanager
def _within(namespace: str) -> Iterator[None]:
    with Path("/proc/thread-self/ns/net").open("rb") as home, Path("/run/netns", namespace).open("rb") as target:
        _enter(target.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns failed")
