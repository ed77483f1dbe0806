"""Two real processes under torchrun, which exchange gradients by gloo on the loopback interface."""

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dnn.distributed import Ranks, choose_device_name, compute_digest
from dnn.torchrun import Place, read_place
from models.checkpoint import read_checkpoint
from tests.scripts import ROOT, TRAIN
from utils.errors import DeviceError

pytestmark = pytest.mark.slow

PROGRAM = "tests/dnn/train_small.py"
LONGEST = 600


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}


def torchrun(*arguments: object, processes: int = 2) -> list[str]:
    """Return the command line that runs a script of the project in so many processes."""
    launch = ("-m", "torch.distributed.run", "--nproc-per-node", processes)
    where = ("--master-addr", "127.0.0.1", "--master-port", free_port())
    script, *rest = arguments
    return [sys.executable, *map(str, (*launch, *where, ROOT / str(script), *rest))]


def run(command: list[str], cwd: Path, prepare: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=LONGEST, preexec_fn=prepare
    )


def said(program: str, stderr: str) -> list[str]:
    """Return what the processes themselves said: lines of the program, and tracebacks that torchrun's own are not."""
    return [line for line in stderr.splitlines() if line.startswith((program, "[rank", "usage: "))]


@pytest.fixture(scope="module")
def months(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """A folder with a short month."""
    folder = tmp_path_factory.mktemp("months")
    lines = (sample / "2016_01.csv").read_text().splitlines(keepends=True)
    (folder / "2016_01.csv").write_text("".join(lines[:81]))
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, months: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder that a run of two processes wrote, and how it ended."""
    folder = tmp_path_factory.mktemp("both")
    return folder / "both", run(torchrun(*training(months, "both")), folder)


def training(months: Path, output: str, *more: object) -> tuple[object, ...]:
    options = ("--model", "mobilenet", "--epochs", 2, "--batch-size", 36, "--output-folder", output)
    return (TRAIN, "--dataset-folder", months, *options, *more)


# The same steps


def test_two_processes_take_the_same_steps_as_one_and_report_the_same_loss(tmp_path: Path) -> None:
    # The last batch of 201 rows is one row: the second process has none of its own.
    (tmp_path / "alone").mkdir()
    (tmp_path / "both").mkdir()
    alone = run([sys.executable, str(ROOT / PROGRAM), "alone", "40"], tmp_path)
    both = run(torchrun(PROGRAM, "both", 40), tmp_path)
    assert (alone.returncode, both.returncode) == (0, 0), both.stderr
    expected = torch.load(tmp_path / "alone" / "0.pt", weights_only=True)
    first, second = (torch.load(tmp_path / "both" / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["losses"] == pytest.approx(expected.pop("losses"), rel=1e-6)
    assert first.pop("losses") == second.pop("losses")
    assert list(first) == list(expected)  # no prefix
    for name, weight in expected.items():
        torch.testing.assert_close(first[name], weight, rtol=0, atol=1e-6)
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("rows", [1, 2, 4, 13])
def test_shares_of_a_batch_hold_each_row_once_and_a_surplus_process_gets_a_row_of_weight_0(
    world: int, rows: int
) -> None:
    generator = np.random.default_rng(0)
    features = generator.random((rows, 58), dtype=np.float32)
    weights = generator.random((rows, 2), dtype=np.float32)
    shares = [Ranks(Place(rank, world)).take_share(features, weights) for rank in range(world)]
    assert all(len(mine) == len(own) >= 1 for mine, own in shares)
    found = {tuple(row): own for mine, all_own in shares for row, own in zip(mine, all_own, strict=True) if own.any()}
    assert sum(int(own.any(axis=1).sum()) for _, own in shares) == len(found) == rows
    for row, weight in zip(features, weights, strict=True):
        np.testing.assert_allclose(found[tuple(row)], world * weight, rtol=1e-6)


def test_one_process_computes_the_whole_batch_unchanged() -> None:
    features, weights = np.ones((3, 58), np.float32), np.ones((3, 2), np.float32)
    mine, own = Ranks().take_share(features, weights)
    assert mine is features and own is weights


# The script


def test_the_script_writes_the_same_under_torchrun_as_alone(
    tmp_path: Path, months: Path, both: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    alone = run([sys.executable, str(ROOT / TRAIN), *map(str, training(months, "alone")[1:])], tmp_path)
    of_both, done = both
    assert (alone.returncode, done.returncode) == (0, 0), done.stderr
    assert said("train-early", done.stderr) == []
    shapes = [[re.sub(r"-?[\d.]+", "N", line.replace(name, "")) for line in ended.stdout.splitlines()]
              for name, ended in (("alone", alone), ("both", done))]  # fmt: skip
    assert shapes[0][2:] == shapes[1][2:]  # each line once
    assert "; 2 processes" in done.stdout.splitlines()[1]
    kinds = []
    for folder in (tmp_path / "alone", of_both):
        files = sorted(folder.iterdir())
        kinds.append([re.sub(r"\d{8}-\d{6}|\d+\.\d\d", "N", path.name) for path in files])
        checkpoints = [read_checkpoint(path, "mobilenet") for path in files]
        assert [checkpoint.training["epoch"] for checkpoint in checkpoints] == [1, 2]
    assert kinds[0] == kinds[1]
    contents = [torch.load(next(path.iterdir()), weights_only=True) for path in (tmp_path / "alone", of_both)]
    assert list(contents[0]) == list(contents[1])
    assert list(contents[0]["state_dict"]) == list(contents[1]["state_dict"])


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def interrupted(command: list[str], cwd: Path, stop: Callable[[int], None]) -> tuple[int, str, str]:
    """Run a command, call ``stop`` with its process id once an epoch is saved, and return how it ended."""
    process = subprocess.Popen(
        command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("epoch 1:") for line in lines)
        stop(process.pid)
        out, err = process.communicate(timeout=LONGEST)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


def test_a_killed_run_resumes_to_the_same_weights(
    tmp_path: Path, months: Path, both: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    whole, done = both
    assert done.returncode == 0, done.stderr
    code, _, err = interrupted(
        torchrun(*training(months, "killed")), tmp_path, lambda pid: os.kill(children(pid)[1], signal.SIGKILL)
    )
    assert code != 0
    assert len([line for line in said("train-early", err) if ": error: " in line or "interrupted" in line]) == 1
    resumed = run(torchrun(*training(months, "killed", "--resume")), tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    ends = []
    for folder in (whole, tmp_path / "killed"):
        first, last = sorted(folder.iterdir())
        ends.append([read_checkpoint(path).network.state_dict() for path in (first, last)])
    for state, other in zip(*ends, strict=True):
        assert all(torch.equal(state[key], other[key]) for key in state)


def test_ctrl_c_ends_all_processes_with_one_line(tmp_path: Path, months: Path) -> None:
    code, _, err = interrupted(torchrun(*training(months, "out")), tmp_path, lambda pid: os.killpg(pid, signal.SIGINT))
    assert code != 0
    assert said("train-early", err) == ["train-early-exit-network.py: interrupted"]
    assert "\nThe last complete epoch is saved" in f"\n{err}"


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # bytes; a longer file fails as on a full disk


@pytest.mark.parametrize(
    ("more", "prepare", "words"),
    [
        (("--epochs", "none"), None, "error: argument --epochs: 'none' is not a whole number"),
        (("--glob", "2016_02"), None, "error: .*: no dataset matches '2016_02'; it holds 2016_01.csv"),
        (("--resume",), None, "error: out: holds no unfinished run of MobileNetV2WithExits. Leave out --resume."),
        ((), limit_file_size, r"error: out/.*\.pth: cannot be written: "),
    ],
    ids=["argument", "file", "state", "full disk"],
)  # fmt: skip
def test_a_usage_error_is_printed_once_and_ends_all_processes(
    tmp_path: Path, months: Path, more: tuple[str, ...], prepare: Callable[[], None] | None, words: str
) -> None:
    done = run(torchrun(*training(months, "out", *more)), tmp_path, prepare)
    assert done.returncode != 0
    lines = said("train-early", done.stderr)
    assert len(lines) == 1, done.stderr
    assert re.match(f"train-early-exit-network.py: {words}", lines[0])


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("error", "error: process 1: disk: is full; make room"),
        ("silence", "error: another process of this run ended or did not answer"),
        ("other data", "error: the processes do not have the same data"),
    ],
)
def test_the_first_process_prints_an_error_of_another_and_all_end(tmp_path: Path, fault: str, line: str) -> None:
    done = run(torchrun(PROGRAM, tmp_path, 40, fault), tmp_path)
    assert done.returncode != 0
    (told,) = said("train_small", done.stderr)
    # torchrun stops the others when it sees that one is gone, at times before they see it themselves.
    stopped = fault == "silence" and told == "train_small.py: interrupted"
    assert stopped or told.startswith(f"train_small.py: {line}")
    assert list(tmp_path.iterdir()) == []


def test_an_unexpected_exception_keeps_its_traceback(tmp_path: Path) -> None:
    done = run(torchrun(PROGRAM, tmp_path, 40, "bug"), tmp_path)
    assert done.returncode != 0
    assert "[rank1]: TypeError: a fault of ours" in done.stderr
    assert "[rank0]: Traceback" not in done.stderr


# What torchrun says


def test_a_process_without_torchrun_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # as other launchers set it
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert read_place() == Place(0, 1, 0, 1)


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("second_of_two")
def test_each_process_of_a_machine_takes_its_own_gpu() -> None:
    assert (choose_device_name("cpu"), choose_device_name("cuda")) == ("cpu", "cuda:1")
    assert choose_device_name("auto") == ("cuda:1" if torch.cuda.is_available() else "auto")
    with pytest.raises(DeviceError, match=r"--device cuda:0: is one GPU for 2 processes\. Use --device cuda"):
        choose_device_name("cuda:0")


def test_a_digest_depends_on_all_parts_and_their_order() -> None:
    table = np.arange(116, dtype=np.float32).reshape(2, 58)
    assert compute_digest(b"a", table) == compute_digest(b"a", table.copy())
    assert (
        len(
            {
                compute_digest(b"a", table),
                compute_digest(b"b", table),
                compute_digest(b"a", table[::-1]),
                compute_digest(table, b"a"),
            }
        )
        == 4
    )
