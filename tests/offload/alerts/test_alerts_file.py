"""The EVE file grows only by whole lines, for every kind of file and reader, and after every kind of failure."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from offload.alerts.alert_limit import AlertLimit
from offload.alerts.alerts_file import AlertsFile, UnwrittenError
from offload.alerts.eve import Event, make_alerts
from offload.defaults import STDOUT
from tests.offload.alerts.test_eve import NO_LIMIT, VALID, decided_of, records_of, some_stats
from tests.offload.edge.test_offload_csv import room_for, without_privileges
from tests.offload.link_ends import PATIENCE, ROOT, wait_until
from utils.errors import InputFileError

PIPE_HOLDS = 1 << 16


def events_of(count: int, seed: int = 0) -> list[Event]:
    """Return ``count`` real events of different sizes."""
    records = records_of(3 * count)
    return make_alerts(decided_of(records, seed), AlertLimit(NO_LIMIT, 0))[:count]


def lines_of(events: list[Event]) -> bytes:
    return b"".join(json.dumps(event, separators=(",", ":")).encode() + b"\n" for event in events)


def events_in(path: Path) -> list[Event]:
    """Return the events of a file; each of its lines must be whole, and one."""
    content = path.read_bytes()
    assert not content or content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]


def refusal(of: Callable[[], object]) -> str:
    """Return the error of an attempt, which is one line."""
    with pytest.raises(InputFileError) as raised:
        of()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "eve.json"


def test_events_are_written_at_once_as_compact_ascii_lines(path: Path) -> None:
    first, second = events_of(7), [some_stats()]
    with AlertsFile(path) as file:
        assert path.read_bytes() == b""
        file.append(first)
        assert path.read_bytes() == lines_of(first)
        file.append([])
        file.append(second)
        assert path.read_bytes() == lines_of(first + second)
    assert path.read_bytes().isascii()
    for event in events_in(path):
        VALID.validate(event)


def test_text_outside_ascii_is_escaped(path: Path) -> None:
    event = {"in_iface": "Ethernet–\u2028\n\x1b[2J\udc80"}
    with AlertsFile(path) as file:
        file.append([event])
    assert path.read_bytes().isascii() and path.read_bytes().count(b"\n") == 1
    assert events_in(path) == [event]


def test_a_number_that_json_cannot_represent_is_refused(path: Path) -> None:
    with AlertsFile(path) as file, pytest.raises(ValueError, match="JSON"):
        file.append([*events_of(3), {"certainty": float("nan")}])
    assert path.read_bytes() == b""


def test_jq_reads_every_event_and_every_digit_of_its_flow_id(path: Path) -> None:
    jq = shutil.which("jq")
    if jq is None:
        reason = "jq is not installed (on Debian: apt install jq)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    events = events_of(200)
    with AlertsFile(path) as file:
        file.append(events)
        file.append([some_stats()])
    chosen = 'select(.event_type == "alert") | [.src_ip, .flow_id, .alert.severity, .early_exit.certainty]'
    done = subprocess.run([jq, "--compact-output", chosen, path], capture_output=True, check=True, timeout=PATIENCE)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        [event["src_ip"], event["flow_id"], event["alert"]["severity"], event["early_exit"]["certainty"]]
        for event in events
    ]


def test_existing_lines_are_kept(path: Path) -> None:
    first, second = events_of(2, 1), events_of(2, 2)
    for events in (first, second):
        with AlertsFile(path) as file:
            file.append(events)
    assert events_in(path) == first + second


def test_an_incomplete_line_of_a_killed_run_is_ended_first(path: Path) -> None:
    before, after = events_of(3, 1), events_of(3, 2)
    path.write_bytes(lines_of(before)[:-20])
    with AlertsFile(path) as file:
        file.append(after)
        file.append(after)
    assert path.read_bytes() == lines_of(before)[:-20] + b"\n" + 2 * lines_of(after)


def test_an_incomplete_line_stays_if_nothing_is_appended(path: Path) -> None:
    path.write_bytes(b'{"timestamp":')
    with AlertsFile(path) as file:
        file.append([])
    assert path.read_bytes() == b'{"timestamp":'


@pytest.mark.parametrize("content", [b"exit_1_certainty,exit_1_prediction\n", b"PK\x03\x04", b"\n"])
def test_a_file_of_another_kind_is_refused_and_unchanged(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert refusal(lambda: AlertsFile(path)) == f"{path}: does not hold JSON lines; name another file"
    assert path.read_bytes() == content


def test_a_missing_folder_is_created(tmp_path: Path) -> None:
    with AlertsFile(tmp_path / "log" / "edge" / "eve.json") as file:
        file.append(events_of(1))
    assert len(events_in(tmp_path / "log" / "edge" / "eve.json")) == 1


def test_a_folder_is_refused(tmp_path: Path) -> None:
    line = refusal(lambda: AlertsFile(tmp_path))
    assert line == f"{tmp_path}: cannot be written: Is a directory; name the file to write in it"


def test_an_unwritable_file_is_refused_at_the_start() -> None:
    with tempfile.TemporaryDirectory() as name, without_privileges():
        path = Path(name) / "eve.json"
        assert refusal(lambda: AlertsFile(path)).startswith(f"{path}: cannot be written: Permission denied; check the ")


def test_a_file_in_an_unwritable_folder_can_grow() -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "eve.json"
        path.touch()
        path.chmod(0o666)
        Path(name).chmod(0o755)
        with without_privileges(), AlertsFile(path) as file:
            file.append(events_of(1))
        assert len(events_in(path)) == 1


@pytest.mark.parametrize("rotate", ["moved", "removed", "replaced", "folder moved"])
def test_a_rotated_file_is_created_again(tmp_path: Path, rotate: str) -> None:
    path = tmp_path / "log" / "eve.json"
    first, second, third = events_of(3, 1), events_of(3, 2), events_of(3, 3)
    with AlertsFile(path) as file:
        file.append(first)
        match rotate:
            case "moved":
                path.rename(path.with_name("eve.json.1"))
            case "removed":
                path.unlink()
            case "replaced":
                path.rename(path.with_name("eve.json.1"))
                path.touch()
            case "folder moved":
                path.parent.rename(tmp_path / "old")
        file.append(second)
        file.append(third)
    assert events_in(path) == second + third
    for old in (*path.parent.glob("eve.json.1"), *tmp_path.glob("old/eve.json")):
        assert events_in(old) == first


def test_a_file_truncated_by_log_rotation_starts_again(path: Path) -> None:
    with AlertsFile(path) as file:
        file.append(events_of(3, 1))
        os.truncate(path, 0)
        file.append(events_of(3, 2))
    assert events_in(path) == events_of(3, 2)


def test_rotation_loses_nothing_and_leaves_no_file_open(path: Path) -> None:
    events = events_of(50)
    with AlertsFile(path) as file:
        opened = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # Path.iterdir keeps one open
        for number, event in enumerate(events):
            file.append([event])
            path.rename(path.with_name(f"eve.json.{number}"))
        assert len(os.listdir("/proc/self/fd")) == opened  # noqa: PTH208
    assert [events_in(path.with_name(f"eve.json.{number}")) for number in range(50)] == [[event] for event in events]


def test_tail_follows_the_file_and_gets_whole_lines(path: Path, tmp_path: Path) -> None:
    batches = [events_of(count, seed) for seed, count in enumerate([1, 40, 3, 200, 7] * 20)]
    received = tmp_path / "received"
    with AlertsFile(path) as file, received.open("wb") as sink:
        tail = subprocess.Popen(["tail", "--bytes=+1", "--follow=name", path], stdout=sink)
        try:
            for batch in batches:
                file.append(batch)
            wait_until(lambda: received.stat().st_size >= path.stat().st_size)
        finally:
            tail.kill()
            tail.wait()
    assert events_in(received) == [event for batch in batches for event in batch]


def test_a_reader_of_lines_gets_whole_events_in_order(path: Path) -> None:
    batches = [events_of(count, seed) for seed, count in enumerate([1, 40, 3, 200, 7] * 40)]
    done = threading.Event()
    seen: list[Event] = []

    def follow() -> None:
        with path.open("rb") as stream:
            rest, more = b"", True
            while more:
                ended = done.is_set()
                piece = stream.read()
                *lines, rest = (rest + piece).split(b"\n")
                seen.extend(map(json.loads, lines))
                more = bool(piece) or not ended
        assert rest == b""

    with AlertsFile(path) as file:
        reader = threading.Thread(target=follow)
        reader.start()
        for batch in batches:
            file.append(batch)
        done.set()
        reader.join(PATIENCE)
    assert seen == [event for batch in batches for event in batch]


def test_two_writers_of_one_file_do_not_mix_their_lines(path: Path) -> None:
    batches = [events_of(20, 1), events_of(20, 2)]

    def write(batch: list[Event]) -> None:
        with AlertsFile(path) as file:
            for _ in range(500):
                file.append(batch)

    writers = [threading.Thread(target=write, args=(batch,)) for batch in batches]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(PATIENCE)
    events = events_in(path)
    assert len(events) == 2 * 500 * 20
    starts = {json.dumps(batch[0]): number for number, batch in enumerate(batches)}
    assert [event for event in events[::20] if json.dumps(event) not in starts] == []


@contextmanager
def small_disk(folder: Path, options: str = "size=64k") -> Iterator[Path]:
    """Mount a disk of 64 KiB, or what the options of ``mount`` say; skip where that may not be done."""
    folder.mkdir()
    mounting = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
    if mounting.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounting.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_holds_whole_lines_and_writing_continues_when_there_is_room(
    tmp_path: Path,
) -> None:
    events = events_of(300)
    with small_disk(tmp_path / "disk") as disk:
        path, other = disk / "eve.json", disk / "other"
        other.write_bytes(bytes(20_000))
        with AlertsFile(path) as file:
            line = refusal(lambda: file.append(events))
            assert line == f"{path}: cannot be written: No space left on device; make room"
            written = events_in(path)
            assert 0 < len(written) < len(events)
            assert written == events[: len(written)]
            other.unlink()
            file.append(events[-3:])
        assert events_in(path) == written + events[-3:]


def test_a_file_is_created_later_if_the_disk_is_full_at_first(tmp_path: Path) -> None:
    first, second = events_of(2, 1), events_of(2, 2)
    with small_disk(tmp_path / "disk", "nr_inodes=2") as disk:  # the folder itself and one file
        path, other = disk / "eve.json", disk / "other"
        other.touch()
        with AlertsFile(path) as file:
            assert refusal(lambda: file.append(first)).endswith("No space left on device; make room")
            other.unlink()
            file.append(first)
            path.rename(other)  # as log rotation does
            refusal(lambda: file.append(second))
            other.unlink()
            file.append(second)
        assert events_in(path) == second


def test_a_file_at_its_size_limit_holds_whole_lines(path: Path) -> None:
    before, events = events_of(2, 1), events_of(3, 2)
    sizes = np.cumsum([len(lines_of([event])) for event in events])
    start = len(lines_of(before))
    for size in range(start, start + int(sizes[-1]), 37):
        path.unlink(missing_ok=True)
        with AlertsFile(path) as file:
            file.append(before)
            with room_for(size):
                assert "File too large; make room" in refusal(lambda: file.append(events))
        assert events_in(path) == before + events[: int(np.count_nonzero(sizes <= size - start))]


def test_a_full_device_is_reported_in_one_line() -> None:
    with AlertsFile(Path("/dev/full")) as file:
        assert refusal(lambda: file.append(events_of(1))).endswith("No space left on device; make room")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_slow_reader_of_a_named_pipe_gets_all_events_despite_signals(pipe: Path) -> None:
    events = events_of(400)
    assert len(lines_of(events)) > 2 * PIPE_HOLDS  # so the writer waits for the reader
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    received: list[bytes] = []
    reading = threading.Lock()

    def read_some(*_signal: object) -> None:
        if reading.acquire(blocking=False):  # else the signal interrupts this very function
            with contextlib.suppress(BlockingIOError):  # nothing is there yet
                received.append(os.read(reader, 10_000))
            reading.release()

    former = signal.signal(signal.SIGALRM, read_some)
    try:
        with AlertsFile(pipe) as file:
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.002)
            file.append(events)
            file.append(events[:1])
            signal.setitimer(signal.ITIMER_REAL, 0)
            for _ in range(2 * PIPE_HOLDS // 10_000):
                read_some()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        os.close(reader)
    assert b"".join(received) == lines_of(events + events[:1])


def test_a_named_pipe_without_a_reader_is_refused_at_once(pipe: Path) -> None:
    line = refusal(lambda: AlertsFile(pipe))
    assert line.endswith("No such device or address; it is a pipe without a reader: start the reader first")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_named_pipe_that_its_reader_closes_is_reported_in_one_line(pipe: Path) -> None:
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with AlertsFile(pipe) as file:
        file.append(events_of(1))
        os.close(reader)
        line = refusal(lambda: file.append(events_of(1)))
    assert line == f"{pipe}: cannot be written: Broken pipe; its reader has closed it: start the reader again"


def test_a_stalled_reader_is_waited_for_until_the_stop_and_gets_whole_lines(pipe: Path) -> None:
    events, after = events_of(40, 1), events_of(3, 2)
    over = threading.Event()
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    lines = lines_of(events)
    assert lines[4095:4096] != b"\n"  # the pipe is full in the middle of a line
    with AlertsFile(pipe, over.is_set) as file:
        threading.Timer(0.2, over.set).start()
        with pytest.raises(
            UnwrittenError, match="its reader has stopped reading; find out why its reader does not read"
        ) as seen:
            file.append(events)
        assert over.is_set()
        whole = lines[:4096].count(b"\n")
        assert seen.value.written == whole
        received = os.read(reader, 4096)
        file.append(after)
        received += os.read(reader, 4096)
    os.close(reader)
    assert received == lines[:4096] + b"\n" + lines_of(after)


_ON_A_FULL_DISK = """
import resource
from offload.alerts.alerts_file import AlertsFile, UnwrittenError
from offload.defaults import STDOUT

_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
with AlertsFile(STDOUT) as file:
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, hard))
    try:
        file.append([{"number": number} for number in range(5)])
    except UnwrittenError as problem:
        assert problem.written == 2
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    file.append([{"number": 5}])
"""


def test_a_redirected_standard_output_has_no_hole_after_an_incomplete_line(path: Path) -> None:
    with path.open("wb") as stream:
        subprocess.run([sys.executable, "-c", _ON_A_FULL_DISK], cwd=ROOT, stdout=stream, check=True, timeout=PATIENCE)
    assert path.read_bytes() == b'{"number":0}\n{"number":1}\n{"number":5}\n'


_TO_STDOUT = """
import sys
from offload.alerts.alerts_file import AlertsFile
from offload.defaults import STDOUT
from utils.errors import InputFileError

print("before")
try:
    with AlertsFile(STDOUT) as file:
        for number in range(int(sys.argv[1])):
            file.append([{"number": number}, {}])
    print("after")
except InputFileError as problem:
    print(problem, file=sys.stderr)
"""


def test_the_standard_output_keeps_events_and_prints_in_order() -> None:
    command = [sys.executable, "-c", _TO_STDOUT, "2"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, cwd=ROOT, env=buffered, capture_output=True, check=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == (b'before\n{"number":0}\n{}\n{"number":1}\n{}\nafter\n', b"")


def test_a_standard_output_that_its_reader_closes_is_reported_in_one_line() -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", _TO_STDOUT, str(10**6)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdout is not None and program.stderr is not None
    with program:
        assert program.stdout.readline() == b"before\n"
        program.stdout.close()
        assert program.stderr.read() == (
            b"standard output: cannot be written: Broken pipe; its reader has closed it: start the reader again\n"
        )
    assert program.returncode == 0


def test_the_standard_output_stays_open(capfd: pytest.CaptureFixture[str]) -> None:
    with AlertsFile(STDOUT) as file:
        file.append(events_of(1))
    print("more")
    assert capfd.readouterr().out == f"{lines_of(events_of(1)).decode()}more\n"
