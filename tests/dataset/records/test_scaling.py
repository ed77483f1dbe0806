import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dataset.records.scaling import PUBLISHED, Scaler, fit_scaler, read_scaler, write_scaler
from tests.captures import SHARED, needs_shared
from utils.errors import InputFileError
from utils.schema import CLASS, FEATURES

MONTHS = [f"2016_{month:02d}.csv" for month in range(1, 9)]


def read_cells(path: Path) -> NDArray[np.float64]:
    """Return the cells (N, 58) as the nearest float64."""
    with path.open(newline="") as stream:
        rows = csv.reader(stream)
        assert next(rows) == [*FEATURES, CLASS]
        return np.array([[float(cell) for cell in row[:-1]] for row in rows])


@needs_shared
def test_minimums_and_ranges_equal_those_recovered_from_the_published_dataset() -> None:
    table = json.loads((SHARED / "data" / "feature-scaler.json").read_text())
    assert [entry["feature"] for entry in table] == list(FEATURES)
    assert [entry["min"] for entry in table] == PUBLISHED.minimums.tolist()
    assert [entry["range"] for entry in table] == PUBLISHED.ranges.tolist()


@needs_shared
@pytest.mark.parametrize("month", MONTHS)
def test_published_rows_unscaled_and_scaled_again_are_equal_bit_for_bit(month: str) -> None:
    cells = read_cells(SHARED / "data" / "dataset" / month)
    hundredths = np.array(["variance" in name for name in FEATURES])
    unscaled = PUBLISHED.unscale(cells)
    raw = np.where(hundredths, np.round(unscaled, 2), np.round(unscaled))
    assert np.abs(raw - unscaled).max() < 1e-6
    np.testing.assert_array_equal(PUBLISHED.scale(raw), cells)


def test_the_ends_of_each_range_become_0_and_1() -> None:
    np.testing.assert_allclose(PUBLISHED.scale(PUBLISHED.minimums), np.zeros(58), atol=1e-15)
    np.testing.assert_allclose(PUBLISHED.scale(PUBLISHED.minimums + PUBLISHED.ranges), np.ones(58), rtol=1e-15)


def test_values_outside_the_range_are_not_clipped() -> None:
    assert PUBLISHED.scale(PUBLISHED.minimums + 3 * PUBLISHED.ranges).min() > 2.99
    assert PUBLISHED.scale(PUBLISHED.minimums - PUBLISHED.ranges).max() < -0.99


def test_scaling_takes_one_record_or_many() -> None:
    raw = np.arange(58.0)
    np.testing.assert_array_equal(
        PUBLISHED.scale(np.stack([raw, raw])), np.stack([PUBLISHED.scale(raw), PUBLISHED.scale(raw)])
    )
    np.testing.assert_allclose(PUBLISHED.unscale(PUBLISHED.scale(raw)), raw, rtol=1e-12, atol=1e-6)


@needs_shared
def test_the_recovered_table_is_read_as_the_published_scaler() -> None:
    found = read_scaler(SHARED / "data" / "feature-scaler.json")
    np.testing.assert_array_equal(found.minimums, PUBLISHED.minimums)
    np.testing.assert_array_equal(found.ranges, PUBLISHED.ranges)


def test_a_scaler_written_and_read_is_equal_bit_for_bit(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    scaler = Scaler(generator.normal(size=58), generator.random(58))
    write_scaler(scaler, tmp_path / "scaler.json")
    found = read_scaler(tmp_path / "scaler.json")
    np.testing.assert_array_equal(found.minimums, scaler.minimums)
    np.testing.assert_array_equal(found.ranges, scaler.ranges)


@pytest.mark.parametrize(
    "changed",
    [
        {"min": 10**400},
        {"range": 10**401},
        {"min": -(10**401)},
        {"min": 1e308},
        {"range": 1e308},
        {"range": 1e-308},
        {"range": -1},
        {"min": float("inf")},
    ],
)
def test_impossible_minimums_and_ranges_are_refused(tmp_path: Path, changed: dict[str, float]) -> None:
    entries = [{"feature": name, "min": 0, "range": 1} for name in FEATURES]
    entries[3] |= changed
    (tmp_path / "scaler.json").write_text(json.dumps(entries))
    with pytest.raises(
        InputFileError, match=r"scaler\.json: (is not a scaler|min or range of MOORE_avgInterArrivalTime is invalid)"
    ):
        read_scaler(tmp_path / "scaler.json")


def test_a_fitted_scaler_scales_minimums_to_0_maximums_to_1_and_constants_to_0() -> None:
    raw = np.random.default_rng(1).normal(size=(20, 58))
    raw[:, 7] = 3.5
    scaled = fit_scaler(raw).scale(raw)
    np.testing.assert_allclose(scaled.min(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(np.delete(scaled.max(axis=0), 7), 1, rtol=1e-14)
    assert (scaled[:, 7] == 0).all()
    np.testing.assert_allclose(fit_scaler(raw).unscale(scaled), raw, rtol=1e-12, atol=1e-14)


def test_values_outside_the_range_are_counted_on_both_sides() -> None:
    ends = np.stack([PUBLISHED.minimums, PUBLISHED.minimums + PUBLISHED.ranges])
    assert PUBLISHED.count_out_of_range(ends) == 0
    ends[0, :3] -= 1
    ends[1, 57] += 1
    assert PUBLISHED.count_out_of_range(ends) == 4
