"""The calibration script on data that cannot tell a temperature."""

from pathlib import Path

import pytest

from tests.bad_files import month, write_cells
from tests.scripts import CALIBRATE, call


@pytest.mark.parametrize("method", ["nll", "ece"])
def test_calibration_on_one_row_warns(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path, method: str
) -> None:
    one = write_cells(month()[:2], tmp_path / "one.csv")
    files = ("--trained-model", checkpoint, "--dataset", one, "--calibrated-model-savefile", tmp_path / "c.pth")
    ended = call(capsys, CALIBRATE, *files, "--method", method)
    warnings = [line for line in ended.err.splitlines() if line.startswith("warning: exit ")]
    assert ended.code == 0
    assert sum("1 rows are too few to calibrate on" in line for line in warnings) == 2
    assert any("is at its bound" in line for line in warnings)
