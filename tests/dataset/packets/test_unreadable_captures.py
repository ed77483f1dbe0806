"""Captures without records: the error message names the file, what it holds and what to do."""

import bz2
import gzip
import io
import lzma
import os
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dataset.packets.test_captures import (
    FRAMES,
    SECOND,
    block,
    frame,
    interface,
    packet,
    pcap,
    pcapng,
    section,
)
from tests.scripts import CLIENT, EXTRACT, ROOT, Ended, call
from utils.compressions import describe_compression

VLAN, IPV6, ARP = 0x8100, 0x86DD, 0x0806


def ethernet(*kinds: int) -> bytes:
    return pcap([(SECOND * number, 60, frame(1, kind=kind)) for number, kind in enumerate(kinds)])


def simple_packets(count: int) -> bytes:
    return section("<") + interface("<") + block("<", 3, struct.pack("<I", 60) + frame(1)) * count


def on_links(*links: int) -> bytes:
    content = section("<") + b"".join(interface("<", link) for link in links)
    return content + b"".join(packet("<", SECOND, 64, b"\0" * 64, number) for number in range(len(links)))


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.pcap", content)
    return file.getvalue()


def in_tar(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a.pcap")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


NO_IPV4 = [
    (ethernet(VLAN, VLAN, VLAN), "no IPv4 packets among 3 packets, all VLAN-tagged; strip the tags"),
    (ethernet(IPV6), "no IPv4 packets among 1 packet, all IPv6; name a capture with IPv4 packets"),
    (ethernet(ARP, IPV6, VLAN, VLAN), "among 4 packets: 2 VLAN-tagged, 1 ARP, 1 IPv6; strip the tags"),
    (simple_packets(2), "among 2 packets without a timestamp (simple packet blocks); capture again with dumpcap"),
    (on_links(220, 220, 147), "among 3 packets: 2 of link type 220 (USB), 1 of link type 147; name a capture with"),
    (pcap([(SECOND, 60, frame(1)[:20])]), "among 1 packet, all cut short within their headers; capture again with"),
    (pcap(FRAMES[:1])[:-1], "is cut off in its first frame; fetch or copy it again"),
    (pcap(FRAMES[:1])[:30], "is cut off in its first frame; fetch or copy it again"),
    (pcapng(FRAMES[:1])[:-1], "is cut off in its first frame; fetch or copy it again"),
    (pcap([]), "no packets; capture again"),
    (pcapng([]), "no packets; capture again"),
]
NO_CAPTURE = [
    (pcap([])[:15], "is cut off in its header; fetch or copy it again"),
    (pcap([])[:2], "is cut off in its header; fetch or copy it again"),
    (pcap([], ">", nano=True)[:23], "is cut off in its header; fetch or copy it again"),
    (pcapng([])[:4], "is cut off in its header; fetch or copy it again"),
    (pcapng([])[:27], "is cut off in its header; fetch or copy it again"),
    (bz2.compress(pcap(FRAMES)), "is bzip2-compressed; unpack it with bzip2 -d"),
    (lzma.compress(pcap(FRAMES)), "is xz-compressed; unpack it with xz -d"),
    (lzma.compress(pcap(FRAMES), lzma.FORMAT_ALONE), "is lzma-compressed; unpack it with xz --format=lzma -d"),
    (zipped(pcap(FRAMES)), "is a zip archive; unpack it with unzip"),
    (in_tar(pcap(FRAMES)), "is a tar archive; unpack it with tar -xOf"),
    (b"\x28\xb5\x2f\xfd" + b"\0" * 40, "is zstd-compressed; unpack it with zstd -d"),
    (b"\x04\x22\x4d\x18" + b"\0" * 40, "is lz4-compressed; unpack it with lz4 -d"),
    (b"7z\xbc\xaf\x27\x1c" + b"\0" * 40, "is a 7z archive; unpack it with 7z x"),
    (b"Rar!\x1a\x07\1\0" + b"\0" * 40, "is a rar archive; unpack it with unrar p"),
    (b"snoop\0\0\0\0\0\0\2\0\0\0\4" + b"\0" * 40, "is a capture in snoop format; convert it with editcap"),
    (b"<html>404, and some more text, not found", "is not a pcap or pcapng capture; name another"),
]


def assert_one_line(ended: Ended, name: object, says: str) -> None:
    (line,) = ended.err.splitlines()
    assert ended.code == 2
    assert f"error: {name}: " in line
    assert says in line


def extract(capsys: pytest.CaptureFixture[str], capture: object, output: Path) -> Ended:
    return call(capsys, EXTRACT, "--pcap", capture, "--output", output)


@pytest.mark.parametrize(("content", "says"), [*NO_IPV4, *NO_CAPTURE])
@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_a_file_without_ipv4_packets_gives_one_line_with_the_reason(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, says: str, packed: Callable[[bytes], bytes]
) -> None:
    capture = tmp_path / "a"
    capture.write_bytes(packed(content))
    assert_one_line(extract(capsys, capture, tmp_path / "o.csv"), capture, says)
    assert list(tmp_path.iterdir()) == [capture]


@pytest.mark.parametrize(("content", "says"), [*NO_IPV4, *NO_CAPTURE])
def test_a_pipe_without_ipv4_packets_gives_one_line_with_the_reason(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, says: str
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(content))
    writer.start()
    assert_one_line(extract(capsys, pipe, tmp_path / "o.csv"), pipe, says)
    writer.join()
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty; check the program that writes it"),
        (ethernet(VLAN), "no IPv4 packets among 1 packet, all VLAN-tagged"),
        (pcap([])[:15], "is cut off in its header"),
        (gzip.compress(pcap(FRAMES), mtime=0), "is gzip-compressed; unpack it in the pipe with gzip -dc"),
        (lzma.compress(pcap(FRAMES)), "is xz-compressed; unpack it with xz -d"),
    ],
)
def test_standard_input_without_ipv4_packets_gives_one_line_with_the_reason(
    tmp_path: Path, content: bytes, says: str
) -> None:
    command = [sys.executable, EXTRACT, "--pcap", "-", "--output", str(tmp_path / "o.csv")]
    done = subprocess.run(command, input=content, capture_output=True, cwd=ROOT)
    assert_one_line(Ended(done.returncode, "", done.stderr.decode()), "standard input", says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty; it may be an interrupted copy, fetch or make it again"),
        (gzip.compress(b"", mtime=0), "is empty; capture or fetch it again"),
        (gzip.compress(pcap(FRAMES), mtime=0)[:2], "is cut off in its header; fetch or copy it again"),
        (gzip.compress(pcap(FRAMES), mtime=0)[:9], "is cut off in its header; fetch or copy it again"),
    ],
)
def test_an_empty_or_truncated_file_is_reported_as_such(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "a").write_bytes(content)
    assert_one_line(extract(capsys, tmp_path / "a", tmp_path / "o.csv"), tmp_path / "a", says)


def test_several_captures_without_ipv4_packets_are_reported_together(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    captures = [tmp_path / name for name in "abcd"]
    for path, kind in zip(captures, (VLAN, ARP, VLAN, IPV6), strict=True):
        path.write_bytes(ethernet(kind))
    ended = call(capsys, EXTRACT, "--pcap", *captures, "--output", tmp_path / "o.csv")
    names = ", ".join(map(str, captures[:3]))
    assert_one_line(ended, f"{names} and 1 more", "among 4 packets: 2 VLAN-tagged, 1 ARP, 1 IPv6; strip the tags")


def test_unsupported_link_types_are_listed_in_the_summary(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    capture = tmp_path / "a.pcapng"
    capture.write_bytes(on_links(220) + pcapng(FRAMES))
    ended = extract(capsys, capture, tmp_path / "o.csv")
    assert (ended.code, ended.err) == (0, "")
    assert "5 packets: 3 IPv4, 2 other, 0 malformed" in ended.out
    assert "1 of link type 220 (USB) cannot be read" in ended.out


def test_the_message_names_only_the_most_common_kinds(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    capture = tmp_path / "a.pcapng"
    capture.write_bytes(on_links(*range(1000, 3000)))
    ended = extract(capsys, capture, tmp_path / "o.csv")
    assert_one_line(ended, capture, "1 of link type 1007, 2000 in all; name a capture with IPv4 packets")
    assert len(ended.err) < 1000 + len(str(capture))


@pytest.mark.parametrize(("content", "says"), [NO_IPV4[0], NO_IPV4[3], NO_IPV4[6], NO_CAPTURE[0], NO_CAPTURE[6]])
@pytest.mark.parametrize("piped", [False, True])
def test_the_client_reports_the_same_errors(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path, content: bytes, says: str, *, piped: bool
) -> None:
    capture = tmp_path / "a"
    if piped:
        os.mkfifo(capture)
    writer = threading.Thread(target=lambda: capture.write_bytes(content))
    writer.start()
    network = ("--trained-network-file", checkpoint, "--network", "mobilenet", "--process-exit2-locally")
    if not piped:
        writer.join()
    ended = call(capsys, CLIENT, *network, "--pcap", capture)
    writer.join()
    assert ended.code == 2
    (line,) = [line for line in ended.err.splitlines() if "error" in line]
    assert f"{capture}: " in line and says in line


@pytest.mark.parametrize("content", [b"", b"a", b"plain text", pcap(FRAMES), pcapng(FRAMES), b"PK", b"\x1f"])
def test_uncompressed_content_is_not_reported_as_compressed(content: bytes) -> None:
    assert describe_compression(content) is None
