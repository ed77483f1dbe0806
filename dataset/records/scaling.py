"""Min-max scalers: from raw features to network inputs and back.

The minimums and ranges of the published scaler were recovered from the published CSVs (folder ``dataset/`` of the
GitHub repository jasimioni/ids-ee-offload): unscaled, all cells are whole numbers, or hundredths for variances, and
scaling these numbers reproduces every cell bit for bit. Values beyond the published range lie outside [0, 1]; they are
not clipped.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from utils.errors import InputFileError
from utils.files import check_readable, replacing
from utils.schema import FEATURE_COUNT, FEATURES

FloatArray = NDArray[np.float64]

_KEYS: Final = {"feature", "min", "range"}
_LARGEST_FILE: Final = 2**20
_REMEDY: Final = "write one with --fit-scaler"
_MOST: Final = 1e30
"""Greatest minimum and range: far above all features, and small enough that no result overflows."""


@dataclass(frozen=True)
class Scaler:
    """The raw values that are scaled to 0 and to 1.

    Attributes:
        minimums: (58,) float64, raw values that become 0, in the order of ``schema.FEATURES``.
        ranges: (58,) float64, added to the minimums: raw values that become 1; 0 for a constant feature, whose value
            becomes 0.
    """

    minimums: FloatArray
    ranges: FloatArray

    def scale(self, raw: FloatArray) -> FloatArray:
        """Return raw features (..., 58) scaled; ``PUBLISHED`` reproduces the published cells bit for bit."""
        # (raw - minimum) / range differs in the last bits; the published cells were computed in this way.
        factors = 1 / self._divisors()
        scaled: FloatArray = raw * factors + -self.minimums * factors
        return scaled

    def unscale(self, scaled: FloatArray) -> FloatArray:
        """Return the raw values of scaled features (..., 58), up to the rounding of float64."""
        raw: FloatArray = scaled * self._divisors() + self.minimums
        return raw

    def count_out_of_range(self, raw: FloatArray) -> int:
        """Return the number of raw values (N, 58) outside the range of the scaler."""
        return int(((raw < self.minimums) | (raw > self.minimums + self.ranges)).sum())

    def _divisors(self) -> FloatArray:
        return np.where(self.ranges > 0, self.ranges, 1.0)


def fit_scaler(raw: FloatArray) -> Scaler:
    """Return the scaler that scales raw features (N, 58), N > 0, to [0, 1]."""
    minimums = raw.min(axis=0)
    return Scaler(minimums, raw.max(axis=0) - minimums)


def read_scaler(path: Path) -> Scaler:
    """Read a scaler: a JSON list of objects with the keys feature, min and range, one for each feature.

    Raises:
        InputFileError: the file is missing or not a scaler.
    """
    if check_readable(path).stat().st_size > _LARGEST_FILE:
        raise InputFileError(f"{path}: is too large for a scaler; {_REMEDY}")
    try:
        entries = json.loads(path.read_bytes())
        table = {entry["feature"]: (float(entry["min"]), float(entry["range"])) for entry in entries}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as problem:
        raise InputFileError(
            f"{path}: is not a scaler, a JSON list of objects with feature, min and range; {_REMEDY}"
        ) from problem
    missing = [name for name in FEATURES if name not in table]
    if missing or len(entries) != FEATURE_COUNT:
        found = f"{missing[0]} is missing" if missing else f"it holds {len(entries)} entries"
        raise InputFileError(f"{path}: must hold each of the {FEATURE_COUNT} features once, but {found}; {_REMEDY}")
    values = np.array([table[name] for name in FEATURES])
    least, spread = values.T
    wrong = ~((np.abs(least) <= _MOST) & (spread >= 0) & (spread <= _MOST)) | ((spread > 0) & (spread < 1 / _MOST))
    if wrong.any():
        raise InputFileError(
            f"{path}: min or range of {FEATURES[int(wrong.argmax())]} is invalid (within ±{_MOST:g}); {_REMEDY}"
        )
    return Scaler(values[:, 0], values[:, 1])


def write_scaler(scaler: Scaler, path: Path) -> None:
    """Write a scaler in the format of ``read_scaler``, completely or not at all.

    Raises:
        InputFileError: the file cannot be written.
    """
    columns = zip(FEATURES, scaler.minimums.tolist(), scaler.ranges.tolist(), strict=True)
    entries = [{"feature": name, "min": least, "range": spread} for name, least, spread in columns]
    with replacing(path) as partial:
        partial.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


_ALL_STEPS: Final = ((2, 1998), *((0, 14_953_481),) * 5, (0, 1_068_837_632))
_STEPS_B: Final = ((2, 1998), *((0, 14_812_096),) * 5, (0, 1_061_544_960))
_SIZES: Final = (*((60, 1454),) * 6, (0, 1_057_058))
_SIZES_B: Final = ((60, 1940), *((0, 1514),) * 5, (0, 1_057_058))
_COUNTERS: Final = (
    # each: a to b, b to a
    ((1, 2_942_523), (0, 73_567)),  # packets
    ((0, 82_128), (0, 73_546)),  # ACK
    ((0, 79), (0, 1)),  # pure ACK
    ((0, 31_069), (0, 12_144)),  # PSH
    ((0, 1092), (0, 59)),  # SYN
    ((0, 803), (0, 45)),  # FIN
    ((0, 1), (0, 1)),  # URG
    ((-7130, 12_929), (-7130, 12_929)),  # throughput
)
_TABLE: Final[FloatArray] = np.array(
    [
        *(_ALL_STEPS + _ALL_STEPS + _STEPS_B),  # seven statistics each of all packets, a to b, b to a
        *(_SIZES + _SIZES + _SIZES_B),
        *(pair for directions in _COUNTERS for pair in directions),
    ],
    dtype=np.float64,
)

PUBLISHED: Final = Scaler(_TABLE[:, 0], _TABLE[:, 1])
"""The scaler of the published CSVs."""
