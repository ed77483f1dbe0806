"""The commands of the README that was published with the paper start as they are printed there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts import ROOT, SCRIPTS


def environment() -> dict[str, str]:
    """Return the environment of a shell in which the virtual environment is active."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_starts_by_its_name_alone(script: str) -> None:
    done = subprocess.run([script, "--help"], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {Path(script).name} ")
