"""Define names that the stages share: feature, label and result columns, and the four thresholds.

This module imports only the standard library, so that ``--help`` of every script is fast.
"""

from dataclasses import dataclass
from typing import Final

_STATISTICS: Final = ("minimum", "quartileFirst", "median", "avg", "quartileThird", "maximum", "variance")
_QUANTITIES: Final = ("InterArrivalTime", "DataWire")
_PACKET_SETS: Final = ("", "_a_b", "_b_a")
_COUNTERS: Final = (
    "total_packets",
    "ack_pkts_sent",
    "pure_acks_sent",
    "pushed_pkts_sent",
    "syn_pkts_sent",
    "fin_pkts_sent",
    "urgent_pkts_sent",
    "throughput",
)

FEATURES: Final[tuple[str, ...]] = tuple(
    f"MOORE_{statistic}{quantity}{packets}"
    for quantity in _QUANTITIES
    for packets in _PACKET_SETS
    for statistic in _STATISTICS
) + tuple(f"MOORE_{counter}{direction}" for counter in _COUNTERS for direction in _PACKET_SETS[1:])
"""The 58 feature columns, in the order of the published CSVs."""

FEATURE_COUNT: Final = len(FEATURES)

IMAGE_SIDE: Final = 8
"""Height and width of the image that a network gets: the features, zero-padded to 64 values, in row-major order."""

IDENTITY: Final = ("window_start", "address_a", "address_b")
"""Columns that identify a record, in addition to the features; no stage computes with them."""

AUTO: Final = "auto"
"""Value of an option with which the program chooses for the user."""

CLASS: Final = "class"
NORMAL: Final = 0
ATTACK: Final = 1
CLASS_NAMES: Final = ("normal", "attack")
CLASS_COUNT: Final = len(CLASS_NAMES)

EVALUATION_COLUMNS: Final = (
    "y",
    "y_exit_1",
    "cnf_exit_1",
    "bb_time_exit_1",
    "exit_time_exit_1",
    "y_exit_2",
    "cnf_exit_2",
    "bb_time_exit_2",
    "exit_time_exit_2",
)
"""Evaluation CSV of a network with two exits; times in seconds per event."""

SINGLE_EXIT_EVALUATION_COLUMNS: Final = ("y", "y_pred", "cnf", "avg_time")
"""Evaluation CSV of a single-exit baseline; ``avg_time`` in seconds per event."""

INFERENCE_COLUMNS: Final = (
    "exit_1_certainty",
    "exit_1_prediction",
    "exit_2_certainty",
    "exit_2_prediction",
)

OFFLOAD_COLUMNS: Final = (*INFERENCE_COLUMNS, "final_certainty", "final_prediction", CLASS)

NOT_ASKED: Final = "N/A"
"""Content of a cell in an offload CSV if exit 2 was not computed, or if the class is unknown."""

REJECTED: Final = "rejected"
"""Final prediction and decider of an event whose certainty at exit 2 is below the threshold."""

DECIDER_COLUMNS: Final = ("decider", "reason")
"""Additional columns of an offload CSV: which part decided the event, and why."""

RELEASE_COLUMN: Final = "release"
"""Further column if the client runs releases: the name of the one that decided the event."""

EDGE: Final = "edge"
CLOUD: Final = "cloud"
LOCAL: Final = "local"
"""Deciders: exit 1, exit 2 at a worker, exit 2 on the edge itself."""

CERTAIN: Final = "certain"
UNCERTAIN: Final = "uncertain"
DRIFT: Final = "drift"
"""Reasons for a verdict, besides the codes of a failed request."""
"""Reasons of the decider for an event that is accepted, and for one that is rejected."""


@dataclass(frozen=True)
class Thresholds:
    """The lowest certainties at which the prediction of an exit is accepted, for each predicted class.

    The fields have the order of the four columns of thresholds in an NSGA-II result file.
    """

    normal_exit_1: float
    attack_exit_1: float
    normal_exit_2: float
    attack_exit_2: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"threshold {name} is {value}; a certainty lies between 0 and 1")

    def make_options(self) -> list[str]:
        """Return the command-line options that set these thresholds; see ``utils.cli.add_thresholds``."""
        values = {name.replace("_exit_", "-exit"): value for name, value in vars(self).items()}
        return [word for name, value in values.items() for word in (f"--{name}-min-certainty", repr(value))]


DEFAULT_THRESHOLDS: Final = Thresholds(0.95, 0.95, 0.98, 0.98)
"""The thresholds that are used if none are given."""
