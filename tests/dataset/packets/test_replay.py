"""Captured frames are replayed at their pace."""

import gzip
import time
from pathlib import Path

import pytest

from dataset.packets.replay import read_frames, replay
from tests import captures
from tests.captures import SHARED, needs_shared
from tests.dataset.packets.test_captures import FRAMES, frame, pcap
from utils.errors import CaptureError

SECOND = 1_000_000


@needs_shared
@pytest.mark.parametrize("name", ["nmap-version-scan.pcap", "nmap-version-scan.pcapng", "dhcp-flood.pcap"])
def test_the_frames_of_a_capture_are_those_that_were_captured(name: str) -> None:
    wanted = list(captures.read_frames(SHARED / "data" / "pcaps" / name))
    found = list(read_frames(SHARED / "data" / "pcaps" / name))
    assert [one for _, one in found] == [content for _, _, content in wanted]
    assert [round(at * SECOND) for at, _ in found] == [at - wanted[0][0] for at, _, _ in wanted]


def test_a_truncated_frame_is_padded_to_its_original_size(tmp_path: Path) -> None:
    (tmp_path / "cut.pcap.gz").write_bytes(gzip.compress(pcap(FRAMES)))
    frames = [frame for _, frame in read_frames(tmp_path / "cut.pcap.gz")]
    assert list(map(len, frames)) == [60, 1514, 60, 300]
    assert frames[1] == frame(2, 1514)[:96] + bytes(1418)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pcap([(0, 1515, frame(1, 1515))]), "holds frames that are not 14 to 1514 bytes long"),
        (
            pcap([(0, 60, frame(1))], link=101),
            r"was captured with link type 101 \(raw IP\); name a capture of Ethernet frames",
        ),
        (b"no capture", "is not a pcap"),
        (b"", "is empty"),
        (pcap([]), "holds no frame"),
        (pcap([(0, 10, b"x" * 10)]), "holds frames that are not 14 to 1514 bytes long"),
        (gzip.compress(pcap(FRAMES))[:-20], "is damaged"),
    ],
)
def test_a_capture_that_cannot_be_replayed_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.pcap").write_bytes(content)
    with pytest.raises(CaptureError, match=message):
        list(read_frames(tmp_path / "a.pcap"))


def test_no_frame_is_sent_before_it_is_due() -> None:
    begun, sent = time.monotonic(), []
    due = [0.0, 0.05, 0.05, 0.2]
    count = replay(iter((at, bytes([number])) for number, at in enumerate(due)), lambda one: sent.append(
        (time.monotonic() - begun, one[0])))  # fmt: skip
    assert count == 4
    assert [number for _, number in sent] == [0, 1, 2, 3]
    assert all(at >= wanted for (at, _), wanted in zip(sent, due, strict=True))
