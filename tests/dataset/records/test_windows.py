"""Packets added in chunks give the records of all packets at once."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dataset.records.windows
from dataset.packets.packets import Packets
from dataset.records.confirmed_maximum import IN_A_ROW, NEVER
from dataset.records.flow_features import compute_records
from dataset.records.windows import Windows
from tests.captures import SHARED, needs_shared, read_packets
from utils.records import Records

FOLDER = SHARED / "data" / "pcaps"
CAPTURES = sorted(path.name for path in FOLDER.glob("*.pcap*"))
SECOND = 1_000_000
NOW = 1_600_000_005 * SECOND  # the start of a window


def packets_at(*times: float, host: int = 1) -> Packets:
    """Return packets between two hosts, given their seconds after the start of a window."""
    count = len(times)
    return Packets(
        np.array([NOW + round(time * SECOND) for time in times], np.int64), np.full(count, host, np.uint32),
        np.full(count, 99, np.uint32), np.full(count, 60, np.int64), np.full(count, 17, np.uint8),
        np.zeros(count, np.uint8), np.arange(count, dtype=np.uint32),
    )  # fmt: skip


def split(packets: Packets, size: int) -> list[Packets]:
    return [packets.take(np.arange(start, min(start + size, len(packets)))) for start in range(0, len(packets), size)]


def pass_through(windows: Windows, parts: list[Packets]) -> Records:
    """Return the records of parts that are added one after another."""
    found = [records for part in parts for records in windows.add(part)] + windows.close()
    return Records.concatenate(found or [compute_records(packets_at())])


def assert_same(found: Records, wanted: Records) -> None:
    for field in fields(Records):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(wanted, field.name), field.name)


@needs_shared
@pytest.mark.parametrize("name", CAPTURES)
def test_a_capture_in_chunks_of_1000_packets_gives_the_records_of_the_whole(name: str) -> None:
    packets, windows = read_packets(FOLDER / name), Windows()
    assert_same(pass_through(windows, split(packets, 1000)), compute_records(packets))
    assert (windows.held, windows.counts.late) == (0, 0)


@st.composite
def draw_capture(draw: st.DrawFn) -> Packets:
    """Draw packets of a few hosts over two minutes, out of order by up to half a minute."""
    count = draw(st.integers(1, 60))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steady = np.sort(generator.integers(0, 120 * SECOND, count))
    times = NOW + steady - generator.integers(0, 30 * SECOND, count)
    hosts = generator.integers(1, 4, (2, count)).astype(np.uint32)
    return Packets(
        times.astype(np.int64), hosts[0], hosts[1], generator.integers(60, 1515, count),
        generator.choice([6, 17], count).astype(np.uint8), generator.integers(0, 64, count).astype(np.uint8),
        generator.integers(0, 2**32, count).astype(np.uint32),
    )  # fmt: skip


@given(draw_capture(), st.integers(1, 20))
def test_packets_out_of_order_change_nothing_if_windows_are_closed_later(packets: Packets, size: int) -> None:
    windows = Windows()
    found = []
    for part in split(packets, size):
        found += windows.add(part) + windows.close(windows.reached - 45)
    assert_same(Records.concatenate([*found, *windows.close()]), compute_records(packets))
    assert (windows.held, windows.counts.late) == (0, 0)


def test_a_time_is_reached_once_enough_consecutive_packets_have_reached_it() -> None:
    windows = Windows()
    windows.add(packets_at(*range(IN_A_ROW - 1)))
    assert windows.reached == NEVER
    windows.add(packets_at(7200, *range(IN_A_ROW, 2 * IN_A_ROW)))
    assert windows.reached == NOW / SECOND + IN_A_ROW
    windows.add(packets_at(*[7200] * IN_A_ROW))
    assert windows.reached == NOW / SECOND + 7200
    windows.restart()
    assert windows.reached == NEVER


def test_a_packet_of_a_closed_window_is_counted_as_late_and_discarded() -> None:
    windows = Windows()
    windows.add(packets_at(1, 2, 16))
    windows.close(NOW / SECOND + 15)
    assert windows.add(packets_at(3, 17)) == []
    (records,) = windows.close()
    assert (windows.counts.late, records.window_start.tolist()) == (1, [NOW // SECOND + 15])
    assert records.features[0, 42].item() == 2  # packets from a to b


def test_too_many_packets_close_the_oldest_windows_early_but_never_the_newest() -> None:
    windows = Windows(most_packets=3)
    assert windows.add(packets_at(1, 2, 3, 4, 5)) == []
    (records,) = windows.add(packets_at(*[20] * IN_A_ROW))
    assert records.window_start.tolist() == [NOW // SECOND]
    assert windows.held == IN_A_ROW


def test_a_packet_far_ahead_does_not_close_the_current_window() -> None:
    packets = packets_at(*np.linspace(0, 14, 20), 7200, *np.linspace(0, 14, 20))
    windows = Windows(most_packets=20)
    assert_same(pass_through(windows, split(packets, 5)), compute_records(packets))
    assert windows.counts.late == 0


def test_packets_far_ahead_are_held_up_to_several_times_the_limit() -> None:
    windows = Windows(most_packets=20)
    for number in range(200):
        windows.add(packets_at(0, 1, 15 * number + 7200))
        assert windows.held <= 4 * 20 + 3


def test_the_clock_closes_windows_that_no_packet_would() -> None:
    windows = Windows()
    windows.add(packets_at(1))
    assert windows.close(NOW / SECOND + 14.9) == []
    (records,) = windows.close(NOW / SECOND + 15)
    assert len(records) == 1
    assert windows.close() == []


def test_too_many_waiting_records_are_returned_out_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset.records.windows, "MOST_WAITING", 1)
    windows = Windows()
    windows.add(packets_at(100, host=1))  # the first packet, of a window that stays open
    windows.add(packets_at(1, host=2))
    assert windows.close(NOW / SECOND + 15) == []
    windows.add(packets_at(20, host=3))
    (records,) = windows.close(NOW / SECOND + 30)
    assert records.address_a.tolist() == [2, 3]


@pytest.mark.parametrize("in_order", [True, False])
def test_records_wait_for_earlier_ones_only_with_in_order(*, in_order: bool) -> None:
    windows = Windows(in_order=in_order)
    windows.add(packets_at(15.1, host=1))  # the first packet, of the next window
    windows.add(packets_at(14.9, host=2))
    found = windows.close(NOW / SECOND + 15)
    assert [records.address_a.tolist() for records in found] == ([] if in_order else [[2]])
    assert [records.address_a.tolist() for records in windows.close()] == ([[1, 2]] if in_order else [[1]])


def test_a_restart_accepts_packets_of_any_time_and_keeps_counting_them() -> None:
    windows = Windows()
    windows.add(packets_at(100, 200))
    windows.close()
    assert windows.is_closed_at(NOW)
    assert windows.restart() == []
    assert not windows.is_closed_at(NOW)
    windows.add(packets_at(1))
    (records,) = windows.close()
    assert (records.first_packet.tolist(), windows.counts.late) == ([2], 0)


def test_a_window_limits_its_records_and_counts_the_packets_left_out() -> None:
    windows = Windows(most_records=2)
    first = Packets.concatenate(
        [packets_at(0, host=5), packets_at(1, 2, host=3), packets_at(3, host=4), packets_at(4, host=5)]
    )
    windows.add(first)
    windows.add(Packets.concatenate([packets_at(5, host=3), packets_at(6, host=2)]))
    windows.add(packets_at(15, host=2))
    records = Records.concatenate(windows.close())
    assert records.address_a.tolist() == [5, 3, 2]
    assert records.packets[:, 0].tolist() == [2, 3, 1]
    assert (windows.counts.left_out, windows.held) == (2, 0)


def test_a_window_with_limited_records_limits_its_packets_too() -> None:
    windows = Windows(most_packets=3, most_records=10)
    windows.add(packets_at(0, 1, 2, 3, host=1))
    windows.add(packets_at(4, host=2))
    assert (windows.held, windows.counts.left_out) == (3, 2)
    assert Records.concatenate(windows.close()).packets.tolist() == [[3, 0]]
    assert windows.add(packets_at(16, 17, 18, 19)) == []
    assert (windows.held, windows.counts.left_out) == (3, 3)


@needs_shared
@pytest.mark.parametrize("name", CAPTURES)
def test_limits_that_are_not_reached_change_nothing(name: str) -> None:
    packets = read_packets(FOLDER / name)
    windows = Windows(most_records=100_000)
    assert_same(pass_through(windows, split(packets, 1000)), compute_records(packets))
    assert windows.counts.left_out == 0


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_windows_closed_in_batches_of_any_size_give_the_records_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(dataset.records.windows, "_BATCH", batch)
    parts = [packets_at(*(15 * number + late for late in (1, 2, -3)), host=number % 3 + 1) for number in range(1, 20)]
    packets = Packets.concatenate(parts)
    assert_same(pass_through(Windows(), split(packets, 8)), compute_records(packets))


def test_only_as_many_of_the_oldest_windows_as_necessary_are_closed_early() -> None:
    windows = Windows(most_packets=5 + IN_A_ROW)
    (records,) = windows.add(packets_at(1, 2, 16, 17, 31, 32, 46, 47, 61, *[62] * IN_A_ROW))
    assert records.window_start.tolist() == [NOW // SECOND, NOW // SECOND + 15]
    assert windows.held == 5 + IN_A_ROW


def test_the_number_of_open_windows_is_limited_however_few_packets_they_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dataset.records.windows, "MOST_OPEN", 10)
    windows = Windows()
    packets = packets_at(*(15 * number + 1 for number in range(40)))
    found = [records for part in split(packets, 4) for records in windows.add(part)]
    assert windows.held == 10
    assert_same(Records.concatenate([*found, *windows.close()]), compute_records(packets))
