"""Packets of a network interface as they come, on Linux: the kernel fills a ring of blocks that it shares with us.

Sources: packet(7), and of the kernel Documentation/networking/packet_mmap.rst and include/uapi/linux/if_packet.h.
"""

import ctypes
import errno
import mmap
import select
import socket
import struct
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

import numpy as np

from dataset.packets.frames import Frames, Integers, words
from dataset.packets.link_types import ipv4_packets
from dataset.packets.packets import NO_PACKETS, Packets
from dataset.packets.traffic_counts import VLAN, TrafficCounts
from utils.errors import CaptureError, NoInterfaceError

BLOCK: Final = 2**18
"""Bytes of the ring that the kernel hands over together, full or not, so that small ones waste less room."""

RING: Final = 64 * 2**20
"""Bytes of the ring: the smallest frame takes 144 of them, one of ``KEPT`` bytes or more 168."""

KEPT: Final = 80
"""Bytes of a frame that are captured: more than the longest headers that are looked at."""

_RETIREMENT: Final = 20  # milliseconds, after which the kernel hands over a block that is not full
_SLOT: Final = 2048  # divides blocks into frames for the kernel's checks alone
_ALL_PROTOCOLS: Final = 3
_ATTACH_FILTER: Final = 26
_SOL_PACKET: Final = 263
_ADD_MEMBERSHIP, _RX_RING, _STATISTICS, _VERSION, _IGNORE_OUTGOING = 1, 5, 6, 10, 23  # its options
_PROMISCUOUS: Final = 1
_THIRD_VERSION: Final = 2
_RETURN: Final = 0x06  # of a filter's program: how many bytes to keep
_LOOPBACK: Final = 772
_LINK_TYPES: Final = {1: 1, _LOOPBACK: 1, 65534: 101}  # Ethernet, loopback, raw IP: ARPHRD_ to LINKTYPE_ numbers

_ABSENT: Final = (None, errno.ENODEV)  # as if_nametoindex has it, and bind

_READY, _TAGGED = 1, 16  # in the status of a block, of a frame
_STATUS_PLACE: Final = 8
_STATUS: Final = struct.Struct("I")
_BLOCK_HEADER: Final = struct.Struct("12x3I24x")  # behind the status: frames, place of the first, bytes in use
_NUMBERS: Final = np.arange(1, 6)[:, np.newaxis]  # of a frame's header: seconds, nanoseconds, captured, size, status
_PLACE: Final = 24  # in a frame's header: where the frame begins


class Interface:
    """Captures the IPv4 packets of a network interface, in and out, in a ``with`` block; a ``live_records.Source``.

    Args:
        name: of the interface, as ``ip link`` lists it.
        counts: what comes is added to them; of dropped frames, those that the ring had no room for, not those that the
            network card itself lost.
        ring_bytes: room for frames while nobody reads, in whole blocks, at least two.

    Raises:
        CaptureError: on entering, there is no such interface, it is down, is of a kind that is not known, or may not be
            captured.
    """

    ended = False
    grace = 0.1
    """Seconds: the kernel hands a frame over within twice the time that a block may stay open."""

    def __init__(self, name: str, counts: TrafficCounts, *, ring_bytes: int = RING) -> None:
        counts.dropped = 0
        self._name, self.counts = name, counts
        self._blocks = max(ring_bytes // BLOCK, 2)

    def __enter__(self) -> Self:
        if not hasattr(socket, "AF_PACKET"):
            raise CaptureError("interfaces are captured on Linux alone; elsewhere capture with tcpdump into a file")
        self._next = 0  # block
        try:
            with ExitStack() as opened:
                self._socket = opened.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
                self._link_type = _begin(self._socket, self._name, self._blocks)
                self._ring = opened.enter_context(mmap.mmap(self._socket.fileno(), self._blocks * BLOCK))
                self._opened = opened.pop_all()
        except OSError as problem:
            error = NoInterfaceError if problem.errno in _ABSENT else CaptureError
            raise error(f"{self._name}: {_remedy(problem)}") from problem
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._opened.close()

    @property
    def is_drained(self) -> bool:
        """Whether all that the kernel handed over was read."""
        return not _STATUS.unpack_from(self._ring, self._next * BLOCK + _STATUS_PLACE)[0] & _READY

    def packets(self, seconds: float, /) -> Packets:
        """Return the IPv4 packets of the next block, in the order they came; none where none is handed over in time.

        A link that goes down may come up again, and is waited for.

        Raises:
            CaptureError: the interface was removed.
        """
        if self.is_drained:
            self._wait(seconds)
        self.counts.dropped = (self.counts.dropped or 0) + self._newly_dropped()
        if self.is_drained:
            return NO_PACKETS
        frames, tagged = block_frames(self._take(), self._link_type)
        packets, _ = ipv4_packets(frames, self.counts)
        if tagged:
            self.counts.count_other(VLAN, tagged)
        return packets

    def _wait(self, seconds: float) -> None:
        events = self._poll.poll(1000 * seconds)
        if events and not events[0][1] & select.POLLERR:
            return
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # which forgets it, so that the next poll waits
        if not self._socket.getsockname()[0]:
            raise NoInterfaceError(f"{self._name}: the interface was removed; start again when it is back")

    def _newly_dropped(self) -> int:
        counts = self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 12)  # since they were last asked for
        dropped: int = struct.unpack("4xI4x", counts)[0]
        return dropped

    def _take(self) -> bytes:
        """Return a copy of the next block, and hand it back to the kernel."""
        start = self._next * BLOCK
        length = _BLOCK_HEADER.unpack_from(self._ring, start)[2]
        block = self._ring[start : start + length]
        _STATUS.pack_into(self._ring, start + _STATUS_PLACE, 0)
        self._next = (self._next + 1) % self._blocks
        return block


def block_frames(block: bytes, link_type: int) -> tuple[Frames, int]:
    """Return the frames of a block of the ring, and how many more there were from which a VLAN tag was taken off.

    Args:
        block: up to the end of its last frame.
        link_type: of all, a LINKTYPE_ number.

    Raises:
        CaptureError: its frames lead beyond its end.
    """
    content = np.frombuffer(block, np.uint8)
    try:
        header = _headers(block)
        numbers = np.frombuffer(block, np.uint32, len(block) // 4).take(header // 4 + _NUMBERS)
        start = header + words(content, header + _PLACE, "=u2")
    except (IndexError, struct.error):
        raise CaptureError(
            "the kernel's ring is damaged: a frame lies beyond the end of its block; start again"
        ) from None
    seconds, nanoseconds, captured, size, status = numbers.astype(np.int64)
    timestamp = seconds * 10**6 + nanoseconds // 1000
    plain = status & _TAGGED == 0
    columns = (start, np.minimum(captured, len(block) - start), size, timestamp)
    start, captured, size, timestamp = (column[plain] for column in columns)
    return Frames(content, start, captured, size, timestamp, link_type), len(plain) - len(start)


def _headers(block: bytes) -> Integers:
    """Return where the headers of a block's frames begin."""
    # The one loop over single frames: nothing is done in it that can be done for all of them afterwards.
    count, at, _ = _BLOCK_HEADER.unpack_from(block)
    steps, headers = memoryview(block)[: len(block) // 4 * 4].cast("I"), []
    for _ in range(min(count, len(steps))):
        headers.append(at)
        at += steps[at // 4]
    return np.array(headers, np.int64)


def _begin(listening: socket.socket, name: str, blocks: int) -> int:
    """Have the kernel fill a ring with what comes by an interface; return its LINKTYPE_ number."""
    index = socket.if_nametoindex(name)
    listening.bind((name, 0))  # to no protocol yet, so that nothing comes before all is set
    kind = listening.getsockname()[3]
    if kind not in _LINK_TYPES:
        raise CaptureError(
            f"{name}: is of ARPHRD type {kind}; known are Ethernet, loopback and raw IP, such as a tunnel's"
        )
    _keep_beginnings(listening)
    listening.setsockopt(_SOL_PACKET, _VERSION, _THIRD_VERSION)
    ring = struct.pack("7I", BLOCK, blocks, _SLOT, BLOCK // _SLOT * blocks, _RETIREMENT, 0, 0)
    listening.setsockopt(_SOL_PACKET, _RX_RING, ring)
    # A mirror port's frames are for others; what passes by the loopback interface is both sent and received there.
    listening.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, struct.pack("iHH8x", index, _PROMISCUOUS, 0))
    listening.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, int(kind == _LOOPBACK))
    listening.bind((name, _ALL_PROTOCOLS))
    if listening.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ENETDOWN:
        raise NoInterfaceError(f"{name}: is down; bring it up, with: ip link set {name} up")
    return _LINK_TYPES[kind]


def _keep_beginnings(listening: socket.socket) -> None:
    """Have no more of each frame copied than its first ``KEPT`` bytes."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, KEPT), 8)
    listening.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))


def _remedy(problem: OSError) -> str:
    """Return why an interface cannot be captured, and what helps."""
    match problem.errno:
        case errno.EPERM | errno.EACCES:
            return (
                "capturing needs CAP_NET_RAW: run as root, or give it to python with setcap cap_net_raw+ep, "
                "or to a systemd unit with AmbientCapabilities=CAP_NET_RAW"
            )
        case absent if absent in _ABSENT:
            return f"no such interface; there are {', '.join(name for _, name in socket.if_nameindex())}"
        case errno.ENOMEM:
            return "there is not enough memory for its ring; ask for a smaller one"
    return f"cannot be captured: {problem.strerror or problem}; check the kernel (CONFIG_PACKET, CONFIG_PACKET_MMAP)"
