import csv
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.captures import SHARED, needs_shared
from utils import schema
from utils.schema import CLASS, FEATURES, Thresholds

ROOT = Path(__file__).resolve().parents[2]


def header(path: Path) -> list[str]:
    with path.open(newline="") as stream:
        return next(csv.reader(stream))


@needs_shared
def test_the_58_features_are_in_the_order_of_the_published_scaler() -> None:
    table = json.loads((SHARED / "data" / "feature-scaler.json").read_text())
    assert list(FEATURES) == [entry["feature"] for entry in table]
    assert len(set(FEATURES)) == schema.FEATURE_COUNT == 58


def test_the_header_of_every_sample_month_is_the_58_features_and_the_class(sample: Path) -> None:
    headers = [header(path) for path in sorted(sample.glob("*.csv"))]
    assert headers == [[*FEATURES, CLASS]] * 12


@needs_shared
def test_evaluation_columns_are_those_of_the_published_evaluations() -> None:
    paths = list((SHARED / "data" / "evaluations").glob("*.csv"))
    assert len({"_single_" in path.name for path in paths}) == 2
    for path in paths:
        single = "_single_" in path.name
        expected = schema.SINGLE_EXIT_EVALUATION_COLUMNS if single else schema.EVALUATION_COLUMNS
        assert header(path) == list(expected)


def test_class_numbers_are_the_indices_of_their_names() -> None:
    assert schema.CLASS_NAMES[schema.NORMAL] == "normal"
    assert schema.CLASS_NAMES[schema.ATTACK] == "attack"


def test_the_thresholds_are_in_the_order_of_a_result_file() -> None:
    names = [field.name for field in dataclasses.fields(Thresholds)]
    assert names == ["normal_exit_1", "attack_exit_1", "normal_exit_2", "attack_exit_2"]


def test_thresholds_of_0_and_1_are_allowed() -> None:
    assert dataclasses.astuple(Thresholds(0, 1, 0.0, 1.0)) == (0, 1, 0, 1)


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_a_threshold_outside_0_to_1_is_named_and_refused(position: int, value: float) -> None:
    values = [0.5] * 4
    values[position] = value
    with pytest.raises(ValueError, match=dataclasses.fields(Thresholds)[position].name):
        Thresholds(*values)


def test_modules_for_help_texts_import_no_torch_numpy_or_pandas() -> None:
    code = (
        "import sys, models, utils.schema, utils.cli, utils.files; print({'torch', 'numpy', 'pandas'} & {*sys.modules})"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
