"""The windows of live packets are closed by the clock, whatever the link does."""

import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from dataset.packets.growing_capture import GrowingCapture
from dataset.packets.packets import NO_PACKETS, Packets
from dataset.packets.traffic_counts import TrafficCounts
from dataset.records.confirmed_maximum import IN_A_ROW
from dataset.records.flow_features import compute_records
from dataset.records.live_records import make_live_windows, read_live_records
from tests.captures import SHARED, needs_shared, read_packets
from tests.dataset.records.test_windows import CAPTURES, FOLDER, NOW, SECOND, assert_same, packets_at
from tests.scripts import ROOT
from utils.errors import CaptureError
from utils.records import Records


@dataclass
class Replay:
    """A source of packets that arrive at their timestamps on a simulated clock; at most ``most`` in one read."""

    all: Packets
    seconds: float
    most: int = 1_000
    grace: float = 0.1
    dropped: int = 0
    found: list[tuple[float, Records]] = field(default_factory=list)
    at: int = 0
    offset: float = 0.0
    fails_at: int | None = None
    empty_first: bool = False

    def __post_init__(self) -> None:
        self.due = np.maximum.accumulate(self.all.timestamp)

    @property
    def is_drained(self) -> bool:
        return self.has_ended or bool(self.due[self.at] > self.seconds * SECOND)

    @property
    def has_ended(self) -> bool:
        return self.at == len(self.all)

    def clock(self) -> float:
        return self.seconds - self.offset

    def read_packets(self, timeout: float, /) -> Packets:
        if self.at == self.fails_at:
            raise CaptureError("eth0: the interface was removed")
        if self.has_ended or self.empty_first:
            self.empty_first = False
            return NO_PACKETS
        if self.is_drained:
            self.seconds = min(self.seconds + timeout, int(self.due[self.at]) / SECOND)
        end = min(int(np.searchsorted(self.due, self.seconds * SECOND, "right")), self.at + self.most)
        now, self.at = self.all.take(np.arange(self.at, end)), end
        return now

    def run(self, until: float = float("inf")) -> Records:
        """Return all records, and remember when each was yielded."""
        for found in read_live_records(self, make_live_windows(), lambda: self.seconds >= until, clock=self.clock):
            self.found += [(self.seconds, records) for records in found]
        return Records.concatenate([records for _, records in self.found] or [compute_records(NO_PACKETS)])


def replay(packets: Packets, before: float = 1.0) -> Replay:
    start = int(packets.timestamp[0]) / SECOND if len(packets) else 0.0
    return Replay(packets, start - before)


@needs_shared
@pytest.mark.parametrize("name", CAPTURES)
def test_a_capture_at_its_own_timestamps_gives_the_records_of_the_whole(name: str) -> None:
    packets = read_packets(FOLDER / name)
    assert_same(replay(packets).run(), compute_records(packets))


def test_a_silent_link_yields_its_records_when_the_window_ends() -> None:
    source = replay(Packets.concatenate([packets_at(1, 2), packets_at(100)]))
    source.run()
    first, _ = source.found
    assert first[0] == pytest.approx(NOW / SECOND + 15.1, abs=0.06)


def test_open_windows_are_yielded_when_it_stops() -> None:
    source = replay(packets_at(1, 2, 3, 200))
    records = source.run(until=NOW / SECOND + 5)
    assert records.packets.tolist() == [[3, 0]]


def test_a_reader_that_lags_closes_windows_by_packet_time() -> None:
    times = np.linspace(0, 40, 400)
    source = Replay(packets_at(*times.tolist()), NOW / SECOND + 41, most=7)
    assert source.run().packets[:, 0].tolist() == compute_records(packets_at(*times.tolist())).packets[:, 0].tolist()


def test_windows_restart_when_the_clock_is_set_back() -> None:
    ahead, back = packets_at(3600, 3601), packets_at(0, 1, 2)
    source = replay(ahead)
    windows, seen = make_live_windows(), []
    for found in read_live_records(source, windows, lambda: source.seconds > NOW / SECOND + 3 and source.has_ended,
                              clock=source.clock):  # fmt: skip
        seen += found
        if source.has_ended and source.seconds > NOW / SECOND + 3000:
            source.all, source.due, source.at, source.seconds = back, back.timestamp, 0, NOW / SECOND - 1
    assert Records.concatenate(seen).packets[:, 0].tolist() == [2, 3]
    assert windows.counts.late == 0


@pytest.mark.parametrize("skew", [-50.0, -7.0, 0.0, 7.0, 4000.0])
def test_the_clock_of_a_remote_sensor_may_differ_from_ours(skew: float) -> None:
    times = np.linspace(0, 60, 300).tolist()
    source = replay(packets_at(*times))
    source.offset = skew
    windows = make_live_windows()
    found = [
        some for records in read_live_records(source, windows, lambda: False, clock=source.clock) for some in records
    ]
    assert_same(Records.concatenate(found), compute_records(packets_at(*times)))
    assert windows.counts.late == 0


def packets_ahead(count: int, seconds: float = 7200) -> Packets:
    return packets_at(*np.linspace(seconds, seconds + 1, count).tolist(), host=7)


def insert_packets_ahead(place: int, count: int) -> Packets:
    """Return the packets of two minutes, with packets of two hours later among them."""
    steady = packets_at(*np.linspace(0, 120, 600).tolist())
    before, after = np.arange(place), np.arange(place, len(steady))
    return Packets.concatenate([steady.take(before), packets_ahead(count), steady.take(after)])


@pytest.mark.parametrize("count", [1, IN_A_ROW - 1])
@pytest.mark.parametrize("place", [0, 1, 300, 599])
@pytest.mark.parametrize("most", [1, 50, 1000])
def test_unconfirmed_packets_far_ahead_make_no_others_late_in_a_capture(place: int, count: int, most: int) -> None:
    packets, windows = insert_packets_ahead(place, count), make_live_windows()
    source = Replay(packets, NOW / SECOND + 10**6, most=most)
    found = [
        some for records in read_live_records(source, windows, lambda: False, clock=lambda: 2e9) for some in records
    ]
    assert windows.counts.late == 0
    assert_same_in_any_order(Records.concatenate(found), compute_records(packets))


@pytest.mark.parametrize("count", [1, IN_A_ROW - 1])
@pytest.mark.parametrize("place", [1, 300])
def test_unconfirmed_packets_far_ahead_make_no_others_late_in_live_traffic(place: int, count: int) -> None:
    packets, windows = insert_packets_ahead(place, count), make_live_windows()
    source = replay(packets)
    source.due = np.where(packets.timestamp > NOW + 7000 * SECOND, 0, packets.timestamp)
    source.due = np.maximum.accumulate(source.due)
    closed = []
    for records in read_live_records(source, windows, lambda: False, clock=source.clock):
        closed += [(source.seconds, int(some.window_start[0])) for some in records]
    assert windows.counts.late == 0
    # While packets arrive, each window is closed by the clock right after its end.
    delays = [seconds - start - 15 for seconds, start in closed if start + 16 < NOW // SECOND + 120]
    assert len(delays) == 7
    assert max(delays) < 0.5


def test_a_gap_of_two_hours_in_a_capture_closes_the_windows_before_it() -> None:
    packets = Packets.concatenate([packets_at(1, 2, 3), packets_ahead(100)])
    windows, source = make_live_windows(), Replay(packets, NOW / SECOND + 10**6, most=10)
    coming = read_live_records(source, windows, lambda: False, clock=lambda: 2e9)
    first = [some for _, records in zip(range(4), coming, strict=False) for some in records]
    assert Records.concatenate(first).window_start.tolist() == [NOW // SECOND]
    assert source.at < len(packets)


def assert_same_in_any_order(found: Records, wanted: Records) -> None:
    assert_same(found.take(np.argsort(found.first_packet)), wanted)


def test_records_observed_before_the_source_fails_are_yielded_before_the_error() -> None:
    source = replay(packets_at(1, 2, 16, 17, 18))
    source.fails_at = 5
    coming = read_live_records(source, make_live_windows(), lambda: False, clock=source.clock)
    found = []
    with pytest.raises(CaptureError, match="removed"):
        for records in coming:
            found += records
    assert Records.concatenate(found).packets[:, 0].tolist() == [2, 3]


def test_chunks_without_ipv4_do_not_hide_the_backlog_when_it_stops() -> None:
    source = replay(packets_at(1, 2, 3, 4))
    source.most, source.empty_first, source.seconds = 1, True, NOW / SECOND + 5
    (records,) = [some for found in read_live_records(source, make_live_windows(), lambda: True, clock=source.clock)
                  for some in found]  # fmt: skip
    assert records.packets.tolist() == [[4, 0]]


@needs_shared
@pytest.mark.parametrize("name", ["nmap-version-scan.pcap", "nmap-version-scan.pcapng", "synack-reflection.pcap"])
def test_a_file_that_grows_gives_the_packets_of_the_whole(tmp_path: Path, name: str) -> None:
    content, path, counts = (FOLDER / name).read_bytes(), tmp_path / name, TrafficCounts()
    cuts = np.random.default_rng(1).integers(0, len(content), 40)
    with path.open("wb", buffering=0) as stream, GrowingCapture(path, counts) as source:
        parts = []
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(content)], strict=True):
            stream.write(content[start:end])
            parts.append(source.read_packets(0))
        assert not source.has_ended
        assert source.is_drained
    assert_packets(Packets.concatenate(parts), read_packets(FOLDER / name))
    assert counts.truncated == 0


def assert_packets(found: Packets, wanted: Packets) -> None:
    for name in ("timestamp", "source", "destination", "size", "protocol", "tcp_flags", "ports"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


@needs_shared
def test_a_pipe_ends_with_its_writer(tmp_path: Path) -> None:
    path, wanted = tmp_path / "pipe", read_packets(FOLDER / "nmap-version-scan.pcap")
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes((FOLDER / "nmap-version-scan.pcap").read_bytes()))
    writer.start()
    with GrowingCapture(path, TrafficCounts()) as source:
        records = [some for found in read_live_records(source, make_live_windows(), lambda: False) for some in found]
    writer.join()
    assert_same(Records.concatenate(records), compute_records(wanted))


@needs_shared
def test_standard_input_is_read_as_a_pipe() -> None:
    program = (
        "from dataset.packets.traffic_counts import TrafficCounts\nfrom dataset.packets.growing_capture import *\n"
        "with GrowingCapture(STANDARD_INPUT, TrafficCounts()) as source:\n"
        "    count = 0\n    while not source.has_ended:\n        count += len(source.read_packets(1))\n    print(count)"
    )
    with (FOLDER / "nmap-version-scan.pcap").open("rb") as capture:
        done = subprocess.run(
            [sys.executable, "-c", program], stdin=capture, capture_output=True, text=True, check=True
        )
    assert int(done.stdout) == len(read_packets(FOLDER / "nmap-version-scan.pcap"))


@needs_shared
def test_a_compressed_truncated_or_missing_file_is_refused(tmp_path: Path) -> None:
    with (
        GrowingCapture(FOLDER / "echo-connections.pcap.gz", TrafficCounts()) as source,
        pytest.raises(
            CaptureError, match=r"echo-connections.pcap.gz: is gzip-compressed, so it cannot grow; leave out --follow"
        ),
    ):
        source.read_packets(0)
    path = tmp_path / "cut.pcap"
    path.write_bytes((FOLDER / "nmap-version-scan.pcap").read_bytes())
    with GrowingCapture(path, TrafficCounts()) as source:
        source.read_packets(0)
        path.write_bytes(b"")
        with pytest.raises(CaptureError, match="was truncated while it was read"):
            source.read_packets(0)
    with (
        pytest.raises(CaptureError, match="cannot be read: No such file"),
        GrowingCapture(tmp_path / "no", TrafficCounts()),
    ):
        pass


@needs_shared
@pytest.mark.parametrize("replaced", [True, False])
def test_a_moved_file_is_reported_after_its_records(tmp_path: Path, replaced: bool) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes((FOLDER / "nmap-version-scan.pcap").read_bytes())
    with GrowingCapture(path, TrafficCounts()) as source:
        coming = read_live_records(source, make_live_windows(), lambda: False)
        found = next(coming)
        path.rename(tmp_path / "a.pcap.1")
        if replaced:
            path.write_bytes(b"")
        with pytest.raises(CaptureError, match=r"a\.pcap: was moved or removed; start again with the new file"):
            for records in coming:
                found += records
    assert len(Records.concatenate(found)) == 7


def test_a_pipe_without_a_writer_is_waited_for_until_a_stop(tmp_path: Path) -> None:
    path, over = tmp_path / "pipe", threading.Event()
    os.mkfifo(path)
    threading.Timer(0.3, over.set).start()
    with GrowingCapture(path, TrafficCounts()) as source:
        assert [some for found in read_live_records(source, make_live_windows(), over.is_set) for some in found] == []
        assert not source.has_ended


def test_an_unreadable_file_gives_one_line() -> None:
    with (
        GrowingCapture(Path("/proc/self/mem"), TrafficCounts()) as source,
        pytest.raises(CaptureError, match="/proc/self/mem: cannot be read: Input/output error"),
    ):
        source.read_packets(0)
    closed = [sys.executable, "dataset/extract-features.py", "--pcap", "-", "--output", "/dev/null/x.csv"]
    done = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *closed], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


@needs_shared
def test_a_reader_of_a_silent_file_can_be_stopped() -> None:
    over = threading.Event()
    threading.Timer(0.3, over.set).start()
    with GrowingCapture(FOLDER / "syn-flood-small.pcap", TrafficCounts()) as source:
        found = [some for records in read_live_records(source, make_live_windows(), over.is_set) for some in records]
    assert_same(
        Records.concatenate(found), compute_records(read_packets(SHARED / "data" / "pcaps" / "syn-flood-small.pcap"))
    )
