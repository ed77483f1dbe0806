"""The script: it releases what is better, refuses what is not, and goes back."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from models.checkpoint import compute_fingerprint, read_two_exits, write_checkpoint
from models.onnx_runtime import read_first_half, read_second_half
from tests.networks import calibrated_network, new_network
from tests.scripts import RENEW, ROOT, call
from utils.policy import read_policy
from utils.release import EDGE, NETWORK, POLICY, SECOND, read_release

pytestmark = pytest.mark.slow

FIRST, SECOND_NAME = "release-0001", "release-0002"


@pytest.fixture(scope="module")
def months(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two months of the sample, cut."""
    folder = tmp_path_factory.mktemp("months")
    for name in ("2016_01.csv", "2016_02.csv"):
        pd.read_csv(sample / name, nrows=600).to_csv(folder / name, index=False)
    return folder


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("untrained") / "network.pth"
    write_checkpoint(path, calibrated_network("MobileNetV2WithExits"), {})
    return path


@pytest.fixture(scope="module")
def releases(untrained: Path, months: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The releases that renewing an untrained network makes."""
    folder = tmp_path_factory.mktemp("releases") / "new"
    command = [sys.executable, str(ROOT / RENEW), "--champion", str(untrained), "--dataset-folder", str(months)]
    options = ["--output-folder", str(folder), "--epochs", "4", "--hold-back", "400"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"released: {SECOND_NAME}, renewed from {FIRST}" in done.stdout
    return folder


def test_a_better_challenger_becomes_the_current_release_with_all_its_files(releases: Path, untrained: Path) -> None:
    release = read_release(releases)
    assert (release.name, release.parent) == (SECOND_NAME, FIRST)
    assert [(one.name, one.rows) for one in release.data] == [("2016_01.csv", 600), ("2016_02.csv", 600)]
    assert release.judgement["difference"] < release.judgement["high"] < 0
    network, _ = read_two_exits(release.get_path(NETWORK))
    halves = read_first_half(release.get_path(EDGE)), read_second_half(release.get_path(SECOND))
    assert {release.fingerprint, compute_fingerprint(network)} == {half.fingerprint for half in halves}
    policy = read_policy(release.get_path(POLICY))
    assert policy.fingerprint == release.fingerprint
    assert policy.certificate is not None and policy.certificate.rows == 200
    assert policy.reference is not None and policy.reference.rows == 600
    first = read_release(releases / FIRST)
    assert first.fingerprint == compute_fingerprint(read_two_exits(untrained)[0])
    assert first.parent is None


def test_a_challenger_that_is_not_better_is_not_released(
    releases: Path, months: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in releases.iterdir())
    options = ("--champion", releases, "--dataset-folder", months, "--output-folder", releases, "--epochs", 1)
    ended = call(capsys, RENEW, *options, "--hold-back", 40, "--reject-cost", 0)
    assert ended.code == 1, ended.out
    assert "not released" in ended.out and "minus that of the champion" in ended.out
    assert sorted(path.name for path in releases.iterdir()) == before
    assert read_release(releases).name == SECOND_NAME


def test_a_rollback_leads_to_the_parent_and_no_further(releases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = call(capsys, RENEW, "--rollback", "--output-folder", releases)
    assert (ended.code, ended.err) == (0, "")
    assert read_release(releases).name == FIRST
    ended = call(capsys, RENEW, "--rollback", "--output-folder", releases)
    assert ended.code == 2 and "is the first release" in ended.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--dataset-folder", "."), "--champion and --dataset-folder are needed"),
        (("--rollback", "--output-folder", "."), "is no release, or half written"),
        (("--champion", ".", "--dataset-folder", "."), "is no release, or half written"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    options: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = call(capsys, RENEW, *options)
    assert ended.code == 2 and said in ended.err and len(ended.err.splitlines()) == 1


def test_a_network_that_is_not_calibrated_is_refused(
    months: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plain.pth"
    write_checkpoint(path, new_network("MobileNetV2WithExits"), {})
    ended = call(capsys, RENEW, "--champion", path, "--dataset-folder", months, "--output-folder", tmp_path / "out")
    assert ended.code == 2 and "is not calibrated" in ended.err


def test_a_champion_of_another_folder_and_too_few_rows_are_refused(
    releases: Path, untrained: Path, months: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pd.read_csv(months / "2016_01.csv", nrows=3).to_csv(tmp_path / "2016_01.csv", index=False)
    for champion, folder, said in (
        (releases, months, "is not in --output-folder"),
        (untrained, tmp_path, "too few labelled rows"),
    ):
        options = ("--champion", champion, "--dataset-folder", folder, "--output-folder", tmp_path / "out")
        for first in ((), ("--first",)) if champion is untrained else ((),):
            ended = call(capsys, RENEW, *options, *first)
            assert ended.code == 2 and said in ended.err and len(ended.err.splitlines()) == 1
            assert list((tmp_path / "out").iterdir()) == []


def test_a_checkpoint_can_become_the_first_release_without_a_challenger(
    untrained: Path, months: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--first", "--dataset-folder", months, "--glob", "2016_02", "--output-folder", tmp_path / "out")
    ended = call(capsys, RENEW, "--champion", untrained, *options)
    assert (ended.code, ended.err) == (0, "")
    release = read_release(tmp_path / "out")
    assert (release.name, release.parent, dict(release.judgement)) == (FIRST, None, {})
    ended = call(capsys, RENEW, "--champion", release.folder, *options)
    assert ended.code == 2 and "is a release already" in ended.err
