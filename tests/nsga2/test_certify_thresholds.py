import re
from pathlib import Path

import pandas as pd
import pytest

from models.checkpoint import compute_fingerprint, read_two_exits
from tests.nsga2.test_certification import draw_events
from tests.scripts import CERTIFY, call
from utils.policy import compute_digests, read_policy
from utils.results import read_evaluation
from utils.schema import EVALUATION_COLUMNS


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("certify") / "evaluation.csv"
    columns = vars(draw_events(6000, seed=2)).values()
    pd.DataFrame(dict(zip(EVALUATION_COLUMNS, columns, strict=True))).to_csv(path, index=False)
    return path


def test_a_policy_holds_the_certified_thresholds_and_their_certificate(
    evaluation: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy_file, picture = tmp_path / "policy.json", tmp_path / "policy.png"
    options = ["--eval-file", evaluation, "--max-error", 0.06, "--savefile", policy_file, "--report", picture]
    ended = call(capsys, CERTIFY, *[*options, "--trained-model", checkpoint])
    assert ended.code == 0, ended.err
    policy = read_policy(policy_file)
    network, _ = read_two_exits(checkpoint)
    assert policy.fingerprint == compute_fingerprint(network)
    certificate = policy.certificate
    assert certificate is not None
    assert (certificate.max_error, certificate.confidence, certificate.unit) == (0.06, 0.95, "rows")
    assert certificate.rows == 3900 and certificate.data == compute_digests([evaluation])
    assert 0 < certificate.wrong / certificate.accepted <= 0.06
    error = read_evaluation([evaluation]).decide(policy.thresholds).count().error
    assert error < 0.07
    assert re.search(r"certified: with confidence 0.95, at most 6 % of the accepted events are wrong", ended.out)
    assert f"--normal-exit1-min-certainty {policy.thresholds.normal_exit_1!r}" in ended.out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_other_rows_can_propose_so_that_all_rows_test(
    evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, policy_file = tmp_path / "other.csv", tmp_path / "policy.json"
    pd.DataFrame(dict(zip(EVALUATION_COLUMNS, vars(draw_events(2000, seed=3)).values(), strict=True))).to_csv(
        other, index=False
    )
    options = ["--eval-file", evaluation, "--propose-from", other, "--max-error", 0.06, "--savefile", policy_file]
    assert call(capsys, CERTIFY, *options).code == 0
    certificate = read_policy(policy_file).certificate
    assert certificate is not None and certificate.rows == 6000


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--max-error", 0.001], "0.001 cannot be certified"),
        (["--max-error", 0.025, "--min-acceptance", 0.95], "lower --min-acceptance"),
        (["--max-error", 0], "strictly between 0 and 1"),
        (["--max-error", 0.06, "--report", "chart.txt"], "the ending must say the picture's format"),
        (["--max-error", 0.06, "--trained-model", "no.pth"], "no such file"),
    ],
)
def test_nothing_is_written_if_nothing_is_certified(
    options: list[object], says: str, evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy_file = tmp_path / "policy.json"
    ended = call(capsys, CERTIFY, *["--eval-file", evaluation, "--savefile", policy_file, *options])
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert line.startswith("certify-thresholds.py: error: ") and says in line
    assert not policy_file.exists()


def test_an_input_is_not_overwritten(evaluation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = call(capsys, CERTIFY, *["--eval-file", evaluation, "--max-error", 0.06, "--savefile", evaluation])
    assert ended.code == 2
    assert len(read_evaluation([evaluation])) == 6000
