"""The second signal ends the process at once, even while a window is computed."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.dataset.packets.test_captures import SECOND, frame, pcap
from tests.offload.link_ends import Program
from tests.scripts import CLIENT, EXTRACT

pytestmark = pytest.mark.slow

TWO_WINDOWS = pcap([((1_600_000_005 + number) * SECOND, 60, frame(1)) for number in range(40)])
_COMPUTES_FOR_EVER = """
import sys, time
import dataset.records.windows
from tests.scripts import load_script

def compute(packets):
    print("computing", flush=True)
    while True:
        time.sleep(0.01)

dataset.records.windows.compute_records = compute
script = load_script(sys.argv[1])
sys.exit(script.main(sys.argv[2:]))
"""


@contextmanager
def open_pipe(path: Path, content: bytes) -> Iterator[Path]:
    os.mkfifo(path)
    over = threading.Event()

    def write() -> None:
        with path.open("wb") as stream:
            stream.write(content)
            stream.flush()
            over.wait(300)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield path
    finally:
        over.set()
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))  # in case nobody has read
        writer.join()


@pytest.mark.parametrize("script", [EXTRACT, CLIENT])
def test_the_second_signal_ends_the_computation_of_a_live_window(script: str, checkpoint: Path, tmp_path: Path) -> None:
    options = make_options(script, checkpoint, tmp_path)
    with (
        open_pipe(tmp_path / "pipe", TWO_WINDOWS) as pipe,
        Program(tmp_path, "-c", _COMPUTES_FOR_EVER, script, *options, "--pcap", pipe) as program,
    ):
        end_by_two_signals(program)
    assert "interrupted" in program.err


def test_the_second_signal_ends_the_computation_of_a_window_of_a_capture(checkpoint: Path, tmp_path: Path) -> None:
    capture = tmp_path / "a.pcap"
    capture.write_bytes(TWO_WINDOWS)
    options = make_options(CLIENT, checkpoint, tmp_path)
    with Program(tmp_path, "-c", _COMPUTES_FOR_EVER, CLIENT, *options, "--pcap", capture) as program:
        end_by_two_signals(program)
    assert "interrupted" in program.err


def end_by_two_signals(program: Program) -> None:
    program.wait_for("computing")
    program.send(signal.SIGTERM)
    program.send(signal.SIGINT)  # of two SIGTERMs, the system may make one
    assert program.end() == 130


def make_options(script: str, checkpoint: Path, folder: Path) -> tuple[object, ...]:
    if script == EXTRACT:
        return ("--output", folder / "records.csv")
    return ("--trained-network-file", checkpoint, "--network", "mobilenet", "--process-exit2-locally")
