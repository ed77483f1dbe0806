import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripts import CHART, MAKE_SAMPLE
from utils.errors import CloudUnavailableError, ToolkitError
from utils.script_runner import ROOT, format_command, run_script, run_server


@pytest.fixture
def server(tmp_path: Path) -> str:
    """A script that prints its argument and serves until SIGTERM; its path from the root."""
    (tmp_path / "server.py").write_text(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('stopped')))\n"
        "print(sys.argv[1], os.environ.get('SECRET'), flush=True)\n"
        "time.sleep(60)\n"
    )
    return os.path.relpath(tmp_path / "server.py", ROOT)


def running() -> Iterator[bytes]:
    """Yield the command lines of all processes."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            yield path.read_bytes()


def test_a_command_line_is_printed_as_a_user_would_type_it_in_the_root_folder() -> None:
    options = ("--dataset", ROOT / "dataset" / "sample", "--rows", 5)
    assert format_command("dnn/inference.py", options) == "python dnn/inference.py --dataset dataset/sample --rows 5"


def test_a_script_is_run_and_its_command_line_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_script(MAKE_SAMPLE, ["--rows", 5, "--months", 1, "--output-folder", tmp_path])
    assert (tmp_path / "2016_01.csv").is_file()
    assert capfd.readouterr().out.startswith(f"$ python {MAKE_SAMPLE} --rows 5 --months 1 --output-folder {tmp_path}\n")


def test_a_script_that_fails_is_named_with_its_exit_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ToolkitError, match=f"{CHART} ended with exit code 2; see its message above"):
        run_script(CHART, ["--datafile", tmp_path / "no.sav", "--savefile", tmp_path / "x.png"])
    assert "no such file" in capfd.readouterr().err


def test_a_server_runs_within_the_block_and_is_terminated_after_it(
    server: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with run_server(server, ["ready: now"], {"SECRET": "word"}):
        pass
    assert capfd.readouterr().out.splitlines() == [f"$ python {server} ready: now &", "ready: now word", "stopped"]


def test_a_server_that_is_not_ready_in_time_is_killed_and_reported(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.script_runner._START_TIMEOUT", 2.0)
    with pytest.raises(CloudUnavailableError, match="did not start"), run_server(server, ["busy"], {}):
        pass
    assert not any(server.encode() in commandline for commandline in running())


def test_an_interrupt_while_a_server_starts_ends_the_server_and_leaves_no_thread(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_line: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("utils.script_runner._echo", interrupt)
    with pytest.raises(KeyboardInterrupt), run_server(server, ["busy"], {}):
        pass
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    for timer in timers:
        timer.join(10)
    assert not any(timer.is_alive() for timer in timers)
    assert not any(server.encode() in commandline for commandline in running())
