"""Client and worker scripts with releases: they change over while they run, and broken releases change nothing."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from offload.link.broker import Broker
from tests.offload.chaos import NO_DIFFERENCES, Script, compare_verdicts, is_all_by_cloud, write_distinct_events
from tests.offload.link_ends import wait_until
from tests.offload.releases import copy_damaged
from tests.offload.swapping import BATCH, RELEASES, Fleet, choose_rows, decide_by_each, write_swapped_releases
from tests.scripts import CLIENT, SERVER, call
from utils.release import CURRENT, EDGE, MANIFEST, POLICY, SECOND, point_to
from utils.schema import DECIDER_COLUMNS, OFFLOAD_COLUMNS, RELEASE_COLUMN

EVENTS = 2400


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_swapped_releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    return write_distinct_events(tmp_path_factory.mktemp("events") / "events.csv", sample, EVENTS)


@pytest.fixture(scope="module")
def expected(releases: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """The verdicts of each release."""
    return decide_by_each(tmp_path_factory.mktemp("expected"), releases, dataset)


@pytest.fixture
def at_first(releases: Path) -> Path:
    """The folder of releases, whose current one is the first."""
    point_to(releases, RELEASES[0])
    return releases


@pytest.mark.slow
def test_no_event_is_lost_doubled_misplaced_or_refused_by_swaps_under_load(
    link: Broker, queue: str, at_first: Path, dataset: Path, expected: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    with Fleet(link, queue, at_first, dataset, tmp_path).running() as fleet:
        for number in range(1, 6):
            fleet.swap(RELEASES[number % len(RELEASES)], kill=number > 3)
        figures = fleet.finish(expected)
    assert figures.differences == NO_DIFFERENCES, figures
    assert (figures.rows % EVENTS, figures.refused) == (0, 0)
    assert set(figures.used) == set(RELEASES)


def decide(capsys: pytest.CaptureFixture[str], savefile: Path, dataset: Path, *options: object) -> pd.DataFrame:
    """Return the verdicts of a client that computes both exits."""
    common = ("--process-exit2-locally", "--dataset", dataset, "--batch-size", BATCH, "--savefile", savefile)
    ended = call(capsys, CLIENT, *common, *options)
    assert (ended.code, ended.err) == (0, "")
    return pd.read_csv(savefile, keep_default_na=False, dtype={"final_prediction": str})


@pytest.fixture
def few(dataset: Path, tmp_path: Path) -> Path:
    """A dataset of few events."""
    path = tmp_path / "few.csv"
    pd.read_csv(dataset).head(40).to_csv(path, index=False)
    return path


def test_a_release_decides_as_its_files_do_and_is_named_in_a_column(
    capsys: pytest.CaptureFixture[str], at_first: Path, few: Path, tmp_path: Path
) -> None:
    release = at_first / RELEASES[0]
    files = ("--trained-network-file", release / EDGE, "--second-exit-file", release / SECOND)
    plain = decide(capsys, tmp_path / "plain.csv", few, *files, "--policy", release / POLICY, "--show-decider")
    found = decide(capsys, tmp_path / "found.csv", few, "--release", at_first, "--show-decider")
    assert tuple(plain.columns) == (*OFFLOAD_COLUMNS, *DECIDER_COLUMNS)
    assert tuple(found.columns) == (*OFFLOAD_COLUMNS, *DECIDER_COLUMNS, RELEASE_COLUMN)
    assert set(found.pop(RELEASE_COLUMN)) == {RELEASES[0]}
    pd.testing.assert_frame_equal(found, plain)
    short = decide(capsys, tmp_path / "short.csv", few, "--release", release)
    pd.testing.assert_frame_equal(short, plain[list(OFFLOAD_COLUMNS)])


def test_thresholds_on_the_command_line_take_precedence_over_the_release(
    capsys: pytest.CaptureFixture[str], at_first: Path, few: Path, tmp_path: Path
) -> None:
    options = ("--normal-exit1-min-certainty", 0, "--attack-exit1-min-certainty", 0, "--show-decider")
    found = decide(capsys, tmp_path / "found.csv", few, "--release", at_first, *options)
    assert set(found["decider"]) == {"edge"}


@pytest.fixture
def worker(link: Broker, queue: str, at_first: Path, tmp_path: Path) -> Iterator[Script]:
    """A worker that runs the first release."""
    options = (*broker_options(link, queue), "--release", at_first)
    with Script(tmp_path / "worker", SERVER, *options, password=link.password) as worker:
        yield worker.wait_for("ready: ")


def broker_options(link: Broker, queue: str) -> tuple[object, ...]:
    (host, *_) = link.hosts
    return (
        "--mq-hostname", host.name, "--mq-port", host.port, "--mq-username", link.username, "--mq-queue", queue,
    )  # fmt: skip


def test_an_edge_that_changes_first_is_answered_by_its_release(
    link: Broker, queue: str, worker: Script, at_first: Path, few: Path, expected: dict[str, pd.DataFrame],
    tmp_path: Path,
) -> None:  # fmt: skip
    options = (
        *broker_options(link, queue), "--release", at_first / RELEASES[1], "--dataset", few, "--batch-size", BATCH,
        "--savefile", tmp_path / "verdicts.csv", "--show-decider", "--on-cloud-failure", "reject",
    )  # fmt: skip
    with Script(tmp_path / "edge", CLIENT, *options, password=link.password) as edge:
        assert edge.end() == 0, edge.err
    found = pd.read_csv(tmp_path / "verdicts.csv", keep_default_na=False, dtype={"final_prediction": str})
    assert compare_verdicts(found, choose_rows(found, expected).head(len(found))) == NO_DIFFERENCES
    assert is_all_by_cloud(found)
    assert worker.out.count(f"a request names release {RELEASES[1]}, which was opened in") == 1
    assert "refused: " not in worker.out


def damaged(releases: Path) -> Path:
    return copy_damaged(releases / RELEASES[1], releases / "broken", SECOND)


def half_written(releases: Path) -> Path:
    broken = damaged(releases)
    (broken / MANIFEST).unlink()
    return broken


@pytest.mark.parametrize(
    ("spoil", "words"), [(damaged, "copy the release again"), (half_written, "is no release, or half written")]
)
def test_a_reload_with_a_broken_release_is_one_line_and_the_running_network_goes_on(
    worker: Script, at_first: Path, tmp_path: Path, spoil: Callable[[Path], Path], words: str
) -> None:
    broken = spoil(at_first)
    try:
        (at_first / "to").symlink_to(broken.name)  # point_to would refuse what has no manifest
        (at_first / "to").replace(at_first / CURRENT)
        wait_until(lambda: len(worker.err.splitlines()) == 1)
        worker.send(signal.SIGHUP)
        wait_until(lambda: len(worker.err.splitlines()) == 2)
        for line in worker.err.splitlines():
            assert line.startswith(f"warning: release {RELEASES[0]} stays in use: ") and words in line
        point_to(at_first, RELEASES[1])
        worker.wait_for(f"changed over to release {RELEASES[1]} in ")
        assert len(worker.err.splitlines()) == 2
    finally:
        broken.rename(tmp_path / "broken")


def test_a_run_is_continued_by_another_release(
    at_first: Path, dataset: Path, expected: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    savefile = tmp_path / "verdicts.csv"
    options = (
        "--process-exit2-locally", "--release", at_first, "--dataset", dataset, "--batch-size", BATCH,
        "--savefile", savefile, "--show-decider", "--resume",
    )  # fmt: skip
    with Script(tmp_path / "first", CLIENT, *options) as client:
        client.wait_for("batch 3:").send(signal.SIGTERM)
        assert client.end() == 0, client.err
    point_to(at_first, RELEASES[1])
    with Script(tmp_path / "second", CLIENT, *options) as client:
        assert client.end() == 0, client.err
    found = pd.read_csv(savefile, keep_default_na=False, dtype={"final_prediction": str})
    assert list(found[RELEASE_COLUMN].unique()) == list(RELEASES[:2])
    assert compare_verdicts(found, choose_rows(found, expected)) == NO_DIFFERENCES
