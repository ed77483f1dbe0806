"""The min-max scaler of the published dataset CSVs: raw flow features to network inputs and back.

The minimums and ranges were recovered from the published CSVs themselves (folder ``dataset/`` of the GitHub
repository jasimioni/ids-ee-offload): un-scaled, their cells are whole numbers, variances in hundredths, and
scaling these again gives every cell back bit for bit. Traffic unlike that of the published months leaves
[0, 1]; it is not clipped.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

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
_TABLE: Final[NDArray[np.float64]] = np.array(
    [
        *(_ALL_STEPS + _ALL_STEPS + _STEPS_B),  # all packets, a to b, b to a; of each, the seven statistics
        *(_SIZES + _SIZES + _SIZES_B),
        *(pair for directions in _COUNTERS for pair in directions),
    ],
    dtype=np.float64,
)

MINIMUMS: Final = _TABLE[:, 0]
"""(58,) float64, the raw values that become 0, in the order of ``schema.FEATURES``."""

RANGES: Final = _TABLE[:, 1]
"""(58,) float64, how far above them lie the raw values that become 1."""

# A product and a sum in place of (raw - minimum) / range: that differs in the last bits, and the published
# cells were computed in this way.
_FACTORS: Final = 1 / RANGES
_OFFSETS: Final = -MINIMUMS * _FACTORS


def scale(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return raw features (..., 58) scaled as in the published CSVs, bit for bit; not clipped."""
    scaled: NDArray[np.float64] = raw * _FACTORS + _OFFSETS
    return scaled


def unscale(scaled: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scaled features (..., 58) raw again, up to the rounding of float64."""
    raw: NDArray[np.float64] = scaled * RANGES + MINIMUMS
    return raw
