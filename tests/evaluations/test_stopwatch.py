import time

import pytest
import torch

from evaluations.exit_timing import CLOCKS, Stopwatch

CPU = torch.device("cpu")


def work(seconds: float) -> None:
    """Use the processor for some seconds of processor time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_the_wall_clock_counts_waiting() -> None:
    watch = Stopwatch("wall", CPU)
    time.sleep(0.02)
    assert watch.lap() >= 0.02


def test_the_cpu_clock_counts_work_and_not_waiting() -> None:
    watch = Stopwatch("cpu", CPU)
    time.sleep(0.1)
    waited = watch.lap()
    work(0.02)
    assert waited < 0.05
    assert watch.lap() >= 0.02


def test_the_laps_add_up_to_the_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([10.0, 12.5, 13.0, 20.0])
    monkeypatch.setitem(CLOCKS, "wall", lambda: next(readings))
    watch = Stopwatch("wall", CPU)
    assert [watch.lap() for _ in range(3)] == [2.5, 0.5, 7.0]


def test_an_unknown_clock_is_refused() -> None:
    with pytest.raises(KeyError):
        Stopwatch("sundial", CPU)


def test_a_cuda_device_is_synchronized_before_the_clock_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    events = list[str]()

    def read() -> float:
        events.append("read")
        return 0.0

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(f"wait for {device}"))
    monkeypatch.setitem(CLOCKS, "wall", read)
    Stopwatch("wall", torch.device("cuda:1")).lap()
    assert events == ["wait for cuda:1", "read"] * 2
