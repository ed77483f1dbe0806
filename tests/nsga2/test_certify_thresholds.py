import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.checkpoint import compute_fingerprint, read_two_exits
from nsga2.certification import split_rows
from tests.nsga2.test_certification import draw_events
from tests.scripts import CERTIFY, CHOOSE, call
from utils.policy import compute_digests, read_policy
from utils.results import read_evaluation
from utils.schema import CLASS, CLASS_NAMES, EVALUATION_COLUMNS, FEATURES, INFERENCE_COLUMNS


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


@pytest.fixture
def inference(evaluation: Path, tmp_path: Path) -> Path:
    """The same answers as ``dnn/inference.py`` would write them about an unlabelled dataset."""
    events = read_evaluation([evaluation])
    columns = (events.certainty_1, events.prediction_1, events.certainty_2, events.prediction_2)
    path = tmp_path / "2016_03.csv"
    pd.DataFrame(dict(zip(INFERENCE_COLUMNS, columns, strict=True))).to_csv(path, index=False)
    return path


def label(
    capsys: pytest.CaptureFixture[str], inference: Path, evaluation: Path, count: int, random_share: float
) -> Path:
    """Choose records, and fill in their true classes in words, as a person would."""
    path = inference.with_name("labels.csv")
    options = ("--verdicts", inference, "--count", count, "--random-share", random_share, "--savefile", path)
    assert call(capsys, CHOOSE, *options).code == 0
    table, labels = pd.read_csv(path), read_evaluation([evaluation]).labels
    assert table["class"].isna().all()
    table["class"] = [CLASS_NAMES[labels[row - 1]] for row in table["row"]]
    table.to_csv(path, index=False)
    return path


def test_few_labels_certify_what_another_month_proposes(
    evaluation: Path, inference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, policy_file = label(capsys, inference, evaluation, 300, 1.0), tmp_path / "policy.json"
    options = ["--labels", labels, "--eval-file", inference, "--savefile", policy_file, "--propose-from", evaluation]
    ended = call(capsys, CERTIFY, *options, "--max-error", 0.1)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("labels: 300 random records test; other rows propose")
    certificate = read_policy(policy_file).certificate
    assert certificate is not None and certificate.rows == 300
    assert certificate.data == compute_digests([inference, labels])
    assert read_evaluation([evaluation]).decide(read_policy(policy_file).thresholds).count().error < 0.1


def test_few_labels_alone_certify_a_high_limit_and_say_which_if_another_is_asked_for(
    evaluation: Path, inference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, policy_file = label(capsys, inference, evaluation, 200, 0.5), tmp_path / "policy.json"
    options = ["--labels", labels, "--eval-file", inference, "--savefile", policy_file]
    ended = call(capsys, CERTIFY, *options, "--max-error", 0.02)
    assert ended.out == "labels: 65 random records test; 35 random and 100 informative ones propose\n"
    said = re.search(
        r"0\.02 cannot be certified with confidence 0\.95 from 65 rows; (0\.\d+) can, .*raise --max-error to that, or "
        r"label more random records and let others propose with --propose-from$",
        ended.err.strip(),
    )
    assert ended.code == 2 and said is not None, ended.err
    assert call(capsys, CERTIFY, *options, "--max-error", float(said[1])).code == 0


@pytest.fixture
def months(evaluation: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The dataset of the evaluation, and one of the month before, in which the frequent vector was never an attack."""
    events = read_evaluation([evaluation])
    generator, is_frequent = np.random.default_rng(1), np.arange(len(events)) % 10 == 0
    table = pd.DataFrame(generator.random((len(events), len(FEATURES))), columns=list(FEATURES)).round(3)
    table[is_frequent] = 0.5
    paths = tmp_path / "later.csv", tmp_path / "earlier.csv"
    table.assign(**{CLASS: events.labels}).to_csv(paths[0], index=False)
    table.assign(**{CLASS: np.where(is_frequent, 0, events.labels)}).to_csv(paths[1], index=False)
    return paths


def test_vectors_whose_labels_have_changed_are_not_trusted_and_not_tested(
    evaluation: Path, months: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, earlier = months
    options = ["--eval-file", evaluation, "--max-error", 0.06, "--dataset", dataset, "--savefile", tmp_path / "p.json"]
    ended = call(capsys, CERTIFY, *options, "--earlier-dataset", earlier)
    assert (ended.code, ended.err) == (0, "")
    assert (
        "not trusted: 1 frequent vector, 10.00 % of the events, with labels that have changed since earlier.csv; the "
        "client rejects these events, and all rates below are of the others"
    ) in ended.out
    policy = read_policy(tmp_path / "p.json")
    assert policy.reference is not None and policy.certificate is not None
    assert policy.reference.distrusted == (0,) and (policy.reference.vectors[0] == 0.5).all()
    tested = split_rows(6000, seed=1)[1]
    assert policy.certificate.rows == (tested % 10 != 0).sum()

    ended = call(capsys, CERTIFY, *options, "--earlier-dataset", dataset)
    assert "not trusted: 0 frequent vectors, 0.00 % of the events, with labels that" in ended.out
    policy = read_policy(tmp_path / "p.json")
    assert policy.reference is not None and policy.reference.distrusted == ()


def test_an_earlier_month_is_compared_with_labelled_rows_only(
    evaluation: Path, inference: Path, months: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, earlier = months
    labels = label(capsys, inference, evaluation, 1500, 1.0)
    options = ["--labels", labels, "--eval-file", inference, "--dataset", dataset, "--savefile", tmp_path / "p.json"]
    ended = call(capsys, CERTIFY, *options, "--earlier-dataset", earlier, "--max-error", 0.1)
    assert (ended.code, ended.err) == (0, "")
    assert "not trusted: 1 frequent vector, 10.00 % of the events" in ended.out
    certificate = read_policy(tmp_path / "p.json").certificate
    assert certificate is not None and 800 < certificate.rows < 975


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "--earlier-dataset: needs --dataset"),
        (["--dataset", "{dataset}", "--propose-from", "{evaluation}"], "leave one of them out"),
    ],
)
def test_an_earlier_month_is_for_the_dataset_whose_rows_propose(
    options: list[str], says: str, evaluation: Path, months: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, earlier = months
    given = [option.format(dataset=dataset, evaluation=evaluation) for option in options]
    output = ("--savefile", dataset.with_name("p.json"))
    ended = call(
        capsys, CERTIFY, "--eval-file", evaluation, "--max-error", 0.06, "--earlier-dataset", earlier, *given, *output
    )
    assert ended.code == 2 and len(ended.err.splitlines()) == 1 and says in ended.err
