"""Defaults that command lines show and the library uses; imports the standard library alone."""

from typing import Final

MOST_RECORDS: Final = 200_000
"""Most records in one window of live traffic."""

SHARES: Final = "shares"
LABELS: Final = "labels"
DRIFTS: Final = (SHARES, LABELS)
"""What can drift more in simulated months; see ``dataset.simulated_months``."""
