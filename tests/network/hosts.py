"""A small isolated network on this machine: hosts in network namespaces, joined by a hub that a sensor listens to.

Each namespace has only loopback and a cable to the hub, so nothing leads out. The namespaces have no names: each lives
as long as a process that waits for the end of its input, which comes when the network is closed or when the process
that created the network ends, for whatever reason.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tests.namespaces import cannot, wait_until_written
from utils.errors import ToolkitError

PROGRAMS: Final = {
    "ethtool": "ethtool",
    "ip": "iproute2",
    "ping": "iputils-ping",
    "tcpdump": "tcpdump",
    **dict.fromkeys(("nsenter", "setpriv", "taskset", "unshare"), "util-linux"),
}
"""Programs that a network needs, and their Debian packages."""

_TIMEOUT: Final = 60.0  # seconds
_IS_ROOT: Final = os.geteuid() == 0
_UNSHARE: Final = ("unshare", "--net") if _IS_ROOT else ("unshare", "--net", "--user", "--map-root-user")
_ENTER: Final = ("--net",) if _IS_ROOT else ("--net", "--user", "--preserve-credentials")

# Frames must be like those on a wire: segmented, and with checksums, before they are sent.
_LIKE_A_WIRE: Final = "tx off tso off gso off gro off"


class NetworkError(ToolkitError):
    """A program or command in a network failed."""


class UnavailableError(NetworkError):
    """A network cannot be created on this machine or by this user."""


@contextmanager
def skip_without_network() -> Iterator[None]:
    """Skip the test if the block cannot create a network; under CI, fail it."""
    try:
        yield
    except UnavailableError as problem:
        cannot(str(problem))


@dataclass(frozen=True)
class Host:
    """A host of a network.

    Attributes:
        address: IPv4 address; empty for the sensor, which only listens.
        interface: name, inside the host, of its end of the cable to the hub.
        enter: prefix of a command that runs inside the host.
    """

    address: str
    enter: tuple[str, ...]
    _stack: ExitStack
    interface: str = "eth0"

    def start(self, command: Sequence[str | Path], **options: Any) -> "subprocess.Popen[str]":
        """Start a program inside the host; it is killed when the network is closed or the starting thread ends.

        Args:
            command: program and arguments; runs as root of the network.
            options: of ``subprocess.Popen``.
        """
        return _start(self._stack, [*self.enter, *command], **options)

    def run(self, command: Sequence[str | Path]) -> str:
        """Run a program inside the host, for a minute at most, and return its output.

        Raises:
            NetworkError: it failed; the message holds its error output.
        """
        return _run([*self.enter, *command])


class Network:
    """A network, created and closed by a ``with`` block.

    The programs inside the hosts share one processor, so that all listeners see the frames in the same order; programs
    of the sensor run on any processor.

    Args:
        addresses: address of each host by its name of at most 15 characters, all in one /24 network.
        gateway: the default gateway of the others, which silently drops packets to other networks.
        beyond: other networks, such as ``203.0.113.0/24``, for whose addresses the gateway answers.

    Attributes:
        sensor: a host without an address that gets every frame between the others once, as on the mirror port of a
            switch.
        hub: the namespace with the other ends of all cables, each named after its host.

    Raises:
        UnavailableError: on entering, a program is missing, or the kernel or its settings refuse an operation.
    """

    sensor: Host
    hub: Host

    def __init__(self, addresses: Mapping[str, str], *, gateway: str = "", beyond: Sequence[str] = ()) -> None:
        self._addresses, self._gateway, self._beyond = addresses, gateway, beyond
        self._stack = ExitStack()
        self._hosts: dict[str, Host] = {}

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def __enter__(self) -> Self:
        missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
        if missing:
            raise UnavailableError(f"a network needs programs; on Debian: apt install {' '.join(missing)}")
        try:
            self._build()
        except NetworkError as problem:
            self._stack.close()
            raise UnavailableError(f"a network cannot be created here: {problem}") from None
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def _build(self) -> None:
        hub = self._make_namespace(())
        self.hub = Host("", _enter_namespace(hub), self._stack, "hub")
        _set_up(hub, "ip link add hub type bridge ageing_time 0 mcast_snooping 0", _bring_up("hub"))
        self.sensor = self._join(hub, "sensor", "")
        one_processor = ("taskset", "--cpu-list", str(min(os.sched_getaffinity(0))))
        for name, address in self._addresses.items():
            self._hosts[name] = self._join(hub, name, address, one_processor)
        for name, host in self._hosts.items():
            self._route(name, host)

    def _make_namespace(self, outer: Sequence[str]) -> int:
        """Create a network namespace, inside another if not the first; return the ID of the process that holds it."""
        unshare = _UNSHARE if not outer else ("unshare", "--net")
        holder = _start(
            self._stack,
            [*outer, *unshare, "sh", "-c", "echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert holder.stdout is not None
        if holder.stdout.readline() != "\n":
            raise NetworkError(holder.communicate()[1].strip())
        return holder.pid

    def _join(self, hub: int, name: str, address: str, outer: Sequence[str] = ()) -> Host:
        """Create a host and connect it to the hub."""
        pid, interface = self._make_namespace(_enter_namespace(hub)), Host.interface
        _set_up(
            hub,
            f"ip link add name {name} type veth peer name {interface} netns {pid}",
            f"ip link set dev {name} master hub",
            f"ethtool -K {name} {_LIKE_A_WIRE}",
            _bring_up(name),
        )
        _set_up(pid, "ip link set dev lo up", f"ethtool -K {interface} {_LIKE_A_WIRE}", _bring_up(interface))
        if address:
            _set_up(pid, f"ip address add {address}/24 dev {interface}")
        return Host(address, (*outer, *_enter_namespace(pid), "setpriv", "--pdeathsig", "KILL"), self._stack)

    def _route(self, name: str, host: Host) -> None:
        if name == self._gateway:
            for network in self._beyond:
                host.run(["ip", "route", "add", "local", network, "dev", "lo"])
            host.run(["ip", "route", "add", "blackhole", "default"])
        elif self._gateway:
            host.run(["ip", "route", "add", "default", "via", self._addresses[self._gateway]])


def _start(stack: ExitStack, command: Sequence[str | Path], **options: Any) -> "subprocess.Popen[str]":
    """Start a program that is killed and waited for when the stack is closed."""
    process: subprocess.Popen[str] = stack.enter_context(subprocess.Popen(command, text=True, **options))
    stack.callback(process.kill)
    return process


def _run(command: Sequence[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    if done.returncode:
        raise NetworkError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _enter_namespace(pid: int) -> tuple[str, ...]:
    """Return the prefix of a command that runs in the namespace held by a process."""
    return ("nsenter", f"--target={pid}", *_ENTER)


def _set_up(pid: int, *commands: str) -> None:
    """Run shell commands in the namespace held by a process, up to the first that fails."""
    _run([*_enter_namespace(pid), "sh", "-ec", "; ".join(commands)])


def _bring_up(interface: str) -> str:
    """Return commands that bring an interface up without an IPv6 address, which it would announce."""
    return f"ip link set dev {interface} addrgenmode none; ip link set dev {interface} up"


@contextmanager
def tcpdump(sensor: Host, path: Path, size: int = 262_144) -> Iterator[None]:
    """Capture every frame at the sensor while the block runs.

    Args:
        sensor: of a network.
        path: the pcap to write, with the suffix ``.pcap``.
        size: captured bytes of each frame at most.

    Raises:
        UnavailableError: tcpdump does not start, as in the namespace of a user who is not root.
        NetworkError: it dropped a frame.
    """
    options = ["-w", str(path.resolve()), "-U", "--immediate-mode", "-B", "16384", "-s", str(size), "-n", "-Z", "root"]
    process = sensor.start(["tcpdump", "-i", sensor.interface, *options], stderr=subprocess.PIPE)
    assert process.stderr is not None
    if "listening on" not in (line := process.stderr.readline()):
        raise UnavailableError(line.strip())
    yield
    wait_until_written(process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=_TIMEOUT)[1]
    if not re.search(r"^0 packets dropped by kernel", said, re.MULTILINE):
        raise NetworkError(f"tcpdump: {said.strip()}")
