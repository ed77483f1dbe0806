"""Min-max scalers: raw flow features to network inputs and back.

The published scaler's minimums and ranges were recovered from the published CSVs themselves (folder ``dataset/`` of the
GitHub repository jasimioni/ids-ee-offload): un-scaled, their cells are whole numbers, variances in hundredths, and
scaling these again gives every cell back bit for bit. Traffic unlike that of the published months leaves [0, 1]; it is
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
_MOST: Final = 1e30
"""Of a minimum or range: no feature comes near it, and nothing that is computed with it overflows."""


@dataclass(frozen=True)
class Scaler:
    """What of each feature becomes 0 and 1.

    Attributes:
        minimums: (58,) float64, the raw values that become 0, in the order of ``schema.FEATURES``.
        ranges: (58,) float64, how far above them lie the raw values that become 1; of a constant feature, 0, and then
            its one value becomes 0.
    """

    minimums: FloatArray
    ranges: FloatArray

    def scale(self, raw: FloatArray) -> FloatArray:
        """Return raw features (..., 58) scaled, with the published scaler bit for bit as published; not clipped."""
        # A product and a sum in place of (raw - minimum) / range: that differs in the last bits, and the published
        # cells were computed in this way.
        factors = 1 / self._divisors()
        scaled: FloatArray = raw * factors + -self.minimums * factors
        return scaled

    def unscale(self, scaled: FloatArray) -> FloatArray:
        """Return scaled features (..., 58) raw again, up to the rounding of float64."""
        raw: FloatArray = scaled * self._divisors() + self.minimums
        return raw

    def out_of_range(self, raw: FloatArray) -> int:
        """Return how many values of raw features (N, 58) lie outside what the scaler was made from."""
        return int(((raw < self.minimums) | (raw > self.minimums + self.ranges)).sum())

    def _divisors(self) -> FloatArray:
        return np.where(self.ranges > 0, self.ranges, 1.0)


def fitted(raw: FloatArray) -> Scaler:
    """Return the scaler that takes raw features (N, 58), N of at least 1, to [0, 1]."""
    minimums = raw.min(axis=0)
    return Scaler(minimums, raw.max(axis=0) - minimums)


def read_scaler(path: Path) -> Scaler:
    """Read a scaler: a JSON list of objects with the keys feature, min and range, one for each feature.

    Raises:
        InputFileError: the file is missing, or is no such list.
    """
    if check_readable(path, InputFileError).stat().st_size > _LARGEST_FILE:
        raise InputFileError(f"{path}: is larger than any scaler; write one with --fit-scaler")
    try:
        entries = json.loads(path.read_bytes())
        table = {entry["feature"]: (float(entry["min"]), float(entry["range"])) for entry in entries}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as problem:
        raise InputFileError(
            f"{path}: is no scaler, a JSON list of objects with feature, min and range; write one with --fit-scaler"
        ) from problem
    missing = [name for name in FEATURES if name not in table]
    if missing or len(entries) != FEATURE_COUNT:
        raise InputFileError(f"{path}: must hold each of the {FEATURE_COUNT} features once; {_told(missing, table)}")
    values = np.array([table[name] for name in FEATURES])
    least, spread = values.T
    wrong = ~((np.abs(least) <= _MOST) & (spread >= 0) & (spread <= _MOST)) | ((spread > 0) & (spread < 1 / _MOST))
    if wrong.any():
        raise InputFileError(
            f"{path}: {FEATURES[int(wrong.argmax())]} has no finite min, or no range of 0 or more, within {_MOST:g}"
        )
    return Scaler(values[:, 0], values[:, 1])


def _told(missing: list[str], table: dict[str, tuple[float, float]]) -> str:
    return f"it lacks {missing[0]}" if missing else f"it holds others, or one twice, among {len(table)}"


def write_scaler(scaler: Scaler, path: Path) -> None:
    """Write a scaler as ``read_scaler`` reads it, whole or not at all.

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
    # a to b, b to a
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
        *(_ALL_STEPS + _ALL_STEPS + _STEPS_B),  # all packets, a to b, b to a; of each, the seven statistics
        *(_SIZES + _SIZES + _SIZES_B),
        *(pair for directions in _COUNTERS for pair in directions),
    ],
    dtype=np.float64,
)

PUBLISHED: Final = Scaler(_TABLE[:, 0], _TABLE[:, 1])
"""The scaler of the published CSVs."""
