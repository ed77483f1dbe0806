import bz2
import gzip
import io
import itertools
import os
import resource
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from offload.edge.batch import Batch
from offload.edge.edge import Edge
from offload.edge.offload_csv import OffloadCsv, Table, make_columns
from offload.edge.resume_file import NO_PROGRESS, digest_dataset, make_resume_path, write_resume_file
from offload.edge.second_exit import LocalSecondExit
from offload.edge.sources import split_dataset
from tests.offload.edge.test_edge import HALVES, Legible
from tests.offload.exits import exits_of
from tests.offload.link_ends import PATIENCE, Program
from utils.dataset import Dataset
from utils.errors import InputFileError
from utils.schema import DECIDER_COLUMNS, FEATURE_COUNT, OFFLOAD_COLUMNS, Thresholds
from utils.stopping import Stop

SIZE = 5
HEADER = f"{','.join(OFFLOAD_COLUMNS)}\n".encode()


def made_of(first: NDArray[np.float64], second: NDArray[np.float64], *, labelled: bool = True) -> Dataset:
    """Return events with these margins at the two exits."""
    features = np.zeros((len(first), FEATURE_COUNT), np.float32)
    features[:, 0], features[:, 1] = first, second
    return Dataset(features, (first > second).astype(np.int64) if labelled else None, "events.csv")


def dataset_of(count: int, seed: int = 0, *, labelled: bool = True) -> Dataset:
    """Return events of every fate."""
    rng = np.random.default_rng(seed)
    return made_of(rng.uniform(-4, 4, count), rng.uniform(-4, 4, count), labelled=labelled)


def edge_with(thresholds: Thresholds = HALVES) -> Edge:
    return Edge(exits_of(Legible()).first, thresholds, LocalSecondExit(exits_of(Legible()).second))


def tables(dataset: Dataset, start: int = 0, *, deciders: bool = False) -> Iterator[Table]:
    """Yield the rows of a dataset from ``start`` on, batch by batch."""
    for batch in edge_with().decide_all(split_dataset(dataset, start, SIZE, Stop()), 1, Stop()):
        yield make_columns(batch, show_decider=deciders)


NETWORK: dict[str, object] = {"network": "5e" * 32, "half_precision": False}


def facts_of(dataset: Dataset) -> dict[str, object]:
    return {"dataset": digest_dataset(dataset), "thresholds": vars(HALVES), **NETWORK}


def write(path: Path, dataset: Dataset, *, deciders: bool = False, batches: int | None = None) -> bytes:
    """Write a dataset's file, or so many batches of it; return what is in it."""
    with OffloadCsv(path, OFFLOAD_COLUMNS + (DECIDER_COLUMNS if deciders else ())) as savefile:
        assert savefile.begin(facts_of(dataset), len(dataset), resumes=False) == 0
        for table in itertools.islice(tables(dataset, deciders=deciders), batches):
            savefile.append(table)
    return path.read_bytes()


def go_on(path: Path, dataset: Dataset) -> int:
    """Continue a dataset's file to its end; return how many rows were there."""
    with OffloadCsv(path, OFFLOAD_COLUMNS) as savefile:
        done = savefile.begin(facts_of(dataset), len(dataset), resumes=True)
        for table in tables(dataset, done):
            savefile.append(table)
    assert savefile.rows == len(dataset)
    return done


def refusal_of(path: Path, facts: dict[str, object], *, deciders: bool = False) -> str:
    """Return the line that says why a file cannot be continued; it must be as it was."""
    before = {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    columns = OFFLOAD_COLUMNS + (DECIDER_COLUMNS if deciders else ())
    with pytest.raises(InputFileError) as raised, OffloadCsv(path, columns) as savefile:
        savefile.begin(facts, 10**9, resumes=True)
    assert {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()} == before
    text = str(raised.value)
    assert "\n" not in text
    assert text.startswith(f"{path}")
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "verdicts.csv"


def test_appended_batches_equal_one_table_written_at_once(path: Path) -> None:
    dataset = dataset_of(23)
    whole = pd.DataFrame(make_columns(edge_with().decide(Batch(dataset.features, dataset.labels))))
    assert write(path, dataset).decode() == whole.to_csv(index=False)


def test_an_older_file_stays_until_the_first_rows(path: Path) -> None:
    dataset = dataset_of(SIZE)
    with OffloadCsv(path, OFFLOAD_COLUMNS) as savefile:
        savefile.begin(facts_of(dataset), SIZE, resumes=False)
        assert list(path.parent.iterdir()) == []
    path.write_text("older")
    with OffloadCsv(path, OFFLOAD_COLUMNS) as savefile:
        savefile.begin(facts_of(dataset), SIZE, resumes=False)
        assert path.read_text() == "older"
        savefile.append(next(tables(dataset)))
        assert path.read_bytes().startswith(HEADER)
    assert sorted(path.parent.iterdir()) == [path, make_resume_path(path)]


def test_the_file_can_be_read_at_any_time_and_grows_by_whole_batches(path: Path) -> None:
    dataset = dataset_of(23)
    with OffloadCsv(path, OFFLOAD_COLUMNS) as savefile:
        for number, table in enumerate(tables(dataset), 1):
            savefile.append(table)
            assert savefile.rows == len(pd.read_csv(path)) == min(number * SIZE, 23)


def test_a_run_continues_to_the_same_file_wherever_a_row_was_cut(path: Path) -> None:
    dataset = dataset_of(12)
    whole = write(path, dataset)
    noted = write(path, dataset, batches=1)
    note = make_resume_path(path).read_bytes()
    for end in range(len(noted), len(whole) + 1):
        path.write_bytes(whole[:end])
        make_resume_path(path).write_bytes(note)
        done = go_on(path, dataset)
        assert path.read_bytes() == whole, end
        assert done == whole[:end].count(b"\n") - 1


@pytest.mark.parametrize(
    "rest", [bytes(50), b"\xff\xfe\n", b"rubbish\n", b"\n", b"0.9,1,N/A\x1b[2J,N/A,0.9,1,1\n", b"x" * 10**7]
)
def test_incomplete_rows_after_a_power_cut_are_removed(path: Path, rest: bytes) -> None:
    dataset = dataset_of(12)
    whole = write(path, dataset)
    noted = write(path, dataset, batches=1)
    path.write_bytes(noted + rest)
    assert go_on(path, dataset) == SIZE
    assert path.read_bytes() == whole


def test_a_run_that_was_killed_before_its_first_rows_starts_again(path: Path) -> None:
    dataset = dataset_of(12)
    whole = write(path, dataset)
    path.write_text("older")
    write_resume_file(path, facts_of(dataset) | {"columns": list(OFFLOAD_COLUMNS)}, NO_PROGRESS)
    assert go_on(path, dataset) == 0
    assert path.read_bytes() == whole


def test_an_empty_file_starts_from_the_beginning(path: Path) -> None:
    path.touch()
    assert go_on(path, dataset_of(12)) == 0


@pytest.mark.parametrize("ending", [".gz", ".bz2"])
def test_a_compressed_file_can_be_continued(path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, packed = dataset_of(12), path.with_name(f"verdicts.csv{ending}")
    whole = write(packed, dataset)
    an_hour_later = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: an_hour_later)  # the same rows give the same file at any time
    noted = write(packed, dataset, batches=1)
    packed.write_bytes(whole[: len(noted) + 20])
    assert go_on(packed, dataset) == SIZE
    assert pd.read_csv(packed, dtype=str).equals(pd.read_csv(io.BytesIO(write(path, dataset)), dtype=str))


def test_a_missing_file_starts_from_the_beginning(path: Path) -> None:
    dataset = dataset_of(12)
    assert go_on(path, dataset) == 0
    assert path.read_bytes() == write(path.with_name("other.csv"), dataset)


def test_a_complete_file_stays_unchanged(path: Path) -> None:
    dataset = dataset_of(12)
    whole = write(path, dataset)
    assert go_on(path, dataset) == 12
    assert path.read_bytes() == whole
    path.write_bytes(whole + b"0.93")  # of a row that is none
    assert go_on(path, dataset) == 12
    assert path.read_bytes() == whole


def test_rows_beyond_the_dataset_are_removed(path: Path) -> None:
    dataset = dataset_of(12)
    whole = write(path, dataset)
    path.write_bytes(whole + whole.splitlines(keepends=True)[-1])
    assert go_on(path, dataset) == 12
    assert path.read_bytes() == whole


@pytest.mark.parametrize("row", [0, 1, 6, -1])
def test_a_changed_file_is_not_continued(path: Path, row: int) -> None:
    dataset = dataset_of(12)
    lines = write(path, dataset).splitlines(keepends=True)
    lines[row] = lines[row].replace(b"1", b"0", 1) if row else lines[row].replace(b"class", b"Class")
    path.write_bytes(b"".join(lines))
    assert "was changed since it was written; leave out --resume" in refusal_of(path, facts_of(dataset))


@pytest.mark.parametrize("content", [b"x" * 10_000_000, b"PK\x03\x04" + bytes(50), HEADER, HEADER[:20]])
def test_another_file_at_the_same_path_is_not_continued(path: Path, content: bytes) -> None:
    dataset = dataset_of(12)
    write(path, dataset)
    path.write_bytes(content)
    assert "was changed since it was written" in refusal_of(path, facts_of(dataset))


def test_a_file_of_an_older_version_is_refused_with_the_remedy(path: Path) -> None:
    dataset = dataset_of(12)
    write(path, dataset)
    make_resume_path(path).unlink()
    assert refusal_of(path, facts_of(dataset)) == (
        f"{path}: cannot be continued without verdicts.csv.resume.json, which is missing (older versions wrote none); "
        "leave out --resume to start again"
    )


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"dataset": "00" * 32}, "another dataset"),
        ({"network": "00" * 32}, "another network file"),
        ({"thresholds": vars(Thresholds(0.9, 0.9, 0.9, 0.91))}, "other thresholds"),
        ({"half_precision": True}, "another choice of --half-precision"),
        ({"dataset": "", "thresholds": {}}, "another dataset and other thresholds"),
    ],
)
def test_a_file_of_another_run_is_not_continued(path: Path, changes: dict[str, object], phrase: str) -> None:
    dataset = dataset_of(12)
    write(path, dataset)
    line = refusal_of(path, facts_of(dataset) | changes)
    assert line == f"{path}: was written with {phrase}; give the same, or leave out --resume to start again"


def test_a_file_is_not_continued_with_or_without_the_columns_of_deciders(path: Path) -> None:
    dataset = dataset_of(12)
    write(path, dataset, deciders=True)
    assert "was written with other columns" in refusal_of(path, facts_of(dataset))
    write(path, dataset)
    assert "was written with other columns" in refusal_of(path, facts_of(dataset), deciders=True)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"[]", b"null", b"\xff", b"{" * 10_000, b"[" * 10**7,
        b'{"format_version": 2, "run": {}, "written": {}}',
        b'{"format_version": 1, "run": {}, "written": {"rows": -1, "size": 5, "sha256": ""}}',
        b'{"format_version": 1, "run": {}, "written": {"rows": 1e999, "size": 5, "sha256": ""}}',
        b'{"format_version": 1, "run": [], "written": {"rows": 1, "size": 5, "sha256": ""}}',
        b'{"format_version": 1, "run": {}, "written": {"rows": 1, "size": 5, "sha256": "", "more": 1}}',
    ],
)  # fmt: skip
def test_a_damaged_resume_file_is_refused_in_one_line(path: Path, content: bytes) -> None:
    dataset = dataset_of(12)
    write(path, dataset)
    make_resume_path(path).write_bytes(content)
    assert "is damaged or of another version; leave out --resume" in refusal_of(path, facts_of(dataset))


def test_a_dataset_is_identified_by_its_features_and_labels() -> None:
    dataset = dataset_of(12)
    assert dataset.labels is not None
    features = dataset.features.copy()
    features[5, 50] += 1
    others = [
        Dataset(features, dataset.labels, "events.csv"), Dataset(dataset.features, None, "events.csv"), dataset_of(11),
        Dataset(dataset.features, 1 - dataset.labels, "events.csv"),
    ]  # fmt: skip
    assert len({digest_dataset(one) for one in (dataset, *others)}) == 5
    assert digest_dataset(dataset) == digest_dataset(Dataset(dataset.features.copy(), dataset.labels, "moved.csv"))


@pytest.mark.parametrize(("ending", "magic"), [(".gz", b"\x1f\x8b"), (".bz2", b"BZh"), (".GZ", b"\x1f\x8b")])
def test_a_compressed_file_can_be_read_at_any_time_while_it_grows(path: Path, ending: str, magic: bytes) -> None:
    dataset, packed = dataset_of(23), path.with_name(f"verdicts.csv{ending}")
    with OffloadCsv(packed, OFFLOAD_COLUMNS) as savefile:
        for table in tables(dataset):
            savefile.append(table)
            assert savefile.rows == len(pd.read_csv(packed))
    unpack = bz2.decompress if ending == ".bz2" else gzip.decompress
    assert packed.read_bytes().startswith(magic)
    assert unpack(packed.read_bytes()) == write(path, dataset)


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Have the system refuse to let any file grow beyond a size, as a full disk would."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_on_a_full_disk_the_file_holds_whole_rows_and_can_be_continued(path: Path) -> None:
    dataset = dataset_of(23)
    whole = write(path.with_name("whole.csv"), dataset)
    with OffloadCsv(path, OFFLOAD_COLUMNS) as savefile:
        savefile.begin(facts_of(dataset), 23, resumes=False)
        first, second, *_ = tables(dataset)
        savefile.append(first)
        before = path.read_bytes()
        with room_for(len(before) + 100), pytest.raises(InputFileError, match="File too large; make room and continue"):
            savefile.append(second)
        assert path.read_bytes() == before
        assert savefile.rows == SIZE
    assert go_on(path, dataset) == SIZE
    assert path.read_bytes() == whole


def test_an_older_file_stays_if_the_disk_has_no_room_for_the_first_rows(path: Path) -> None:
    path.write_text("older")
    with OffloadCsv(path, OFFLOAD_COLUMNS) as savefile:
        with room_for(100), pytest.raises(InputFileError, match="File too large"):
            savefile.append(next(tables(dataset_of(SIZE))))
        assert path.read_text() == "older"
    assert list(path.parent.iterdir()) == [path]


_KILLING = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from offload.edge import offload_csv
from tests.offload.edge.test_offload_csv import OFFLOAD_COLUMNS, OffloadCsv, dataset_of, facts_of, go_on, tables, write

path, whole = Path(sys.argv[1]), Path(sys.argv[2])
dataset = dataset_of(600)
batches = list(tables(dataset))
size = len(write(whole, dataset))
kills = 0
for moment in np.random.default_rng().uniform(0, 0.8 * size, 15):
    path.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        offload_csv._COMMIT_INTERVAL = 0.005  # so that it is noted in the middle, too
        with OffloadCsv(path, OFFLOAD_COLUMNS) as savefile:
            savefile.begin(facts_of(dataset), 600, resumes=False)
            for table in batches:
                savefile.append(table)
        os._exit(0)
    while not path.exists() or path.stat().st_size < moment:
        pass
    os.kill(child, signal.SIGKILL)
    kills += os.waitpid(child, 0)[1] == signal.SIGKILL
    done = go_on(path, dataset)
    assert path.read_bytes() == whole.read_bytes(), (moment, done)
print("killed", kills, flush=True)
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_continues_to_the_same_file(tmp_path: Path, path: Path) -> None:
    with Program(tmp_path, "-c", _KILLING, path, tmp_path / "whole.csv") as program:
        assert program.end(2 * PATIENCE) == 0, program.err
        assert int(program.out.removeprefix("killed ")) > 5


def test_a_file_that_is_removed_or_replaced_meanwhile_is_an_error(path: Path) -> None:
    dataset = dataset_of(23)
    first, second, *_ = tables(dataset)
    for remove in (path.unlink, lambda: path.with_name("other").replace(path)):
        path.with_name("other").write_text("another's")
        with OffloadCsv(path, OFFLOAD_COLUMNS) as savefile:
            savefile.begin(facts_of(dataset), 23, resumes=False)
            savefile.append(first)
            remove()
            with pytest.raises(InputFileError, match="removed or replaced meanwhile"):
                savefile.append(second)
    assert path.read_text() == "another's"


@pytest.mark.parametrize("remove", ["moved", "removed"])
def test_a_moved_or_removed_file_of_live_traffic_is_created_again(path: Path, remove: str) -> None:
    path.write_text("older")
    first, second, third, *_ = tables(dataset_of(23))
    with OffloadCsv(path, OFFLOAD_COLUMNS) as savefile:
        savefile.append(first)
        opened = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # Path.iterdir keeps one open
        if remove == "moved":
            path.rename(path.with_name("verdicts.csv.1"))
        else:
            path.unlink()
        savefile.append(second)
        savefile.append(third)
        assert len(os.listdir("/proc/self/fd")) == opened  # noqa: PTH208
    assert len(pd.read_csv(path)) == 2 * SIZE
    assert savefile.rows == 3 * SIZE
    assert [len(pd.read_csv(old)) for old in path.parent.glob("*.1")] == [SIZE] * (remove == "moved")


def test_a_removed_folder_is_created_for_the_first_rows_and_is_an_error_later(tmp_path: Path) -> None:
    folder = tmp_path / "saves"
    first, second, *_ = tables(dataset_of(23))
    with OffloadCsv(folder / "verdicts.csv", OFFLOAD_COLUMNS) as savefile:
        savefile.begin(facts_of(dataset_of(23)), 23, resumes=False)
        folder.rmdir()
        savefile.append(first)
        shutil.rmtree(folder)
        with pytest.raises(InputFileError, match="removed or replaced meanwhile"):
            savefile.append(second)


@pytest.mark.parametrize("rows_before", [0, SIZE])
@pytest.mark.parametrize("resumes", [True, False])
def test_a_second_writer_is_refused_and_the_first_continues(path: Path, rows_before: int, resumes: bool) -> None:
    dataset = dataset_of(23)
    for older in ("", "an older file") if rows_before == 0 else (None, "an older file"):
        path.unlink(missing_ok=True)
        if older is not None:
            path.write_text(older)
        first, second, *_ = tables(dataset)
        with OffloadCsv(path, OFFLOAD_COLUMNS) as savefile:
            savefile.begin(facts_of(dataset), 23, resumes=False)
            if rows_before:
                savefile.append(first)
            with (
                pytest.raises(InputFileError, match=f"^{path}: another process is writing it; wait for it, stop it"),
                OffloadCsv(path, OFFLOAD_COLUMNS) as other,
            ):
                other.begin(facts_of(dataset), 23, resumes=resumes)
            savefile.append(second)
        assert len(pd.read_csv(path)) == rows_before + SIZE


def test_of_two_writers_of_a_new_file_the_second_to_write_rows_is_refused(path: Path) -> None:
    dataset = dataset_of(23)
    first, second, *_ = tables(dataset)
    with OffloadCsv(path, OFFLOAD_COLUMNS) as savefile, OffloadCsv(path, OFFLOAD_COLUMNS) as other:
        for one in (savefile, other):
            one.begin(facts_of(dataset), 23, resumes=False)
        savefile.append(first)
        with pytest.raises(InputFileError, match="another process is writing it"):
            other.append(first)
        savefile.append(second)
    assert len(pd.read_csv(path)) == 2 * SIZE
    assert go_on(path, dataset) == 2 * SIZE


def test_a_file_is_unlocked_when_its_writer_has_finished(path: Path) -> None:
    dataset = dataset_of(12)
    write(path, dataset, batches=1)
    assert go_on(path, dataset) == SIZE


@contextmanager
def without_privileges() -> Iterator[None]:
    """Drop root's rights for a while, because root may write everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_read_only_file_is_not_continued() -> None:
    dataset = dataset_of(12)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "verdicts.csv"
        write(path, dataset)
        path.chmod(0o444)
        make_resume_path(path).chmod(0o444)
        path.parent.chmod(0o777)
        with without_privileges():
            assert "cannot be continued: Permission denied" in refusal_of(path, facts_of(dataset))
        path.parent.chmod(0o700)


@pytest.mark.parametrize("kind", ["fifo", "device", "link to a device"])
def test_a_device_or_a_pipe_is_refused_as_savefile(path: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(os.devnull)
    name = Path(os.devnull) if kind == "device" else path
    with pytest.raises(InputFileError, match="is a device or a pipe, not a file; name a file"):
        OffloadCsv(name, OFFLOAD_COLUMNS)
    assert Path(os.devnull).is_char_device()


def test_the_target_of_a_link_is_written_and_continued(path: Path) -> None:
    dataset = dataset_of(12)
    link = path.with_name("link.csv")
    link.symlink_to(path)
    whole = write(link, dataset)
    write(link, dataset, batches=1)
    assert link.is_symlink()
    assert go_on(link, dataset) == SIZE
    assert path.read_bytes() == whole


def test_a_long_file_is_continued_without_being_held_in_memory(path: Path) -> None:
    dataset = dataset_of(1000)
    table = make_columns(edge_with().decide(Batch(dataset.features)))
    with OffloadCsv(path, OFFLOAD_COLUMNS) as savefile:
        savefile.begin(facts_of(dataset), 10**6, resumes=False)
        for _ in range(200):
            savefile.append(table)
    with OffloadCsv(path, OFFLOAD_COLUMNS) as savefile:
        tracemalloc.start()
        assert savefile.begin(facts_of(dataset), 10**6, resumes=True) == 200_000
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < path.stat().st_size / 4
