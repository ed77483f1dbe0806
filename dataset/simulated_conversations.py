"""Draw the packets of simulated conversations between two hosts: pings, scans, floods, DNS lookups, sessions, logins.

Each function returns one conversation, its packets in order of time. Side a begins. Sizes are those of Ethernet frames
without checksum, at least 60 bytes. Only integer and uniform draws of ``random.Random`` are used, which give the same
packets on every machine.
"""

from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10

MILLISECOND: Final = 1_000
SECOND: Final = 1_000_000

_LEAST_FRAME: Final = 60
_LARGEST_FRAME: Final = 1514
_SYN_SIZES: Final = (60, 62, 66, 70, 74, 78)  # with different TCP options
_SCAN_WEIGHTS: Final = (62, 16, 9, 1, 11, 1)  # most scanners send no options
_HOST_WEIGHTS: Final = (3, 25, 37, 4, 30, 1)


class Sent(NamedTuple):
    """One packet: microseconds since the start, whether b sent it, bytes of the frame, TCP flags."""

    at: int
    by_b: bool
    size: int
    flags: int = 0


Conversation = list[Sent]
Behaviour = Callable[[Random], Conversation]


def draw_ping(random: Random) -> Conversation:
    """Return an echo request of 60 bytes and, if the host exists, its reply."""
    request = Sent(0, False, _LEAST_FRAME)
    if random.random() < 0.78:
        return [request]
    return [request, Sent(random.randint(40, 380) * MILLISECOND + random.randrange(1000), True, _LEAST_FRAME)]


def draw_padded_datagram(random: Random) -> Conversation:
    """Return a single small UDP packet, padded to 60 bytes: it keeps a NAT mapping open, or probes a port."""
    del random
    return [Sent(0, False, _LEAST_FRAME)]


def draw_tcp_keepalive(random: Random) -> Conversation:
    """Return a single acknowledgement of an idle connection."""
    return [Sent(0, False, random.choice((60, 60, 66)), ACK)]


def draw_syn_scan(random: Random) -> Conversation:
    """Return a single unanswered SYN: part of a scan, or of a flood from forged addresses."""
    return [Sent(0, False, _pick(random, _SYN_SIZES, _SCAN_WEIGHTS), SYN)]


def draw_unanswered_connection(random: Random) -> Conversation:
    """Return the SYNs of a host that retries three seconds after the first and six after the second."""
    size = _pick(random, _SYN_SIZES, _HOST_WEIGHTS)
    at = 0
    packets = [Sent(at, False, size, SYN)]
    for wait in (3, 6)[: _pick(random, (1, 2), (70, 30))]:
        at += wait * SECOND + random.randint(-9_000, 9_000)
        packets.append(Sent(at, False, size, SYN))
    return packets


def draw_syn_flood(random: Random) -> Conversation:
    """Return a flood of SYNs from one source."""
    return _draw_burst(random, random.randint(5, 900), 60, 20, 9_000, SYN)


def draw_backscatter(random: Random) -> Conversation:
    """Return the reply of a flooded host to a forged address: SYN-ACK or RST, sometimes repeated."""
    size = _pick(random, (60, 62), (80, 20))
    flags = _pick(random, (SYN | ACK, RST | ACK, RST), (60, 20, 20))
    count = _pick(random, (1, 2, 3), (80, 13, 7))
    return [Sent(turn * 3 * SECOND + random.randrange(900), False, size, flags) for turn in range(count)]


def draw_udp_scan(random: Random) -> Conversation:
    """Return a single UDP probe of a common size, or a SIP probe, whose size varies with the address."""
    size = _pick(random, (70, 72, 62, 146, 132, 83, 149, 98), (24, 20, 14, 18, 9, 6, 5, 4))
    return [Sent(0, False, size if random.random() < 0.85 else random.randint(448, 461))]


def draw_udp_burst(random: Random) -> Conversation:
    """Return a few unanswered UDP packets of one size."""
    count = _pick(random, (2, 3, 5, 30), (70, 15, 10, 5))
    return _draw_burst(random, count, random.choice((62, 72, 90, 165, 335)), 400, 4_000_000, 0)


def draw_dns_lookup(random: Random) -> Conversation:
    """Return a DNS query and its response."""
    return [
        Sent(0, False, random.randint(68, 99)),
        Sent(random.randint(900, 190_000), True, random.randint(90, 420)),
    ]


def draw_amplification(random: Random) -> Conversation:
    """Return identical forged DNS queries and their large responses."""
    size = random.choice((70, 77, 82))
    packets = []
    for query in _draw_burst(random, random.randint(1, 5), size, 1_000, 2_500_000, 0):
        packets += [query, Sent(query.at + random.randint(900, 60_000), True, random.randint(500, 1500))]
    return sorted(packets)


def draw_web_session(random: Random) -> Conversation:
    """Return a web session: a few requests with their responses."""
    session = _Session(random)
    session.open()
    for _ in range(random.randint(1, 5)):
        session.exchange(random.randint(180, 900), random.randint(300, 24_000))
        session.pause(random.randint(20, 900) * MILLISECOND)
    session.close()
    return session.packets


def draw_login_attempts(random: Random) -> Conversation:
    """Return guesses of a password: short sessions, one after another."""
    session = _Session(random)
    for _ in range(random.randint(1, 9)):
        session.open()
        for _ in range(random.randint(2, 4)):
            session.exchange(random.randint(40, 140), random.randint(20, 120))
        session.close()
        session.pause(random.randint(80, 700) * MILLISECOND)
    return session.packets


def draw_bulk_transfer(random: Random) -> Conversation:
    """Return one large download that began before the capture."""
    session = _Session(random)
    for _ in range(random.randint(1, 12)):
        session.exchange(random.randint(60, 200), random.randint(30_000, 160_000))
    return session.packets


def hide_one_direction(behaviour: Behaviour) -> Behaviour:
    """Return the behaviour on a link that carries only one of its directions."""

    def draw_one_direction(random: Random) -> Conversation:
        packets = behaviour(random)
        side = random.choice(packets).by_b
        seen = [packet for packet in packets if packet.by_b == side]
        # Side a is the sender of the first packet on the link.
        return [Sent(packet.at - seen[0].at, False, packet.size, packet.flags) for packet in seen]

    return draw_one_direction


def _pick(random: Random, values: tuple[int, ...], weights: tuple[int, ...]) -> int:
    return random.choices(values, weights)[0]


def _draw_burst(random: Random, count: int, size: int, least_step: int, most_step: int, flags: int) -> Conversation:
    """Return ``count`` packets of side a with one size and steps in µs around one mean."""
    step = random.randint(least_step, most_step)
    return [Sent(turn * step + random.randrange(step), False, size, flags) for turn in range(count)]


class _Session:
    """One or more consecutive TCP connections with one round-trip time and header size."""

    def __init__(self, random: Random) -> None:
        self.packets: Conversation = []
        self._random = random
        self._at = 0
        self._delay = random.randint(1, 120) * MILLISECOND  # one way
        self._header = random.choice((54, 66))  # without or with TCP timestamps

    def open(self) -> None:
        """Send the three-way handshake."""
        size = self._header + 8
        self._send(False, size, SYN)
        self._answer(True, size, SYN | ACK)
        self._answer(False, self._header, ACK)

    def exchange(self, request: int, response: int) -> None:
        """Send a request and a response, sizes in bytes; every second full segment is acknowledged."""
        self._send(False, self._header + request, PSH | ACK)
        self.pause(self._delay)
        segment = _LARGEST_FRAME - self._header
        full, rest = divmod(response, segment)
        for number in range(full):
            self._send(True, _LARGEST_FRAME, ACK)
            if number % 2:
                self._send(False, self._header, ACK)
        self._send(True, self._header + rest, PSH | ACK)
        self._answer(False, self._header, ACK)

    def close(self) -> None:
        """Send both sides' FIN and the last acknowledgement."""
        self._send(False, self._header, FIN | ACK)
        self._answer(True, self._header, FIN | ACK)
        self._answer(False, self._header, ACK)

    def pause(self, duration: int) -> None:
        """Advance the time by some microseconds."""
        self._at += duration

    def _answer(self, by_b: bool, size: int, flags: int) -> None:
        self.pause(self._delay)
        self._send(by_b, size, flags)

    def _send(self, by_b: bool, size: int, flags: int) -> None:
        self._at += self._random.randint(12, 900)
        self.packets.append(Sent(self._at, by_b, max(size, _LEAST_FRAME), flags))
