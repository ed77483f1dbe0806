import re
from pathlib import Path

import numpy as np
import pytest

from models.checkpoint import write_checkpoint
from models.onnx_runtime import read_first_half, read_second_half
from tests.networks import new_network
from tests.scripts import call
from utils.policy import Policy, write_policy
from utils.schema import FEATURE_COUNT, Thresholds
from utils.traffic_reference import Reference

pytestmark = pytest.mark.slow

LIMITS = Thresholds(0.9, 0.8, 0.7, 0.6)
EXPORT = "dnn/export-edge-model.py"


def test_both_halves_are_written_and_their_agreement_printed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoint: Path
) -> None:
    edge, second = tmp_path / "edge.onnx", tmp_path / "second.onnx"
    ended = call(capsys, EXPORT, "--trained-model", checkpoint, "--output", edge, "--second-exit-output", second)
    assert ended.code == 0 and ended.err == ""
    # The network is untrained, and undecided about some rows to the last bit.
    figures = re.findall(r"within (\S+) of the checkpoint's, (\S+) % of labels equal", ended.out)
    assert len(figures) == 2
    assert all(float(difference) <= 1e-4 and float(labels) > 98 for difference, labels in figures)
    assert read_first_half(edge).fingerprint == read_second_half(second).fingerprint


def test_a_network_is_quantised_with_the_ranges_of_a_dataset(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoint: Path, sample: Path
) -> None:
    edge = tmp_path / "edge.onnx"
    options = ["--trained-model", checkpoint, "--output", edge, "--quantize", "int8", "--dataset"]
    ended = call(capsys, EXPORT, *options, sample / "2016_02.csv")
    assert ended.code == 0 and "labels equal" in ended.out and ended.err == ""
    assert read_first_half(edge).architecture == "MobileNetV2WithExits"


def test_a_network_with_one_exit_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    single = tmp_path / "single.pth"
    write_checkpoint(single, new_network("MobileNetV2"), {})
    ended = call(capsys, EXPORT, "--trained-model", single, "--output", tmp_path / "edge.onnx")
    assert ended.code == 2 and "has one exit" in ended.err and len(ended.err.splitlines()) == 1
    assert not (tmp_path / "edge.onnx").exists()


def test_no_output_replaces_another_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoint: Path) -> None:
    edge = tmp_path / "edge.onnx"
    same = call(capsys, EXPORT, "--trained-model", checkpoint, "--output", edge, "--second-exit-output", edge)
    own = call(capsys, EXPORT, "--trained-model", checkpoint, "--output", checkpoint)
    assert (same.code, own.code) == (2, 2)
    assert "is both outputs" in same.err and "is an input" in own.err


@pytest.mark.parametrize("distrusted", [(), (0,)])
def test_a_policy_with_vectors_that_an_exported_file_cannot_hold_is_said_to_be_needed_by_the_client(
    distrusted: tuple[int, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoint: Path
) -> None:
    policy, edge = tmp_path / "policy.json", tmp_path / "edge.onnx"
    vectors, shares = np.zeros((1, FEATURE_COUNT), np.float32), np.array([0.4, 0.6])
    write_policy(Policy(LIMITS, reference=Reference(vectors, np.empty(0), shares, 100, 0.06, distrusted)), policy)
    ended = call(capsys, EXPORT, "--trained-model", checkpoint, "--output", edge, "--policy", policy)
    assert ended.code == 0 and read_first_half(edge).thresholds == LIMITS
    said = (
        f"warning: {policy} distrusts frequent vectors (1), which {edge} cannot hold; give the client --policy, too, "
    )
    assert ended.err == (f"{said}or it accepts them\n" if distrusted else "")
