"""Capture the packets of a network interface on Linux: the kernel writes them to a ring of blocks in shared memory.

Sources: packet(7); Documentation/networking/packet_mmap.rst and include/uapi/linux/if_packet.h of the kernel.
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

from dataset.packets.frames import Frames, Integers, read_numbers
from dataset.packets.link_types import extract_ipv4_packets
from dataset.packets.packets import NO_PACKETS, Packets
from dataset.packets.traffic_counts import VLAN, TrafficCounts
from utils.errors import CaptureError, NoInterfaceError

BLOCK_BYTES: Final = 2**18
"""Bytes of a block, which the kernel hands over full or not; small blocks waste less memory."""

RING_BYTES: Final = 64 * 2**20
"""Bytes of the ring: the smallest frame takes 144 bytes, a frame of ``SNAP_LENGTH`` bytes or more 168."""

SNAP_LENGTH: Final = 80
"""Captured bytes of a frame: more than the longest headers that are parsed."""

_RETIREMENT: Final = 20  # milliseconds after which the kernel hands over a block that is not full
_SLOT: Final = 2048  # bytes; only the kernel's checks of the ring's size use it
_ALL_PROTOCOLS: Final = 3
_ATTACH_FILTER: Final = 26
_SOL_PACKET: Final = 263
_ADD_MEMBERSHIP, _RX_RING, _STATISTICS, _VERSION, _IGNORE_OUTGOING = 1, 5, 6, 10, 23  # options of SOL_PACKET
_PROMISCUOUS: Final = 1
_TPACKET_V3: Final = 2
_RETURN: Final = 0x06  # BPF instruction: return the number of bytes to capture
_LOOPBACK: Final = 772
_LINK_TYPES: Final = {1: 1, _LOOPBACK: 1, 65534: 101}  # Ethernet, loopback, raw IP: ARPHRD_ to LINKTYPE_ numbers

_ABSENT: Final = (None, errno.ENODEV)  # error numbers of if_nametoindex and bind

_READY, _TAGGED = 1, 16  # bits of the status of a block, of a frame
_STATUS_OFFSET: Final = 8
_STATUS: Final = struct.Struct("I")
_BLOCK_HEADER: Final = struct.Struct("12x3I24x")  # number of frames, offset of the first, used bytes
_NUMBERS: Final = np.arange(1, 6)[:, np.newaxis]  # of a frame header: seconds, nanoseconds, captured, size, status
_FRAME_OFFSET: Final = 24  # where a frame header holds the offset of its frame


class Interface:
    """The IPv4 packets of a network interface, sent and received: a ``live_records.Source`` and a context manager.

    Args:
        name: of the interface, as ``ip link`` lists it.
        counts: updated with what is captured. Dropped frames are those that the ring had no room for; frames that the
            network card lost are not among them.
        ring_bytes: size of the ring, rounded down to whole blocks, at least two.

    Raises:
        CaptureError: on entering, the interface does not exist, is down or of an unsupported type, or the process may
            not capture it.
    """

    has_ended = False
    grace = 0.1
    """Seconds: the kernel hands a frame over within twice ``_RETIREMENT``."""

    def __init__(self, name: str, counts: TrafficCounts, *, ring_bytes: int = RING_BYTES) -> None:
        counts.dropped = 0
        self._name, self.counts = name, counts
        self._blocks = max(ring_bytes // BLOCK_BYTES, 2)

    def __enter__(self) -> Self:
        if not hasattr(socket, "AF_PACKET"):
            raise CaptureError("interfaces can be captured on Linux only; elsewhere capture with tcpdump into a file")
        self._next = 0  # index of the next block
        try:
            with ExitStack() as opened:
                self._socket = opened.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
                self._link_type = _open_ring(self._socket, self._name, self._blocks)
                self._ring = opened.enter_context(mmap.mmap(self._socket.fileno(), self._blocks * BLOCK_BYTES))
                self._opened = opened.pop_all()
        except OSError as problem:
            error = NoInterfaceError if problem.errno in _ABSENT else CaptureError
            raise error(f"{self._name}: {_describe(problem)}") from problem
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._opened.close()

    @property
    def is_drained(self) -> bool:
        """Whether all blocks that the kernel handed over have been read."""
        return not _STATUS.unpack_from(self._ring, self._next * BLOCK_BYTES + _STATUS_OFFSET)[0] & _READY

    def read_packets(self, timeout: float, /) -> Packets:
        """Return the IPv4 packets of the next block in order of arrival; none if no block arrives in time.

        While the link is down, there are no packets and no error: it may come up again.

        Raises:
            CaptureError: the interface was removed.
        """
        if self.is_drained:
            self._wait(timeout)
        self.counts.dropped = (self.counts.dropped or 0) + self._count_newly_dropped()
        if self.is_drained:
            return NO_PACKETS
        frames, tagged = parse_block(self._pop_block(), self._link_type)
        packets, _ = extract_ipv4_packets(frames, self.counts)
        if tagged:
            self.counts.count_other(VLAN, tagged)
        return packets

    def _wait(self, timeout: float) -> None:
        events = self._poll.poll(1000 * timeout)
        if events and not events[0][1] & select.POLLERR:
            return
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # clears the error, so that the next poll waits
        if not self._socket.getsockname()[0]:
            raise NoInterfaceError(f"{self._name}: the interface was removed; start again when it is back")

    def _count_newly_dropped(self) -> int:
        counts = self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 12)  # reading resets the kernel's counters
        dropped: int = struct.unpack("4xI4x", counts)[0]
        return dropped

    def _pop_block(self) -> bytes:
        """Return a copy of the next block and release the block to the kernel."""
        start = self._next * BLOCK_BYTES
        length = _BLOCK_HEADER.unpack_from(self._ring, start)[2]
        block = self._ring[start : start + length]
        _STATUS.pack_into(self._ring, start + _STATUS_OFFSET, 0)
        self._next = (self._next + 1) % self._blocks
        return block


def parse_block(block: bytes, link_type: int) -> tuple[Frames, int]:
    """Return the frames of a block of the ring without those that had a VLAN tag, and the number of the latter.

    Args:
        block: the used bytes of the block.
        link_type: of all frames, a LINKTYPE_ number.

    Raises:
        CaptureError: a frame lies beyond the end of the block.
    """
    content = np.frombuffer(block, np.uint8)
    try:
        header = _find_headers(block)
        numbers = np.frombuffer(block, np.uint32, len(block) // 4).take(header // 4 + _NUMBERS)
        start = header + read_numbers(content, header + _FRAME_OFFSET, "=u2")
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


def _find_headers(block: bytes) -> Integers:
    """Return the offsets (N,) of the frame headers of a block."""
    # The only loop over single frames; everything that numpy can do for all frames is done afterwards.
    count, at, _ = _BLOCK_HEADER.unpack_from(block)
    steps, headers = memoryview(block)[: len(block) // 4 * 4].cast("I"), []
    for _ in range(min(count, len(steps))):
        headers.append(at)
        at += steps[at // 4]
    return np.array(headers, np.int64)


def _open_ring(listening: socket.socket, name: str, blocks: int) -> int:
    """Start capturing an interface into a ring; return its LINKTYPE_ number."""
    index = socket.if_nametoindex(name)
    listening.bind((name, 0))  # protocol 0: no frame arrives before all options are set
    kind = listening.getsockname()[3]
    if kind not in _LINK_TYPES:
        raise CaptureError(
            f"{name}: is of ARPHRD type {kind}; supported are Ethernet, loopback and raw IP, such as a tunnel"
        )
    _limit_capture_length(listening)
    listening.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V3)
    ring = struct.pack("7I", BLOCK_BYTES, blocks, _SLOT, BLOCK_BYTES // _SLOT * blocks, _RETIREMENT, 0, 0)
    listening.setsockopt(_SOL_PACKET, _RX_RING, ring)
    # Frames of a mirror port are addressed to other hosts. On loopback, every frame is both sent and received.
    listening.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, struct.pack("iHH8x", index, _PROMISCUOUS, 0))
    listening.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, int(kind == _LOOPBACK))
    listening.bind((name, _ALL_PROTOCOLS))
    if listening.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ENETDOWN:
        raise NoInterfaceError(f"{name}: is down; bring it up, with: ip link set {name} up")
    return _LINK_TYPES[kind]


def _limit_capture_length(listening: socket.socket) -> None:
    """Make the kernel copy only the first ``SNAP_LENGTH`` bytes of each frame."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, SNAP_LENGTH), 8)
    listening.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))


def _describe(problem: OSError) -> str:
    """Return why an interface cannot be captured, and what to do."""
    match problem.errno:
        case errno.EPERM | errno.EACCES:
            return (
                "capturing needs CAP_NET_RAW: run as root, or grant it to python with setcap cap_net_raw+ep "
                "or to a systemd unit with AmbientCapabilities=CAP_NET_RAW"
            )
        case absent if absent in _ABSENT:
            return f"no such interface; choose one of {', '.join(name for _, name in socket.if_nameindex())}"
        case errno.ENOMEM:
            return "there is not enough memory for the ring buffer; free some"
    return f"cannot be captured: {problem.strerror or problem}; check the kernel (CONFIG_PACKET, CONFIG_PACKET_MMAP)"
