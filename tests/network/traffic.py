"""The activities of clients and attackers in the small network: random in time, each with one target.

Run, inside a host:
    python -m tests.network.traffic SEED ACTIVITY,TARGET,BEGIN,END [...]

It prints a line when it is ready and starts when it reads one; times are seconds after that. Every activity is bounded
in rate and number, and the seed determines its choices.
"""

import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection
from ipaddress import IPv4Address, IPv4Network
from typing import Final

import dpkt

from tests.network.services import LOGIN, NAMES, PASSWORD, WEB, limit_pace

FORGED: Final = [str(address) for address in IPv4Network("198.51.100.0/27").hosts()]
"""Forged source addresses of the flood of connections."""

TRANSFER: Final = 500_000
"""Bytes of a large transfer."""

_TIMEOUT: Final = 60.0  # seconds
_PASSWORDS: Final = (b"123456", b"password", b"admin", b"letmein", b"root", b"qwerty", b"changeme", b"raspberry")
_LINES: Final = (b"ls", b"cd /srv", b"tail -n 20 messages", b"df -h", b"exit 0 || true", b"vi notes", b"uptime")


def wait_at_random(chosen: random.Random, rate: float, end: float, most: int) -> Iterator[int]:
    """Yield numbers from 0 after random waits, ``rate`` per second on average, until a time or a count is reached."""
    for number in range(most):
        wait = chosen.expovariate(rate) if number else 0.2 * chosen.random()
        time.sleep(min(wait, max(0.0, end - time.monotonic())))
        if time.monotonic() >= end:
            return
        yield number


def browse(chosen: random.Random, target: str, end: float) -> None:
    """Resolve names at the target and read some pages from each of their addresses."""
    for _ in wait_at_random(chosen, 1.0, end, 1_000):
        address = resolve(target, f"www{chosen.randrange(500)}.example", chosen.getrandbits(16))
        site = HTTPConnection(address, WEB, timeout=_TIMEOUT)
        for page in range(chosen.choice((1, 1, 2, 4))):
            time.sleep(0.3 * chosen.random() * page)
            fetch(site, "GET", f"/{int(min(chosen.lognormvariate(8, 1.2), 60_000))}")
        site.close()


def resolve(server: str, name: str, number: int) -> str:
    """Return the address of a name from a DNS server."""
    question = dpkt.dns.DNS(id=number, qd=[dpkt.dns.DNS.Q(name=name)])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.settimeout(_TIMEOUT)
        link.sendto(bytes(question), (server, NAMES))
        answer = dpkt.dns.DNS(link.recv(4096))
    return str(IPv4Address(answer.an[0].rdata))


def fetch(site: HTTPConnection, method: str, path: str, body: bytes | None = None) -> None:
    """Send a request and read the whole response."""
    site.request(method, path, body)
    site.getresponse().read()


def transfer(chosen: random.Random, target: str, end: float) -> None:
    """Make a large download or upload from time to time."""
    for _ in wait_at_random(chosen, 0.05, end, 10):
        site = HTTPConnection(target, WEB, timeout=_TIMEOUT)
        site.connect()
        limit_pace(site.sock)
        if chosen.random() < 0.5:
            fetch(site, "GET", f"/{TRANSFER}")
        else:
            fetch(site, "PUT", "/", bytes(TRANSFER))
        site.close()


def work(chosen: random.Random, target: str, end: float) -> None:
    """Log in, type lines with pauses, and log out, repeatedly."""
    for _ in wait_at_random(chosen, 0.5, end, 100):
        with socket.create_connection((target, LOGIN), _TIMEOUT) as link, link.makefile("rwb", 0) as session:
            session.readline()
            for line in (PASSWORD, *chosen.choices(_LINES, k=chosen.randrange(2, 12))):
                time.sleep(min(chosen.uniform(0.05, 0.6), max(0.0, end - time.monotonic())))
                session.write(line + b"\n")
                session.readline()


def ping(chosen: random.Random, target: str, end: float) -> None:
    """Ping addresses of a network, some of which do not answer, with the system's own program."""
    addresses = list(map(str, IPv4Network(target).hosts()))
    for _ in wait_at_random(chosen, 1.0, end, 1_000):
        options = ["-n", "-q", "-i", "0.25", "-W", "1", "-c", str(chosen.choice((1, 1, 2, 4)))]
        command = ["setpriv", "--pdeathsig", "KILL", "ping", *options, chosen.choice(addresses)]
        if subprocess.run(command, stdout=subprocess.DEVNULL, timeout=_TIMEOUT, check=False).returncode > 1:
            raise RuntimeError(f"{command} failed")


def scan_ports(chosen: random.Random, target: str, end: float, rate: float = 60.0) -> None:
    """Send one SYN to each port in random order; the kernel resets connections that are accepted."""
    source, ports = find_own_address(target), chosen.sample(range(1, 1_025), 1_024)
    with open_raw_socket() as link:
        for number in wait_at_random(chosen, rate, end, len(ports)):
            link.sendto(make_syn(chosen, source, target, ports[number]), (target, 0))


def scan_slowly(chosen: random.Random, target: str, end: float) -> None:
    """Scan ports so slowly that a window holds few packets of the scan."""
    scan_ports(chosen, target, end, 0.7)


def connect_to_ports(chosen: random.Random, target: str, end: float) -> None:
    """Scan ports by connecting to them."""
    for number in wait_at_random(chosen, 30.0, end, 400):
        with socket.socket() as link, suppress(OSError):
            link.settimeout(0.5)
            link.connect((target, 10 + number))


def sweep(chosen: random.Random, target: str, end: float) -> None:
    """Search for hosts in a network: send an echo request, then a SYN, to each address."""
    addresses = list(map(str, IPv4Network(target).hosts()))
    source = find_own_address(addresses[0])
    order = [(address, probe) for probe in ("echo", "syn") for address in chosen.sample(addresses, len(addresses))]
    with open_raw_socket() as link:
        for number in wait_at_random(chosen, 8.0, end, len(order)):
            address, probe = order[number]
            packet = make_syn(chosen, source, address, 445) if probe == "syn" else make_echo(source, address, number)
            link.sendto(packet, (address, 0))


def flood_connections(chosen: random.Random, target: str, end: float) -> None:
    """Send SYNs to one port from forged addresses."""
    with open_raw_socket() as link:
        for _ in wait_at_random(chosen, 120.0, end, 4_000):
            link.sendto(make_syn(chosen, chosen.choice(FORGED), target, WEB), (target, 0))


def flood_datagrams(chosen: random.Random, target: str, end: float) -> None:
    """Send datagrams of random sizes to random ports."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        for _ in wait_at_random(chosen, 120.0, end, 4_000):
            link.sendto(bytes(chosen.randrange(18, 600)), (target, chosen.randrange(1_024, 65_536)))


def guess_passwords(chosen: random.Random, target: str, end: float) -> None:
    """Try passwords, three per connection."""
    for _ in wait_at_random(chosen, 2.0, end, 400):
        with socket.create_connection((target, LOGIN), _TIMEOUT) as link, link.makefile("rwb", 0) as session:
            session.readline()
            for _ in range(3):
                session.write(chosen.choice(_PASSWORDS) + b"\n")
                session.readline()


ACTIVITIES: Final[dict[str, Callable[[random.Random, str, float], None]]] = {
    activity.__name__: activity
    for activity in (
        browse, transfer, work, ping,
        scan_ports, scan_slowly, connect_to_ports, sweep, flood_connections, flood_datagrams, guess_passwords,
    )
}  # fmt: skip


def find_own_address(target: str) -> str:
    """Return the source address of this host for packets to a target."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.connect((target, 9))
        return str(link.getsockname()[0])


def open_raw_socket() -> socket.socket:
    """Return a socket that sends complete IPv4 packets."""
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)


def make_syn(chosen: random.Random, source: str, target: str, port: int) -> bytes:
    """Return a SYN packet like that of a scanner."""
    segment = dpkt.tcp.TCP(
        sport=chosen.randrange(32_768, 61_000), dport=port, seq=chosen.getrandbits(32), flags=dpkt.tcp.TH_SYN,
        win=1_024, opts=b"\x02\x04\x05\xb4", off=6,
    )  # fmt: skip
    return _packet(source, target, dpkt.ip.IP_PROTO_TCP, segment)


def make_echo(source: str, target: str, number: int) -> bytes:
    """Return an echo request of the usual size."""
    request = dpkt.icmp.ICMP(type=dpkt.icmp.ICMP_ECHO, data=dpkt.icmp.ICMP.Echo(id=1, seq=number, data=bytes(56)))
    return _packet(source, target, dpkt.ip.IP_PROTO_ICMP, request)


def _packet(source: str, target: str, protocol: int, data: object) -> bytes:
    return bytes(
        dpkt.ip.IP(src=IPv4Address(source).packed, dst=IPv4Address(target).packed, p=protocol, ttl=64, data=data)
    )


def _act(seed: str, begun: float, order: str) -> None:
    """Carry out one order at its time."""
    name, target, begin, end = order.split(",")
    time.sleep(max(0.0, begun + float(begin) - time.monotonic()))
    ACTIVITIES[name](random.Random(f"{seed} {order}"), target, begun + float(end))


def main(seed: str, *orders: str) -> int:
    """Carry out all orders concurrently; return 0."""
    with ThreadPoolExecutor(len(orders)) as pool:
        print(flush=True)
        sys.stdin.readline()
        begun = time.monotonic()
        for done in [pool.submit(_act, seed, begun, order) for order in orders]:
            done.result()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
