import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.scripts import EXPORT, INFER, ROOT, call
from utils.schema import INFERENCE_COLUMNS

pytestmark = pytest.mark.slow

WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"], sys.argv = None, sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def halves(capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoint: Path) -> list[object]:
    """Return the arguments that name both halves of the checkpoint's network, exported."""
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    assert (
        call(capsys, EXPORT, "--trained-model", checkpoint, "--output", first, "--second-exit-output", second).code == 0
    )
    return ["--trained-model", first, "--second-exit-file", second]


def test_an_exported_network_answers_like_its_checkpoint_without_torch(
    halves: list[object], capsys: pytest.CaptureFixture[str], checkpoint: Path, sample: Path, tmp_path: Path
) -> None:
    month = ["--dataset", sample / "2016_03.csv", "--batch-size", 70, "--savefile"]
    assert call(capsys, INFER, "--trained-model", checkpoint, *month, tmp_path / "theirs.csv").code == 0
    command = [sys.executable, "-c", WITHOUT_TORCH, ROOT / INFER, *halves, *month, tmp_path / "ours.csv"]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    ours, theirs = pd.read_csv(tmp_path / "ours.csv"), pd.read_csv(tmp_path / "theirs.csv")
    assert tuple(ours.columns) == (*INFERENCE_COLUMNS, "class") and len(ours) == len(theirs)
    for number in (1, 2):
        certain = f"exit_{number}_certainty"
        np.testing.assert_allclose(ours[certain], theirs[certain], rtol=0, atol=5e-5)
        clear = theirs[certain] > 0.5001  # an untrained network is often undecided to the last bit
        same = ours[f"exit_{number}_prediction"] == theirs[f"exit_{number}_prediction"]
        assert clear.sum() > 100 and same[clear].all()


def test_a_missing_or_superfluous_second_half_is_reported_in_one_line(
    halves: list[object], capsys: pytest.CaptureFixture[str], checkpoint: Path, sample: Path, tmp_path: Path
) -> None:
    rest = ["--dataset", sample / "2016_03.csv", "--savefile", tmp_path / "out.csv"]
    alone = call(capsys, INFER, *halves[:2], *rest)
    both = call(capsys, INFER, "--trained-model", checkpoint, *halves[2:], *rest)
    on_gpu = call(capsys, INFER, *halves, *rest, "--device", "cuda")
    assert [ended.code for ended in (alone, both, on_gpu)] == [2, 2, 2]
    assert "Name the second with --second-exit-file" in alone.err
    assert "a checkpoint holds its second half" in both.err
    assert "--device is for PyTorch" in on_gpu.err
    assert not (tmp_path / "out.csv").exists()


def test_8_bit_products_change_the_certainties_of_exit_2_only_and_slightly(
    capsys: pytest.CaptureFixture[str], alexnet_checkpoint: Path, sample: Path, tmp_path: Path
) -> None:
    arguments = ("--trained-model", alexnet_checkpoint, "--dataset", sample / "2016_03.csv", "--savefile")
    assert call(capsys, INFER, *arguments, tmp_path / "plain.csv").code == 0
    assert call(capsys, INFER, *arguments, tmp_path / "int8.csv", "--quantize", "int8").code == 0
    plain, int8 = pd.read_csv(tmp_path / "plain.csv"), pd.read_csv(tmp_path / "int8.csv")
    np.testing.assert_allclose(int8["exit_1_certainty"], plain["exit_1_certainty"], rtol=0, atol=1e-6)
    apart = (int8["exit_2_certainty"] - plain["exit_2_certainty"]).abs()
    assert 1e-5 < apart.mean() < 0.02


def test_8_bit_products_are_refused_if_they_are_no_faster(
    halves: list[object], capsys: pytest.CaptureFixture[str], checkpoint: Path, sample: Path, tmp_path: Path
) -> None:
    rest = ["--quantize", "int8", "--dataset", sample / "2016_03.csv", "--savefile", tmp_path / "out.csv"]
    small, exported = call(capsys, INFER, "--trained-model", checkpoint, *rest), call(capsys, INFER, *halves, *rest)
    assert (small.code, exported.code) == (2, 2)
    assert "no large linear layer. Leave it out." in small.err
    assert "dnn/export-edge-model.py quantises" in exported.err
    assert not (tmp_path / "out.csv").exists()
