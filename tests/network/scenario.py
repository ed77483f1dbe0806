"""The scenario of the small network: its hosts, their activities and the true labels."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.network.hosts import Host, Network, NetworkError
from tests.network.traffic import FORGED

ROOT: Final = Path(__file__).resolve().parents[2]

_LAST_WORD: Final = 30.0  # most seconds for the activities to finish after their time

SITES: Final = "203.0.113.0/24"
"""A remote network: every address answers and serves pages."""

ALIVE: Final = "192.0.2.0/28"
UNUSED: Final = "192.0.2.0/24"
"""A remote network: only the addresses in ``ALIVE`` answer."""

SERVER: Final = "10.77.0.2"
OFFICE: Final = {"office1": "10.77.0.11", "office2": "10.77.0.12", "office3": "10.77.0.13"}
ATTACKERS: Final = {
    "scanner": "10.77.0.66", "sweeper": "10.77.0.67", "flooder": "10.77.0.68", "guesser": "10.77.0.69",
    "patient": "10.77.0.70",
}  # fmt: skip
HOSTS: Final = {"gateway": "10.77.0.1", "server": SERVER, **OFFICE, **ATTACKERS}

Order = tuple[str, str, str, float, float]
"""Host, activity, target, start and end; times are fractions of the whole duration."""

ORDERS: Final[tuple[Order, ...]] = (
    *((name, "browse", SERVER, 0.0, 1.0) for name in OFFICE),
    *((name, "work", SERVER, 0.0, 1.0) for name in OFFICE),
    *((name, "transfer", SERVER, 0.0, 1.0) for name in OFFICE),
    *((name, "ping", network, 0.0, 1.0) for name in OFFICE for network in (SITES, "192.0.2.0/26", "10.77.0.0/28")),
    ("scanner", "scan_ports", SERVER, 0.1, 0.4),
    ("scanner", "connect_to_ports", OFFICE["office2"], 0.5, 0.75),
    ("sweeper", "sweep", UNUSED, 0.15, 0.85),
    ("flooder", "flood_connections", SERVER, 0.55, 0.8),
    ("flooder", "flood_datagrams", OFFICE["office1"], 0.2, 0.35),
    ("guesser", "guess_passwords", SERVER, 0.05, 0.9),
    ("patient", "scan_slowly", OFFICE["office3"], 0.0, 1.0),
)


def list_attackers() -> dict[str, str]:
    """Return the addresses whose records are attacks, with their names; all other records are normal."""
    return {address: name for name, address in ATTACKERS.items()} | dict.fromkeys(FORGED, "forged by the flooder")


def new_network() -> Network:
    """Return the network of the scenario, not created yet."""
    return Network(HOSTS, gateway="gateway", beyond=(SITES, ALIVE))


def play(network: Network, seconds: float, seed: int) -> None:
    """Run the whole scenario once; see ``act``."""
    for name in ("gateway", "server"):
        serve(network[name])
    act(network, ORDERS, seconds, seed)


def serve(host: Host) -> None:
    """Start all services on a host."""
    _wait_for_line(_start(host, "services"))


def act(network: Network, orders: Sequence[Order], seconds: float, seed: int) -> None:
    """Carry out orders concurrently.

    Args:
        network: network with running services.
        orders: activities of the hosts.
        seconds: duration; activities that are in progress then are finished, which takes a little longer.
        seed: determines the choices of the hosts, but not their timing.

    Raises:
        NetworkError: a client or an attacker failed.
    """
    told: dict[str, list[str]] = {}
    for name, activity, target, begin, end in orders:
        told.setdefault(name, []).append(f"{activity},{target},{begin * seconds},{end * seconds}")
    acting = {name: _start(network[name], "traffic", f"{seed} {name}", *lines) for name, lines in told.items()}
    for process in acting.values():
        _wait_for_line(process)
    for process in acting.values():
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for name, process in acting.items():
        if process.wait(seconds + _LAST_WORD):
            raise NetworkError(f"{name} failed")


def _start(host: Host, module: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", f"tests.network.{module}", *arguments]
    return host.start(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _wait_for_line(process: "subprocess.Popen[str]") -> None:
    """Wait until a process prints that it is ready."""
    assert process.stdout is not None
    if not process.stdout.readline():
        raise NetworkError(f"{process.args!r} failed")
