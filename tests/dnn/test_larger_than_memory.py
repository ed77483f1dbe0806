"""A month whose features memory need not hold."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.networks import SAMPLE
from tests.scripts import ROOT
from utils.dataset import read_labelled
from utils.schema import CLASS, FEATURES

pytestmark = pytest.mark.slow

ROWS = 400_000


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's rows over and over, in one row group."""
    path = tmp_path_factory.mktemp("large") / "2016_01.parquet"
    dataset, labels = read_labelled(SAMPLE)
    rows = np.arange(ROWS) % len(labels)
    columns = [*dataset.features.T, labels]
    parquet.write_table(pa.table([pa.array(column[rows]) for column in columns], names=[*FEATURES, CLASS]), path)
    return path


def trained(month: Path, shrink: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.dnn.train_large", str(month), str(shrink)]
    # On a processor with bfloat16, oneDNN keeps kernels for up to a thousand shapes of a batch: 160 MB, of any month.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=600)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_an_epoch_on_a_month_in_a_file_takes_little_memory_and_gives_the_same_weights(month: Path) -> None:
    kept, held = trained(month, 32), trained(month, 1)
    assert (bool(kept["spooled"]), bool(held["spooled"])) == (True, False)
    assert kept["bytes"] == held["bytes"] == ROWS * 58 * 4
    assert held["grown"] > held["bytes"]  # so the measure would show it
    assert kept["grown"] < held["bytes"] / 2
    # The input transform is fitted to a sample of the rows.
    assert kept["losses"] == pytest.approx(held["losses"], rel=0.05)
