import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dataset.scaling import MINIMUMS, RANGES, scale, unscale
from tests.captures import SHARED, needs_shared
from utils.schema import CLASS, FEATURES

MONTHS = [f"2016_{month:02d}.csv" for month in range(1, 9)]


def read_cells(path: Path) -> NDArray[np.float64]:
    """Return the cells (N, 58) as the float64 that each one's digits mean."""
    with path.open(newline="") as stream:
        rows = csv.reader(stream)
        assert next(rows) == [*FEATURES, CLASS]
        return np.array([[float(cell) for cell in row[:-1]] for row in rows])


@needs_shared
def test_minimums_and_ranges_are_those_recovered_from_the_published_dataset() -> None:
    table = json.loads((SHARED / "data" / "feature-scaler.json").read_text())
    assert [entry["feature"] for entry in table] == list(FEATURES)
    assert [entry["min"] for entry in table] == MINIMUMS.tolist()
    assert [entry["range"] for entry in table] == RANGES.tolist()


@needs_shared
@pytest.mark.parametrize("month", MONTHS)
def test_published_rows_unscaled_and_scaled_again_come_back_bit_for_bit(month: str) -> None:
    cells = read_cells(SHARED / "data" / "dataset" / month)
    hundredths = np.array(["variance" in name for name in FEATURES])
    unscaled = unscale(cells)
    raw = np.where(hundredths, np.round(unscaled, 2), np.round(unscaled))
    assert np.abs(raw - unscaled).max() < 1e-6
    np.testing.assert_array_equal(scale(raw), cells)


def test_the_ends_of_each_range_become_0_and_1() -> None:
    np.testing.assert_allclose(scale(MINIMUMS), np.zeros(58), atol=1e-15)
    np.testing.assert_allclose(scale(MINIMUMS + RANGES), np.ones(58), rtol=1e-15)


def test_values_outside_the_range_are_not_clipped() -> None:
    assert scale(MINIMUMS + 3 * RANGES).min() > 2.99
    assert scale(MINIMUMS - RANGES).max() < -0.99


def test_scaling_takes_one_record_or_many() -> None:
    raw = np.arange(58.0)
    np.testing.assert_array_equal(scale(np.stack([raw, raw])), np.stack([scale(raw), scale(raw)]))
    np.testing.assert_allclose(unscale(scale(raw)), raw, rtol=1e-12, atol=1e-6)
