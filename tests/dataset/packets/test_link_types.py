"""Captures of several link types, interfaces and sections, and headers with wrong claims."""

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.captures import Frame
from tests.dataset.packets.test_captures import (
    COOKED,
    COOKED_2,
    ETHERNET,
    FRAMES,
    NULL,
    RAW,
    SECOND,
    assert_same,
    block,
    frame,
    interface,
    make_option,
    make_packets,
    packet,
    pcap,
    pcapng,
    read,
    section,
)
from utils.errors import CaptureError

USB = 220


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def make_cooked_2(kind: int, behind: bytes) -> bytes:
    return struct.pack(">H", kind) + b"\0" * 18 + behind


@pytest.mark.parametrize(
    ("link", "header"),
    [
        (NULL, struct.pack("<I", 2)),
        (108, struct.pack(">I", 2)),
        (COOKED, b"\0\0\0\1\0\6" + b"\3" * 8 + b"\x08\0"),
        (COOKED_2, make_cooked_2(0x0800, b"")),
    ],
)
@pytest.mark.parametrize("version", [0, 3, 5, 6, 15])
def test_a_packet_after_a_header_for_ipv4_must_have_version_4(
    tmp_path: Path, link: int, header: bytes, version: int
) -> None:
    good = frame(1)[14:]
    wrong = bytes([version << 4 | 5]) + good[1:]
    content = pcap([(SECOND, 66, header + good), (SECOND + 1, 66, header + wrong)], link=link)
    found, counts = read(write(tmp_path / "a.pcap", content))
    assert (len(found), counts.ipv4, counts.malformed, counts.other) == (1, 1, 1, 0)
    assert dict(counts.kinds) == {"of another IP version than their link's header says": 1}


def test_a_tagged_frame_of_linux_cooked_2_gives_no_packet(tmp_path: Path) -> None:
    tag = struct.pack(">HH", 24, 0x0800)
    frames = [
        (SECOND, 64, make_cooked_2(0x0800, tag + frame(1)[14:])),
        (SECOND + 1, 60, make_cooked_2(0x0800, frame(2)[14:])),
    ]
    found, counts = read(write(tmp_path / "a.pcap", pcap(frames, link=COOKED_2)))
    assert (found.destination.tolist(), counts.ipv4, counts.malformed + counts.other) == ([0x0A000102], 1, 1)


def test_on_ethernet_the_version_is_not_checked(tmp_path: Path) -> None:
    odd = frame(1)[:14] + b"\x65" + frame(1)[15:]
    found, counts = read(write(tmp_path / "a.pcap", pcap([(SECOND, 60, odd)])))
    assert (len(found), counts.malformed) == (1, 0)


@pytest.mark.parametrize("protocol", [1, 6, 17, 132])
@pytest.mark.parametrize("words", range(16))
def test_a_header_with_an_invalid_length_gives_no_ports(tmp_path: Path, protocol: int, words: int) -> None:
    ip = bytes([0x40 | words]) + frame(1)[15:23] + bytes([protocol]) + frame(1)[24:34]
    ports = b"".join(struct.pack(">BBBB", 1, place, 2, place) for place in range(12))
    content = pcap([(SECOND, 82, frame(1)[:14] + ip + ports)])
    found, _ = read(write(tmp_path / "a.pcap", content))
    place = words - 5
    kind_and_code = 1 << 16 | place
    there = kind_and_code if protocol == 1 else int.from_bytes(bytes([1, place, 2, place])) if place >= 0 else 0
    assert found.ports.tolist() == [there if place >= 0 else 0]


def test_unsupported_link_types_are_counted_and_the_others_read(tmp_path: Path) -> None:
    content = section("<") + interface("<") + interface("<", USB) + interface("<", 147) + interface("<", RAW)
    content += packet("<", *FRAMES[0]) + packet("<", SECOND, 64, b"\0" * 64, 1) + packet("<", SECOND, 9, b"\0" * 9, 2)
    time_, size, captured = FRAMES[1]
    content += packet("<", SECOND, 64, b"\0" * 64, 1) + packet("<", time_, size - 14, captured[14:], 3)
    found, counts = read(write(tmp_path / "a.pcapng", content))
    assert_same(found, make_packets(FRAMES[:2]))
    assert (counts.packets, counts.ipv4, counts.other, counts.malformed) == (5, 2, 3, 0)
    assert dict(counts.unreadable) == {"link type 220 (USB)": 2, "link type 147": 1}


def alternate(frames: list[Frame], links: tuple[int, ...]) -> bytes:
    content = section("<") + b"".join(interface("<", link) for link in links)
    for number, (at, size, captured) in enumerate(frames):
        which = number % len(links)
        cut = 14 if links[which] == RAW else 0
        content += packet("<", at, size - cut, captured[cut:], which)
    return content


@pytest.mark.parametrize("chunk_bytes", [300, 4 * 2**20])
@pytest.mark.parametrize("links", [(ETHERNET, RAW), (RAW, ETHERNET, ETHERNET), (ETHERNET, ETHERNET)])
def test_packets_of_alternating_link_types_keep_the_order_of_the_file(
    tmp_path: Path, links: tuple[int, ...], chunk_bytes: int
) -> None:
    frames = [(SECOND * number, 60 + number % 9, frame(number % 250, 60 + number % 9)) for number in range(101)]
    path = write(tmp_path / "a.pcapng", alternate(frames, links))
    assert_same(read(path, chunk_bytes)[0], make_packets(frames))


def test_packets_of_alternating_clocks_and_byte_orders_keep_the_order_of_the_file(tmp_path: Path) -> None:
    frames = [(SECOND * (1000 + number), 60, frame(number)) for number in range(60)]
    content = b""
    for number, (at, size, captured) in enumerate(frames):
        order = "<>"[number % 2]
        clock = make_option(order, 9, bytes([9])) + make_option(order, 14, struct.pack(f"{order}q", number))
        content += section(order) + interface(order) + interface(order, options=clock)
        ticks = 1000 * (at - SECOND * number)
        content += packet(order, *((ticks, size, captured, 1) if number % 3 else (at, size, captured, 0)))
    path = write(tmp_path / "a.pcapng", content)
    for chunk_bytes in (300, 4 * 2**20):
        assert_same(read(path, chunk_bytes)[0], make_packets(frames))


def many_interfaces(count: int) -> bytes:
    kinds = [(ETHERNET, 6), (RAW, 9), (COOKED, 6), (ETHERNET, 3)]
    content = section("<") + b"".join(
        interface("<", link, make_option("<", 9, bytes([clock]))) for link, clock in kinds
    )
    return content + b"".join(packet("<", number, 60, frame(1), number % len(kinds)) for number in range(count))


def many_sections(count: int) -> bytes:
    one = section("<") + interface("<") + packet("<", SECOND, 60, frame(1))
    return one * count


def one_interface(count: int) -> bytes:
    return pcapng([(number, 60, frame(1)) for number in range(count)])


@pytest.mark.parametrize(("make", "most"), [(many_interfaces, 40), (many_sections, 300)])
def test_alternating_interfaces_or_sections_are_read_at_a_bounded_cost(
    tmp_path: Path, make: Callable[[int], bytes], most: float
) -> None:
    def seconds(content: bytes) -> float:
        best, path = float("inf"), write(tmp_path / "a.pcapng", content)
        for _ in range(3):
            start = time.process_time()
            read(path)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(make(20_000)) < most * seconds(one_interface(20_000))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [(2, 0), (0, 0), (1, 1), (1, 3), (256, 0)])
def test_a_section_of_an_unknown_version_is_refused(tmp_path: Path, order: str, version: tuple[int, int]) -> None:
    newer = block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, *version, -1))
    start = pcapng(FRAMES)
    path = write(tmp_path / "a.pcapng", start + newer)
    said = (
        rf"a\.pcapng: holds a section of pcapng version {version[0]}\.{version[1]} at byte {len(start)}; only version"
    )
    for chunk_bytes in (20, 4 * 2**20):
        with pytest.raises(CaptureError, match=rf"{said} 1\.0 can be read; what comes before can be saved"):
            read(path, chunk_bytes)
    with pytest.raises(CaptureError, match=r"at byte 0; only version 1\.0 can be read$"):
        read(write(path, newer + interface(order)))


def test_a_section_of_version_1_2_is_read_as_1_0(tmp_path: Path) -> None:
    same = block("<", 0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 2, -1))
    path = write(tmp_path / "a.pcapng", same + interface("<") + packet("<", *FRAMES[0]))
    assert_same(read(path)[0], make_packets(FRAMES[:1]))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("version", "is_known"), [((2, 4), True), ((2, 3), True), ((3, 0), False), ((2, 5), False)])
def test_a_pcap_of_an_unknown_version_is_refused(
    tmp_path: Path, order: str, version: tuple[int, int], *, is_known: bool
) -> None:
    content = bytearray(pcap(FRAMES, order))
    struct.pack_into(f"{order}HH", content, 4, *version)
    path = write(tmp_path / "a.pcap", bytes(content))
    if is_known:
        assert_same(read(path)[0], make_packets(FRAMES))
        return
    with pytest.raises(CaptureError, match=rf"a\.pcap: is of pcap version {version[0]}\.{version[1]}; only version 2"):
        read(path)


def test_other_frames_are_counted_by_kind(tmp_path: Path) -> None:
    kinds = (0x8100, 0x88A8, 0x86DD, 0x0806, 0x88CC, 0x8847, 0x8864, 0x0026)
    frames = [*FRAMES[:1], *((SECOND, 60, frame(1, kind=kind)) for kind in kinds), (SECOND, 60, frame(1)[:20])]
    _, counts = read(write(tmp_path / "a.pcap", pcap(frames)))
    wanted = {"VLAN-tagged": 2, "IPv6": 1, "ARP": 1, "MPLS": 1, "PPPoE": 1, "of other protocols": 2}
    assert dict(counts.kinds) == {**wanted, "cut short within their headers": 1}
    assert sum(counts.kinds.values()) == counts.other + counts.malformed
