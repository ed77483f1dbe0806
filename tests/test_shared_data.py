"""Tests of the published data: what becomes of them where the folder is missing, or lacks what they read."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared_data import ROOT

pytestmark = pytest.mark.slow

GLOB, FILE = "tests/nsga2/test_front_chart.py", "tests/utils/test_cost_models.py"


@pytest.mark.parametrize(("name", "words"), [("absent", "absent: no such folder"), ("", "holds no file for this test")])
def test_a_folder_that_was_named_and_lacks_what_a_test_needs_fails_it(tmp_path: Path, name: str, words: str) -> None:
    environment = {**os.environ, "IDS_SHARED": str(tmp_path / name)}
    options = ("-m", "published", "-p", "no:cacheprovider", "-p", "no:xdist")
    command = [sys.executable, "-m", "pytest", *options, GLOB, FILE]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert words in done.stdout
    assert re.search(r"\d (failed|errors)", last := done.stdout.splitlines()[-1]) and "skipped" not in last
