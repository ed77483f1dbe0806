import os
import signal
from pathlib import Path

import pytest

from tests.offload.link_ends import PATIENCE, Program, wait_until
from utils.stopping import Stop

SIGNALS = [signal.SIGTERM, signal.SIGINT]
_CLIENT = """
import sys, time
from utils.stopping import Stop

stop = Stop(float(sys.argv[1]))
try:
    with stop.on_signals():
        print("running", flush=True)
        while not stop.requested:
            time.sleep(0.01)
        print("asked to stop", flush=True)
        while not stop.is_over:
            time.sleep(0.01)
    print("over", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""


def test_without_a_request_nothing_is_stopped() -> None:
    stop = Stop()
    assert not stop.requested
    assert not stop.is_over


def test_a_request_gives_pending_work_the_drain_timeout() -> None:
    stop = Stop(drain_timeout=0.2)
    stop.request()
    assert stop.requested
    wait_until(lambda: stop.is_over)
    patient = Stop(drain_timeout=PATIENCE)
    patient.request()
    assert patient.requested
    assert not patient.is_over


def test_without_a_drain_timeout_the_deadline_is_the_request() -> None:
    stop = Stop()
    stop.request()
    wait_until(lambda: stop.is_over)


def test_a_second_request_does_not_extend_the_deadline() -> None:
    stop = Stop(drain_timeout=0.5)
    stop.request()
    wait_until(lambda: stop.is_over)
    stop.request()
    assert stop.is_over


@pytest.mark.parametrize("second", SIGNALS)
@pytest.mark.parametrize("first", SIGNALS)
def test_the_first_signal_requests_a_stop_and_the_second_interrupts(
    first: signal.Signals, second: signal.Signals
) -> None:
    stop = Stop(PATIENCE)
    with stop.on_signals():
        os.kill(os.getpid(), first)
        wait_until(lambda: stop.requested)
        assert not stop.is_over
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), second)
            wait_until(lambda: False)  # the signal ends this


def test_a_signal_after_a_request_by_other_means_interrupts() -> None:
    stop = Stop()
    with stop.on_signals():
        stop.request()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until(lambda: False)


@pytest.mark.parametrize("failing", [False, True])
def test_the_previous_handlers_are_restored_after_the_block(failing: bool) -> None:
    heard: list[int] = []
    formers = [signal.signal(number, lambda got, _frame: heard.append(got)) for number in SIGNALS]
    try:
        with pytest.raises(ZeroDivisionError) if failing else Stop().on_signals(), Stop().on_signals():
            if failing:
                raise ZeroDivisionError
        for number in SIGNALS:
            os.kill(os.getpid(), number)
        wait_until(lambda: len(heard) == len(SIGNALS))
    finally:
        for number, former in zip(SIGNALS, formers, strict=True):
            signal.signal(number, former)
    assert sorted(heard) == sorted(SIGNALS)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_process_finishes_its_work_after_one_signal(tmp_path: Path, number: signal.Signals) -> None:
    with Program(tmp_path, "-c", _CLIENT, 0.2) as client:
        client.wait_for("running")
        client.send(number)
        assert client.end() == 0
        assert client.out.split("\n")[:3] == ["running", "asked to stop", "over"]


def test_a_process_ends_at_once_after_two_signals(tmp_path: Path) -> None:
    with Program(tmp_path, "-c", _CLIENT, 3600) as client:
        client.wait_for("running")
        client.send(signal.SIGTERM)
        client.wait_for("asked to stop")
        client.send(signal.SIGTERM)
        assert client.end() == 130
        assert "interrupted" in client.out
