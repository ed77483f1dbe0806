"""The client on a dataset whose traffic changes, with the policy that certify-thresholds.py wrote."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.scripts import CERTIFY, CLIENT, EVALUATE, ROOT, call, load_script
from utils.policy import read_policy
from utils.schema import DECIDER_COLUMNS, DRIFT, FEATURES, REJECTED

pytestmark = pytest.mark.slow

USUAL = "2016_03.csv"
CAPTURE = ROOT / "dataset" / "sample" / "network" / "capture.pcap.gz"


@pytest.fixture(scope="module")
def changed(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A month in which the most frequent vector has taken the place of half of the other rows."""
    table = pd.read_csv(sample / USUAL)
    names = list(FEATURES)
    frequent = list(table[names].value_counts().index[0])
    is_other = (table[names].to_numpy() != frequent).any(axis=1)
    table.loc[table[is_other].index[::2], names] = frequent
    path = tmp_path_factory.mktemp("drift") / "2016_04.csv"
    pd.concat([table] * 3).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def policy(checkpoint: Path, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    evaluate = ("--trained-model", checkpoint, "--dataset", sample / USUAL, "--savefile", folder / "evaluation.csv")
    certify = (
        "--eval-file", folder / "evaluation.csv", "--dataset", sample / USUAL, "--trained-model", checkpoint,
        "--max-error", 0.9, "--savefile", folder / "policy.json",
    )  # fmt: skip
    for script, options in ((EVALUATE, evaluate), (CERTIFY, certify)):
        assert load_script(script).main([str(word) for word in options]) == 0
    return folder / "policy.json"


def run_client(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, policy: Path, dataset: Path, output: Path, *options: object
) -> tuple[pd.DataFrame, list[str]]:
    """Decide a dataset without a cloud; return the verdicts and the warnings about drift."""
    ended = call(
        capsys, CLIENT, "--process-exit2-locally", "--network", "mobilenet", "--trained-network-file", checkpoint,
        "--policy", policy, "--dataset", dataset, "--batch-size", 100, "--savefile", output, "--show-decider", *options,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    lines = (ended.out + ended.err).splitlines()
    return pd.read_csv(output, keep_default_na=False), [line for line in lines if "drift after" in line]


def test_a_change_is_reported_and_with_tighten_no_longer_accepted(
    checkpoint: Path, sample: Path, policy: Path, changed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual, said = run_client(capsys, checkpoint, policy, sample / USUAL, tmp_path / "usual.csv")
    assert said == [] and DRIFT not in set(usual["reason"])
    warned, said = run_client(capsys, checkpoint, policy, changed, tmp_path / "warned.csv")
    assert any("frequent vector 1 is" in line for line in said)
    assert DRIFT not in set(warned["reason"])
    tightened, again = run_client(
        capsys, checkpoint, policy, changed, tmp_path / "tightened.csv", "--on-drift", "tighten"
    )
    assert again == said
    drifted = tightened["reason"] == DRIFT
    assert 0.3 < drifted.mean() < 1
    assert (tightened["decider"][drifted] == REJECTED).all()
    verdicts = ["final_prediction", *DECIDER_COLUMNS]
    assert tightened[~drifted][verdicts].astype(str).equals(warned[~drifted][verdicts].astype(str))
    rejected, _ = run_client(capsys, checkpoint, policy, changed, tmp_path / "r.csv", "--on-drift", "reject")
    assert (rejected["final_prediction"][500:] == REJECTED).all()


def test_a_client_refuses_to_act_on_drift_without_a_reference(
    checkpoint: Path, sample: Path, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(policy.read_text())
    assert read_policy(policy).reference is not None
    (tmp_path / "policy.json").write_text(json.dumps({**content, "reference": None}))
    ended = call(
        capsys, CLIENT, "--process-exit2-locally", "--network", "mobilenet", "--trained-network-file", checkpoint,
        "--policy", tmp_path / "policy.json", "--dataset", sample / USUAL, "--on-drift", "tighten",
    )  # fmt: skip
    assert ended.code == 2
    assert "holds no reference of the traffic for --on-drift tighten; write it again with" in ended.err


def test_a_change_of_observed_traffic_is_written_among_the_alerts(
    checkpoint: Path, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = call(
        capsys, CLIENT, "--process-exit2-locally", "--network", "mobilenet", "--trained-network-file", checkpoint,
        "--policy", policy, "--pcap", CAPTURE, "--alerts", tmp_path / "eve.json", "--on-drift", "tighten",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    events = [json.loads(line) for line in (tmp_path / "eve.json").read_text().splitlines()]
    changes = [event["early_exit"] for event in events if event["event_type"] == "anomaly"]
    assert changes and all(abs(change["share"] - change["reference_share"]) > 0.05 for change in changes)
