import bz2
import gzip
import os
import resource
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from offload.edge import Edge
from offload.second_exit import LocalSecondExit
from offload.torch_exits import Exit1, Exit2
from offload.verdicts import verdict_columns
from offload.verdicts_file import Table, VerdictsFile, resume
from tests.offload.link import PATIENCE, Program
from tests.offload.test_edge import CPU, HALVES, Legible
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
    return Edge(Exit1(Legible(), CPU), thresholds, LocalSecondExit(Exit2(Legible(), CPU)))


def tables(dataset: Dataset, start: int = 0, *, deciders: bool = False) -> Iterator[Table]:
    """Yield the rows of a dataset from ``start`` on, batch by batch."""
    batches = (dataset.features[row : row + SIZE] for row in range(start, len(dataset), SIZE))
    for verdicts in edge_with().decide_all(batches, 1, Stop()):
        labels = None if dataset.labels is None else dataset.labels[start : start + len(verdicts)]
        yield verdict_columns(verdicts, labels, deciders=deciders)
        start += len(verdicts)


def write(path: Path, dataset: Dataset, *, deciders: bool = False) -> bytes:
    """Write a dataset's file without interruption; return what is in it."""
    with VerdictsFile(path, OFFLOAD_COLUMNS + (DECIDER_COLUMNS if deciders else ())) as savefile:
        for table in tables(dataset, deciders=deciders):
            savefile.append(table)
    assert savefile.rows == len(dataset)
    return path.read_bytes()


def go_on(path: Path, dataset: Dataset) -> int:
    """Continue a dataset's file to its end; return how many rows were there."""
    with VerdictsFile(path, OFFLOAD_COLUMNS) as savefile:
        done = resume(savefile, dataset, edge_with())
        for table in tables(dataset, done):
            savefile.append(table)
    assert savefile.rows == len(dataset)
    return done


def refusal_of(path: Path, dataset: Dataset, thresholds: Thresholds = HALVES) -> str:
    """Return the line that says why a file cannot be continued; it must be as it was."""
    before = path.read_bytes()
    with VerdictsFile(path, OFFLOAD_COLUMNS) as savefile, pytest.raises(InputFileError) as raised:
        resume(savefile, dataset, edge_with(thresholds))
    assert path.read_bytes() == before
    text = str(raised.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "verdicts.csv"


def test_the_rows_are_those_of_one_table_written_at_once(path: Path) -> None:
    dataset = dataset_of(23)
    whole = pd.DataFrame(verdict_columns(edge_with().decide(dataset.features), dataset.labels))
    assert write(path, dataset).decode() == whole.to_csv(index=False)


def test_nothing_appears_and_an_older_file_stays_before_the_first_rows(path: Path) -> None:
    with VerdictsFile(path, OFFLOAD_COLUMNS):
        assert list(path.parent.iterdir()) == []
    path.write_text("older")
    with VerdictsFile(path, OFFLOAD_COLUMNS) as savefile:
        assert path.read_text() == "older"
        savefile.append(next(tables(dataset_of(SIZE))))
        assert path.read_bytes().startswith(HEADER)
    assert list(path.parent.iterdir()) == [path]


def test_the_file_can_be_read_at_any_time_and_grows_by_whole_batches(path: Path) -> None:
    dataset = dataset_of(23)
    with VerdictsFile(path, OFFLOAD_COLUMNS) as savefile:
        for number, table in enumerate(tables(dataset), 1):
            savefile.append(table)
            assert savefile.rows == len(pd.read_csv(path)) == min(number * SIZE, 23)


def test_wherever_a_file_was_cut_off_it_goes_on_to_the_same_end(path: Path) -> None:
    dataset = dataset_of(6)
    whole = write(path, dataset)
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        done = go_on(path, dataset)
        assert path.read_bytes() == whole, end
        assert done == max(whole[:end].count(b"\n") - 1, 0)


def test_a_file_that_is_not_there_begins(path: Path) -> None:
    dataset = dataset_of(12)
    assert go_on(path, dataset) == 0
    assert path.read_bytes() == write(path.with_name("other.csv"), dataset)


def test_a_whole_file_stays_as_it_is(path: Path) -> None:
    dataset = dataset_of(12)
    whole = write(path, dataset)
    assert go_on(path, dataset) == 12
    assert path.read_bytes() == whole
    path.write_bytes(whole + b"0.93")  # of a row that is none
    assert go_on(path, dataset) == 12
    assert path.read_bytes() == whole


def test_many_more_rows_than_are_compared_go_on_too(path: Path) -> None:
    dataset = dataset_of(2500)
    whole = write(path, dataset)
    for rows in (999, 1000, 1001, 2499):
        path.write_bytes(b"".join(whole.splitlines(keepends=True)[: 1 + rows]) + b"0.5")
        assert go_on(path, dataset) == rows
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "start",
    [
        b"\r\n",
        b"some text",
        b"PK\x03\x04" + bytes(50),
        bytes(20),
        b"\xff\xfe",
        b"\xef\xbb\xbf" + HEADER,
        HEADER.replace(b"\n", b"\r\n"),
        HEADER[:-1] + b",decider\n",
        b'"' + HEADER,
    ],
)
def test_a_file_with_other_columns_is_not_continued(path: Path, start: bytes) -> None:
    path.write_bytes(start + b"0.9,1,N/A,N/A,0.9,1,1\n")
    assert "has not the columns exit_1_certainty" in refusal_of(path, dataset_of(12))


def test_a_file_with_the_deciders_is_not_continued_without_them_nor_the_other_way_round(path: Path) -> None:
    dataset = dataset_of(12)
    write(path, dataset, deciders=True)
    assert "has not the columns" in refusal_of(path, dataset)
    write(path, dataset)
    with VerdictsFile(path, OFFLOAD_COLUMNS + DECIDER_COLUMNS) as savefile, pytest.raises(InputFileError):
        resume(savefile, dataset, edge_with())


@pytest.mark.parametrize(
    "rows",
    [
        b"\n",
        b"\r\n",
        b"rubbish\n",
        b"a,b,c,d,e,f,g\n",
        b"1,2,3,4,5,6,7\n",
        b"1,2,3,4,5,6,7,8\n",
        b"1,2,3\n1,2,3,4,5,6,7,8,9\n",
        b"nan,inf,-inf,1e999,N/A,rejected,0\n",
        b'"0.9\n',
        b"\x00\xff\n",
        b",,,,,,\n",
        b"0.9,1,N/A,N/A,0.9,1,1\r0.9,1,N/A,N/A,0.9,1,1\n",
        b"0.9,99999999999999999999,N/A,N/A,0.9,1,1\n",
    ],
)
@pytest.mark.parametrize("before", [0, 3])
def test_a_file_whose_rows_are_none_of_ours_is_not_continued(path: Path, rows: bytes, before: int) -> None:
    dataset = dataset_of(12)
    lines = write(path, dataset).splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: 1 + before]) + rows)
    refusal_of(path, dataset)
    path.write_bytes(HEADER + rows + b"".join(lines[1 : 1 + before]))
    refusal_of(path, dataset)


def test_a_line_too_many_is_not_overlooked_where_all_rows_are_alike(path: Path) -> None:
    dataset = made_of(np.full(12, 4.0), np.zeros(12))
    whole = write(path, dataset)
    path.write_bytes(HEADER + b"\n" + whole.removeprefix(HEADER)[: len(whole) // 2])
    refusal_of(path, dataset)


def test_a_file_of_another_dataset_is_not_continued(path: Path) -> None:
    dataset = dataset_of(12)
    write(path, dataset)
    with path.open("ab") as stream:
        stream.write(b"cut off")
    assert "of another dataset" in refusal_of(path, dataset_of(12, seed=1))
    assert "has 12 rows, events.csv only 11" in refusal_of(path, dataset_of(11))
    assert "of another dataset" in refusal_of(path, Dataset(dataset.features, None, "unlabelled.csv"))
    assert dataset.labels is not None
    assert "of another dataset" in refusal_of(path, Dataset(dataset.features, 1 - dataset.labels, "relabelled.csv"))
    write(path, Dataset(dataset.features, None, "unlabelled.csv"))
    assert "of another dataset" in refusal_of(path, dataset)


@pytest.mark.parametrize("factor", [1.001, -1.0])
def test_a_file_of_another_network_is_not_continued(path: Path, factor: float) -> None:
    dataset = dataset_of(12)
    write(path, dataset)
    other = Legible()
    other.halves.mul_(factor)
    with VerdictsFile(path, OFFLOAD_COLUMNS) as savefile, pytest.raises(InputFileError, match="network"):
        resume(savefile, dataset, Edge(Exit1(other, CPU), HALVES, LocalSecondExit(Exit2(other, CPU))))


@pytest.mark.parametrize("changed", range(4))
@pytest.mark.parametrize("least", [0.6, 0.97])
def test_a_file_of_other_thresholds_is_not_continued(path: Path, changed: int, least: float) -> None:
    dataset = dataset_of(60)
    write(path, dataset)
    limits = [0.9, 0.9, 0.9, 0.9]
    limits[changed] = least
    assert "thresholds" in refusal_of(path, dataset, Thresholds(*limits))


def test_a_file_is_continued_though_the_last_digits_of_a_certainty_differ(path: Path) -> None:
    dataset = made_of(np.array([0.0, 1.0, 4.0]), np.array([4.0, 1.0, 0.0]))
    write(path, dataset)
    exact = float(edge_with().at_exit_1(dataset.features[2:])[1][0])
    for nudge in (-1e-6, 1e-6):  # over or under the threshold, and for one class or the other
        features = dataset.features + np.float32(nudge)
        with VerdictsFile(path, OFFLOAD_COLUMNS) as savefile:
            limits = Thresholds(exact, exact, 0.9, 0.9)
            assert resume(savefile, Dataset(features, dataset.labels, "events.csv"), edge_with(limits)) == 3


@pytest.mark.parametrize(("ending", "magic"), [(".gz", b"\x1f\x8b"), (".bz2", b"BZh"), (".GZ", b"\x1f\x8b")])
def test_a_compressed_file_grows_too_and_can_be_read_at_any_time(path: Path, ending: str, magic: bytes) -> None:
    dataset, packed = dataset_of(23), path.with_name(f"verdicts.csv{ending}")
    with VerdictsFile(packed, OFFLOAD_COLUMNS) as savefile:
        for table in tables(dataset):
            savefile.append(table)
            assert savefile.rows == len(pd.read_csv(packed))
    unpack = bz2.decompress if ending == ".bz2" else gzip.decompress
    assert packed.read_bytes().startswith(magic)
    assert unpack(packed.read_bytes()) == write(path, dataset)


@pytest.mark.parametrize("ending", [".gz", ".bz2"])
def test_a_compressed_file_is_not_continued(path: Path, ending: str) -> None:
    packed = path.with_name(f"verdicts.csv{ending}")
    write(packed, dataset_of(12))
    assert "a compressed file cannot be continued" in refusal_of(packed, dataset_of(12))


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Have the system refuse to let any file grow beyond a size, as a full disk would."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_where_there_is_no_room_the_file_still_holds_whole_rows_and_can_be_continued(path: Path) -> None:
    dataset = dataset_of(23)
    whole = write(path.with_name("whole.csv"), dataset)
    with VerdictsFile(path, OFFLOAD_COLUMNS) as savefile:
        first, second, *_ = tables(dataset)
        savefile.append(first)
        before = path.read_bytes()
        with room_for(len(before) + 100), pytest.raises(InputFileError, match="File too large; make room and go on"):
            savefile.append(second)
        assert path.read_bytes() == before
        assert savefile.rows == SIZE
    assert go_on(path, dataset) == SIZE
    assert path.read_bytes() == whole


def test_where_there_is_no_room_for_the_first_rows_an_older_file_stays(path: Path) -> None:
    path.write_text("older")
    with VerdictsFile(path, OFFLOAD_COLUMNS) as savefile:
        with room_for(100), pytest.raises(InputFileError, match="File too large"):
            savefile.append(next(tables(dataset_of(SIZE))))
        assert path.read_text() == "older"
    assert list(path.parent.iterdir()) == [path]


_KILLING = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from tests.offload.test_verdicts_file import OFFLOAD_COLUMNS, VerdictsFile, dataset_of, go_on, tables, write

path, whole = Path(sys.argv[1]), Path(sys.argv[2])
dataset = dataset_of(600)
batches = list(tables(dataset))
size = len(write(whole, dataset))
kills = 0
for moment in np.random.default_rng().uniform(0, 0.8 * size, 15):
    path.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        with VerdictsFile(path, OFFLOAD_COLUMNS) as savefile:
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


def test_a_file_whose_writer_was_killed_at_any_moment_goes_on_to_the_same_end(tmp_path: Path, path: Path) -> None:
    with Program(tmp_path, "-c", _KILLING, path, tmp_path / "whole.csv") as program:
        assert program.end(2 * PATIENCE) == 0, program.err
        assert int(program.out.removeprefix("killed ")) > 5


def test_a_file_that_was_removed_or_replaced_meanwhile_is_an_error(path: Path) -> None:
    first, second, *_ = tables(dataset_of(23))
    for remove in (path.unlink, lambda: path.with_name("other").replace(path)):
        path.with_name("other").write_text("another's")
        with VerdictsFile(path, OFFLOAD_COLUMNS) as savefile:
            savefile.append(first)
            remove()
            with pytest.raises(InputFileError, match="removed or replaced meanwhile"):
                savefile.append(second)
    assert path.read_text() == "another's"


def test_a_folder_that_is_gone_is_made_again_for_the_first_rows_and_is_an_error_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "saves"
    first, second, *_ = tables(dataset_of(23))
    with VerdictsFile(folder / "verdicts.csv", OFFLOAD_COLUMNS) as savefile:
        folder.rmdir()
        savefile.append(first)
        (folder / "verdicts.csv").unlink()
        folder.rmdir()
        with pytest.raises(InputFileError, match="removed or replaced meanwhile"):
            savefile.append(second)


def test_a_file_that_another_process_writes_is_not_continued(path: Path) -> None:
    dataset = dataset_of(12)
    with VerdictsFile(path, OFFLOAD_COLUMNS) as savefile:
        savefile.append(next(tables(dataset)))
        assert "another process is writing it" in refusal_of(path, dataset)
    assert go_on(path, dataset) == SIZE


@contextmanager
def without_privileges() -> Iterator[None]:
    """Be no one for a while, where we are root, who may write everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_file_that_may_not_be_written_is_not_continued() -> None:
    dataset = dataset_of(12)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "verdicts.csv"
        write(path, dataset)
        path.chmod(0o444)
        path.parent.chmod(0o777)
        with without_privileges():
            assert "cannot be continued: Permission denied" in refusal_of(path, dataset)
        path.parent.chmod(0o700)


@pytest.mark.parametrize("kind", ["fifo", "device", "link to a device"])
def test_a_device_or_a_pipe_is_no_savefile(path: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(os.devnull)
    name = Path(os.devnull) if kind == "device" else path
    with pytest.raises(InputFileError, match="is a device or a pipe, not a file; name a file"):
        VerdictsFile(name, OFFLOAD_COLUMNS)
    assert Path(os.devnull).is_char_device()


def test_what_a_link_stands_for_is_written_and_continued(path: Path) -> None:
    dataset = dataset_of(12)
    link = path.with_name("link.csv")
    link.symlink_to(path)
    whole = write(link, dataset)
    assert link.is_symlink()
    path.write_bytes(whole[: len(whole) // 2])
    go_on(link, dataset)
    assert path.read_bytes() == whole


def test_another_file_is_refused_without_being_read_to_its_end(path: Path) -> None:
    path.write_bytes(b"x" * 10_000_000)
    tracemalloc.start()
    with VerdictsFile(path, OFFLOAD_COLUMNS) as savefile, pytest.raises(InputFileError, match="has not the columns"):
        savefile.last_rows()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000


def test_a_long_file_is_continued_without_being_held_in_memory(path: Path) -> None:
    table = pd.DataFrame(verdict_columns(edge_with().decide(dataset_of(1000).features), None))
    block = table.to_csv(index=False, header=False).encode()
    path.write_bytes(HEADER)
    with path.open("ab") as stream:
        stream.writelines([block] * 500)
    with VerdictsFile(path, OFFLOAD_COLUMNS) as savefile:
        tracemalloc.start()
        tail = savefile.last_rows()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert savefile.rows == 500_000
        assert {len(column) for column in tail.values()} == {1000}
        assert most < path.stat().st_size / 4
