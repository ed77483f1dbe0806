"""``--resume`` on the command line: only the interrupted run is continued."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from models.calibrated import CalibratedNetwork
from models.checkpoint import read_two_exits, write_checkpoint
from offload.edge.offload_csv import OffloadCsv
from tests.scripts import CLIENT, Ended, call
from utils.schema import OFFLOAD_COLUMNS

Client = Callable[..., Ended]


@pytest.fixture
def month(sample: Path, tmp_path: Path) -> Path:
    """A dataset of 60 events."""
    path = tmp_path / "2016_03.csv"
    pd.read_csv(sample / "2016_03.csv").head(60).to_csv(path, index=False)
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "verdicts.csv"


@pytest.fixture
def client(capsys: pytest.CaptureFixture[str], checkpoint: Path, month: Path, output: Path) -> Client:
    """Return a function that decides the month with further options; a later option outweighs an earlier one."""

    def decide(*options: object) -> Ended:
        mine = ("--trained-network-file", checkpoint, "--network", "mobilenet", "--process-exit2-locally", "--dataset",
                month, "--savefile", output, "--batch-size", 20, "--attack-exit1-min-certainty", 0.9)  # fmt: skip
        return call(capsys, CLIENT, *mine, *options)

    return decide


def same_exit_1(checkpoint: Path, folder: Path) -> Path:
    """Write a network with the same exit 1 and another temperature at exit 2."""
    network, _ = read_two_exits(checkpoint)
    assert isinstance(network, CalibratedNetwork)
    first, second = (float(temperature) for temperature in network.temperature)
    write_checkpoint(folder / "other.pth", CalibratedNetwork(network.model, (first, 2 * second)), {})
    return folder / "other.pth"


def test_a_finished_run_has_nothing_left_to_do(client: Client, output: Path) -> None:
    assert client().code == 0
    whole = output.read_bytes()
    for _ in range(2):
        ended = client("--resume")
        assert (ended.code, "total: 0 events" in ended.out) == (0, True)
        assert output.read_bytes() == whole
    assert sorted(path.name for path in output.parent.glob("verdicts*")) == ["verdicts.csv", "verdicts.csv.resume.json"]


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        (("--attack-exit1-min-certainty", 0.91), "other thresholds"),
        (("--normal-exit2-min-certainty", 0.91), "other thresholds"),
        (("--show-decider",), "other columns"),
    ],
)
def test_a_file_is_not_continued_with_other_options(
    client: Client, output: Path, options: tuple[object, ...], phrase: str
) -> None:
    client()
    ended = client("--resume", *options)
    assert (ended.code, f"{output}: was written with {phrase}; give the same, or leave out --resume" in ended.err) == (
        2,
        True,
    )


def test_a_file_is_not_continued_with_another_network_with_the_same_exit_1(
    client: Client, checkpoint: Path, tmp_path: Path
) -> None:
    client()
    ended = client("--resume", "--trained-network-file", same_exit_1(checkpoint, tmp_path))
    assert (ended.code, "was written with another network file" in ended.err) == (2, True)


def test_a_changed_row_far_from_the_end_is_detected(client: Client, output: Path) -> None:
    client()
    lines = output.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace(",", ",1", 1)
    output.write_text("".join(lines[:50]))
    ended = client("--resume")
    assert (ended.code, f"{output}: was changed since it was written" in ended.err) == (2, True)


def test_only_the_same_events_continue_a_file_whatever_their_file_name(
    client: Client, month: Path, tmp_path: Path
) -> None:
    client()
    table = pd.read_csv(month, dtype=str)
    moved, other = tmp_path / "moved.csv.gz", tmp_path / "other.csv"
    table.to_csv(moved, index=False)
    table.iloc[::-1].to_csv(other, index=False)
    assert client("--resume", "--dataset", moved).code == 0
    ended = client("--resume", "--dataset", other)
    assert (ended.code, "was written with another dataset" in ended.err) == (2, True)


def test_a_file_of_an_older_version_is_refused_with_the_remedy(client: Client, output: Path) -> None:
    client()
    whole = output.read_bytes()
    output.with_name("verdicts.csv.resume.json").unlink()
    ended = client("--resume")
    assert ended.code == 2
    assert "cannot be continued without verdicts.csv.resume.json" in ended.err
    assert "leave out --resume to start again" in ended.err
    assert client().code == 0
    assert output.read_bytes() == whole


def test_the_second_of_two_clients_on_one_file_is_refused(client: Client, output: Path) -> None:
    output.touch()
    with OffloadCsv(output, OFFLOAD_COLUMNS):
        for options in ((), ("--resume",)):
            ended = client(*options)
            (line,) = ended.err.splitlines()
            assert (ended.code, f"{output}: another process is writing it" in line) == (2, True)
    assert client().code == 0
