"""Captures of every format give the packets of a plain reader, whatever the size of the chunks."""

import gzip
import random
import struct
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.packets import pcap as pcap_format
from dataset.packets.captures import read_capture
from dataset.packets.packets import Packets
from dataset.packets.pcapng import PcapNg
from dataset.packets.traffic_counts import TrafficCounts
from tests.captures import SHARED, Frame, needs_shared, parse_ipv4_packet, read_frames, read_packets
from utils.errors import CaptureError

FOLDER = SHARED / "data" / "pcaps"
CAPTURES = sorted(path.name for path in FOLDER.glob("*.pcap*"))
SECOND = 1_000_000
DTYPES = (np.int64, np.uint32, np.uint32, np.int64, np.uint8, np.uint8, np.uint32)
ETHERNET, RAW, NULL, COOKED, COOKED_2 = 1, 101, 0, 113, 276


def frame(number: int, size: int = 60, kind: int = 0x0800) -> bytes:
    """Return an Ethernet frame of a TCP packet from 10.0.0.1 to 10.0.1.``number``."""
    ip = struct.pack(">BBHHHBBH4B4B", 0x45, 0, size - 14, 0, 0, 64, 6, 0, 10, 0, 0, 1, 10, 0, 1, number)
    tcp = struct.pack(">HHIIBBHHH", 1000, 80, 0, 0, 0x50, 0x12, 0, 0, 0)
    return (b"\2" * 12 + struct.pack(">H", kind) + ip + tcp).ljust(size, b"\0")


FRAMES: list[Frame] = [
    (1_600_000_000 * SECOND + 7, 60, frame(1)),
    (1_600_000_000 * SECOND + 999_999, 1514, frame(2, 1514)[:96]),
    (1_600_000_001 * SECOND, 60, frame(3, kind=0x86DD)),
    (1_599_999_999 * SECOND + 123_456, 300, frame(4, 300)),
]


def make_packets(frames: list[Frame]) -> Packets:
    rows = [packet for one in frames if (packet := parse_ipv4_packet(*one)) is not None]
    columns = zip(*rows, strict=True) if rows else [()] * len(DTYPES)
    return Packets(*(np.array(column, dtype) for column, dtype in zip(columns, DTYPES, strict=True)))


def read(path: Path, chunk_bytes: int = 4 * 2**20) -> tuple[Packets, TrafficCounts]:
    counts = TrafficCounts()
    return Packets.concatenate([make_packets([]), *read_capture(path, counts, chunk_bytes=chunk_bytes)]), counts


def assert_same(found: Packets, wanted: Packets) -> None:
    for field in fields(Packets):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(wanted, field.name), field.name)


def pcap(frames: list[Frame], order: str = "<", nano: bool = False, link: int = ETHERNET) -> bytes:
    content = struct.pack(f"{order}IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, 262_144, link)
    for time, size, captured in frames:
        seconds, fraction = divmod(time, SECOND)
        times = (seconds, 1000 * fraction + 321 if nano else fraction)
        content += struct.pack(f"{order}IIII", *times, len(captured), size) + captured
    return content


def block(order: str, kind: int, body: bytes) -> bytes:
    padded = body + b"\0" * (-len(body) % 4)
    length = struct.pack(f"{order}I", len(padded) + 12)
    return struct.pack(f"{order}I", kind) + length + padded + length


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str, link: int = ETHERNET, options: bytes = b"") -> bytes:
    return block(order, 1, struct.pack(f"{order}HHI", link, 0, 0) + options)


def make_option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(f"{order}HH", code, len(value)) + value + b"\0" * (-len(value) % 4)


def packet(order: str, ticks: int, size: int, captured: bytes, number: int = 0) -> bytes:
    head = struct.pack(f"{order}IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(captured), size)
    return block(order, 6, head + captured)


def pcapng(frames: list[Frame], order: str = "<") -> bytes:
    return section(order) + interface(order) + b"".join(packet(order, *one) for one in frames)


@needs_shared
@pytest.mark.parametrize("chunk_bytes", [1_000, 70_001, 4 * 2**20])
@pytest.mark.parametrize("name", CAPTURES)
def test_a_real_capture_gives_the_packets_of_a_plain_reader(name: str, chunk_bytes: int) -> None:
    found, counts = read(FOLDER / name, chunk_bytes)
    assert_same(found, read_packets(FOLDER / name))
    frames = list(read_frames(FOLDER / name))
    assert (counts.packets, counts.ipv4, counts.other) == (len(frames), len(found), len(frames) - len(found))
    assert (counts.malformed, counts.truncated) == (0, 0)


@pytest.mark.parametrize("nano", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_pcap_is_read_in_both_byte_orders_and_resolutions(tmp_path: Path, order: str, *, nano: bool) -> None:
    (tmp_path / "a.pcap").write_bytes(pcap(FRAMES, order, nano))
    assert_same(read(tmp_path / "a.pcap")[0], make_packets(FRAMES))


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_is_read_in_both_byte_orders(tmp_path: Path, order: str) -> None:
    (tmp_path / "a.pcapng").write_bytes(pcapng(FRAMES, order))
    assert_same(read(tmp_path / "a.pcapng")[0], make_packets(FRAMES))


@pytest.mark.parametrize(
    ("resolution", "ticks"),
    [
        (3, lambda time: time // 1000),
        (6, lambda time: time),
        (9, lambda time: 1000 * time + 999),
        (0x80 | 20, lambda time: -(-time * 2**20 // SECOND)),
        (0x80 | 32, lambda time: -(-time * 2**32 // SECOND)),
    ],
)
def test_pcapng_timestamps_of_any_resolution_are_read(
    tmp_path: Path, resolution: int, ticks: Callable[[int], int]
) -> None:
    frames = [(1000 * (time // 1000), size, captured) for time, size, captured in FRAMES]
    clock = (
        make_option("<", 9, bytes([resolution])) + make_option("<", 14, struct.pack("<q", 5)) + make_option("<", 0, b"")
    )
    content = section("<") + interface("<", options=clock)
    content += b"".join(packet("<", ticks(time - 5 * SECOND), size, captured) for time, size, captured in frames)
    (tmp_path / "a").write_bytes(content)
    found, _ = read(tmp_path / "a")
    assert_same(found, make_packets(frames))


def test_pcapng_sections_and_interfaces_of_different_kinds_are_read(tmp_path: Path) -> None:
    raw = [(time, size - 14, captured[14:]) for time, size, captured in FRAMES]
    old = block(">", 2, struct.pack(">HHIIII", 1, 0, 0, 77, 60, 60) + frame(9))
    content = section("<") + interface("<") + interface("<", RAW)
    content += packet("<", *FRAMES[0]) + packet("<", *raw[1], number=1) + block("<", 5, b"statistics")
    content += block("<", 3, struct.pack("<I", 60) + frame(5))  # without a time
    content += section(">") + interface(">", RAW) + interface(">") + packet(">", *raw[3]) + old
    (tmp_path / "a").write_bytes(content)
    found, counts = read(tmp_path / "a")
    assert_same(found, make_packets([FRAMES[0], FRAMES[1], FRAMES[3], (77, 60, frame(9))]))
    assert (counts.packets, counts.ipv4, counts.malformed) == (5, 4, 1)


def test_frames_of_interfaces_with_one_link_type_are_read_together() -> None:
    content = section("<") + interface("<") + interface("<") + interface("<", RAW)
    content += b"".join(packet("<", *FRAMES[0], number=number % 2) for number in range(50))
    (frames,), done = PcapNg().parse(content, 0)
    assert (len(frames), frames.link_type, done) == (50, ETHERNET, len(content))


def frame_header(order: str, seconds: int, captured: int) -> bytes:
    return struct.pack(f"{order}IIII", seconds, 0, captured, captured)


def follow_sequentially(chunk: bytes, order: str) -> list[int]:
    """Return the offsets of the frame headers, each found from the one before."""
    headers, at = [], 0
    while at + 16 <= len(chunk):
        headers.append(at)
        at += 16 + int(struct.unpack_from(f"{order}I", chunk, at + 8)[0])
    return headers


@st.composite
def draw_chunk(draw: st.DrawFn, order: str) -> bytes:
    """Draw frames that hold bytes like headers, damaged in places and truncated anywhere."""
    generator = random.Random(draw(st.integers(0, 2**32)))
    seconds = draw(st.sampled_from([0, 1_600_000_000, 2**32 - 1]))
    content = b""
    for _ in range(draw(st.integers(0, 60))):
        looks = [frame_header(order, seconds, generator.choice([0, 1, 30, 200])) for _ in range(generator.randrange(4))]
        frame = b"".join(looks) + generator.randbytes(generator.choice([0, 1, 44, 300]))
        content += frame_header(order, seconds + generator.randrange(-1, 2) & 0xFFFFFFFF, len(frame)) + frame
    damaged = bytearray(content)
    for _ in range(draw(st.integers(0, 3)) if content else 0):
        damaged[generator.randrange(len(damaged))] = generator.choice([0, 1, 0x7F, 0xFF])
    return bytes(damaged[: draw(st.integers(0, len(damaged)))])


@pytest.mark.parametrize("order", ["<", ">"])
@settings(max_examples=400, database=None)
@given(st.data(), st.sampled_from([16, 100, 1000]))
def test_headers_equal_those_followed_sequentially_whatever_looks_like_one(
    order: str, data: st.DataObject, segment: int
) -> None:
    chunk = data.draw(draw_chunk(order))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pcap_format, "_SEGMENT", segment)
        assert pcap_format.find_frame_headers(chunk, order).tolist() == follow_sequentially(chunk, order)


@pytest.mark.parametrize("order", ["<", ">"])
def test_headers_of_plain_traffic_are_never_followed_sequentially(monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    generator = random.Random(1)
    sizes = [generator.choice([60, 66, 590, 1514]) for _ in range(5000)]
    content = b"".join(
        frame_header(order, 1_600_000_000 + number // 100, size) + generator.randbytes(size)
        for number, size in enumerate(sizes)
    )
    wanted = follow_sequentially(content, order)
    monkeypatch.delattr(pcap_format, "_follow_sequentially")
    assert pcap_format.find_frame_headers(content, order).tolist() == wanted


def test_arbitrary_headers_give_the_packets_of_a_plain_reader(tmp_path: Path) -> None:
    generator = random.Random(1)
    frames = []
    for number in range(3000):
        options = generator.choice([0x45, 0x4F, 0x40, generator.randrange(256)])
        fragment = generator.choice([0, 1, 0x1000, 0x2000])
        ip = struct.pack(">BBHHHBB", options, 0, 0, 0, fragment, 64, generator.choice([1, 6, 17, 50, 132]))
        captured = b"\2" * 12 + b"\x08\0" + ip + generator.randbytes(generator.randrange(10, 90))
        frames.append((number * SECOND, len(captured), captured))
    (tmp_path / "a.pcap").write_bytes(pcap(frames))
    for chunk_bytes in (4000, 4 * 2**20):
        assert_same(read(tmp_path / "a.pcap", chunk_bytes)[0], make_packets(frames))


@pytest.mark.parametrize(
    ("link", "header"),
    [
        (RAW, lambda _: b""),
        (12, lambda _: b""),
        (NULL, lambda kind: struct.pack("<I", 2 if kind == 0x0800 else 30)),
        (NULL, lambda kind: struct.pack(">I", 2 if kind == 0x0800 else 28)),
        (108, lambda kind: struct.pack(">I", 2 if kind == 0x0800 else 24)),
        (COOKED, lambda kind: b"\0\0\0\1\0\6" + b"\3" * 8 + struct.pack(">H", kind)),
        (COOKED_2, lambda kind: struct.pack(">H", kind) + b"\0" * 18),
    ],
)
def test_other_link_types_give_the_same_packets_as_ethernet(
    tmp_path: Path, link: int, header: Callable[[int], bytes]
) -> None:
    frames = []
    for time, size, captured in FRAMES:
        (kind,) = struct.unpack_from(">H", captured, 12)
        payload = captured[14:] if kind == 0x0800 else b"\x60" + captured[15:]  # the version of IPv6
        head = header(kind)
        frames.append((time, size - 14 + len(head), head + payload))
    (tmp_path / "a.pcap").write_bytes(pcap(frames, link=link))
    found, counts = read(tmp_path / "a.pcap")
    assert_same(found, make_packets(FRAMES))
    assert (counts.other, counts.malformed) == (1, 0)


def test_frames_shorter_than_their_headers_are_counted(tmp_path: Path) -> None:
    short = [(0, 60, frame(1)[:33]), (0, 60, frame(1)[:13]), (0, 60, b""), (0, 60, frame(1)[:34])]
    (tmp_path / "a.pcap").write_bytes(pcap(short))
    found, counts = read(tmp_path / "a.pcap")
    assert (len(found), counts) == (1, TrafficCounts(ipv4=1, malformed=3))
    assert found.tcp_flags.tolist() == [0]  # beyond the 34 bytes


@pytest.mark.parametrize("form", [pcap, pcapng])
def test_a_truncated_capture_gives_its_complete_frames(tmp_path: Path, form: Callable[[list[Frame]], bytes]) -> None:
    ends = [len(form(FRAMES[:count])) for count in range(len(FRAMES) + 1)]
    content = form(FRAMES)
    for end in range(ends[0], len(content)):
        (tmp_path / "a").write_bytes(content[:end])
        _, counts = read(tmp_path / "a")
        assert counts.packets == sum(end >= whole for whole in ends[1:])
        assert counts.truncated == (end not in ends)


def test_a_truncated_gzip_file_gives_its_complete_frames(tmp_path: Path) -> None:
    whole = gzip.compress(pcap(FRAMES * 500), compresslevel=1)
    (tmp_path / "a.gz").write_bytes(whole[: len(whole) // 2])
    found, counts = read(tmp_path / "a.gz")
    assert 100 < counts.packets < 2000
    assert counts.truncated == 1
    assert_same(found, make_packets((FRAMES * 500)[: counts.packets]))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no capture at all, but long enough", "is not a pcap or pcapng capture"),
        (b"\xd4\xc3\xb2\xa1", "is cut off in its header; fetch or copy it again"),
        (pcap([]) + struct.pack("<IIII", 0, 0, 300_000, 300_000), "damaged at byte 24: a frame of 300000 bytes"),
        (pcap(FRAMES, link=147), "was captured with link type 147; supported are BSD loopback"),
        (section("<") + struct.pack("<III", 6, 7, 0), "damaged at byte 28: a block of 7 bytes"),
        (section("<") + packet("<", *FRAMES[0]), "a packet that does not fit its block or interface"),
        (section("<") + block("<", 1, b"\1"), "an interface"),
        (
            section("<") + interface("<", options=make_option("<", 9, b"\xff")),
            "an unsupported timestamp resolution",
        ),
        (section("<") + interface("<") + block("<", 6, b"\0" * 8), "a packet block without a packet"),
        (b"\x0a\x0d\x0d\x0a" + struct.pack("<II", 28, 0) + b"\0" * 16, "a section without a valid byte order"),
        (gzip.compress(pcap(FRAMES))[:-8] + b"\0" * 8, "is damaged: CRC check failed"),
    ],
)
def test_a_file_that_is_damaged_or_not_a_capture_raises_one_error_with_its_name(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(content)
    with pytest.raises(CaptureError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("form", [pcap, pcapng])
def test_random_damage_gives_packets_or_one_error(tmp_path: Path, form: Callable[[list[Frame]], bytes]) -> None:
    generator, content = random.Random(1), form(FRAMES * 5)
    for _ in range(1000):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 8)):
            damaged[generator.randrange(len(damaged))] = generator.choice(
                [0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)]
            )
        (tmp_path / "a").write_bytes(damaged[: generator.randint(0, len(damaged))] or b"\0")
        try:
            _, counts = read(tmp_path / "a", generator.choice([100, 4096]))
        except CaptureError as problem:
            assert len(str(problem).splitlines()) == 1
        else:
            assert counts.packets == counts.ipv4 + counts.other + counts.malformed


def test_a_packet_with_an_impossible_timestamp_is_malformed(tmp_path: Path) -> None:
    wrong = struct.pack("<IIIIIII", 6, 32 + 60, 0, 0x8000_0000, 0, 60, 60) + frame(1) + struct.pack("<I", 32 + 60)
    (tmp_path / "a.pcapng").write_bytes(pcapng(FRAMES) + wrong)
    found, counts = read(tmp_path / "a.pcapng")
    assert_same(found, make_packets(FRAMES))
    assert (counts.malformed, counts.ipv4) == (1, len(found))
