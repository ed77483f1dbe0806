"""Simulate months of labelled records, for a dataset that may be redistributed.

A month is a mix of conversations on one link during a quarter of an hour. The kinds, their shares and the errors of
the labels follow measurements of the published months; no row is taken from them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dataset import simulated_conversations as conversations
from dataset.defaults import LABELS, SHARES
from dataset.packets.packets import Packets
from dataset.records.flow_features import compute_records
from dataset.records.scaling import PUBLISHED
from dataset.simulated_conversations import SECOND, Behaviour
from utils.records import Records
from utils.results import write_table
from utils.schema import ATTACK, CLASS, FEATURES, NORMAL

MONTHS: Final = 12

_ICMP, _TCP, _UDP = 1, 6, 17
_CAPTURE_SECONDS: Final = 900
_HOUR_OF_CAPTURE: Final = 5  # UTC
_SURGE_FROM: Final = 11
_FIRST_A: Final = 0xC612_0000  # 198.18.0.0/15, reserved for network tests
_HOSTS_A: Final = 1 << 16
_FIRST_B: Final = 0x0A00_0000  # 10.0.0.0/8


@dataclass(frozen=True)
class Kind:
    """A kind of conversation and its share of a thousand conversations.

    Attributes:
        protocol: of the IPv4 header.
        truth: NORMAL or ATTACK, before errors of the labels.
        behaviour: draws one conversation.
        january: share in January.
        december: share in December; the months between are interpolated linearly.
        surge: added in November and December.
    """

    protocol: int
    truth: int
    behaviour: Behaviour
    january: float
    december: float
    surge: float = 0

    def compute_share(self, month: int) -> float:
        """Return the share of this kind in about a thousand conversations of a month (1 to 12)."""
        fraction = (month - 1) / (MONTHS - 1)
        usual = (1 - fraction) * self.january + fraction * self.december
        return usual + self.surge if month >= _SURGE_FROM else usual


KINDS: Final = (
    Kind(_ICMP, NORMAL, conversations.draw_ping, 475, 455, -70),
    Kind(_UDP, NORMAL, conversations.draw_padded_datagram, 20, 20),
    Kind(_UDP, NORMAL, conversations.draw_dns_lookup, 4, 6),
    Kind(_TCP, NORMAL, conversations.draw_web_session, 4, 8, 85),
    Kind(_TCP, NORMAL, conversations.hide_one_direction(conversations.draw_web_session), 4, 6, 30),
    Kind(_TCP, NORMAL, conversations.draw_unanswered_connection, 6, 8),
    Kind(_TCP, ATTACK, conversations.draw_syn_scan, 165, 170, -30),
    Kind(_TCP, ATTACK, conversations.draw_unanswered_connection, 62, 105),
    Kind(_TCP, ATTACK, conversations.draw_syn_flood, 8, 8),
    Kind(_TCP, ATTACK, conversations.draw_backscatter, 22, 14),
    Kind(_TCP, ATTACK, conversations.draw_tcp_keepalive, 16, 8),
    Kind(_UDP, ATTACK, conversations.draw_udp_scan, 95, 60),
    Kind(_UDP, ATTACK, conversations.draw_padded_datagram, 4, 6, 35),
    Kind(_UDP, ATTACK, conversations.draw_udp_burst, 30, 20),
    Kind(_UDP, ATTACK, conversations.draw_amplification, 8, 12),
    Kind(_TCP, ATTACK, conversations.draw_login_attempts, 14, 22),
    Kind(_TCP, ATTACK, conversations.draw_bulk_transfer, 12, 14),
    Kind(_TCP, ATTACK, conversations.hide_one_direction(conversations.draw_login_attempts), 30, 18),
    Kind(_TCP, ATTACK, conversations.hide_one_direction(conversations.draw_bulk_transfer), 14, 10),
)

# The published labels come from anomaly detectors, which make both kinds of error, and not equally in all months.
_FALSE_ALARMS: Final = (0.04, 0.07, 0.06, 0.04, 0.07, 0.13, 0.08, 0.03, 0.06, 0.07, 0.13, 0.11)
_MISSED_ATTACKS: Final = (0.05, 0.06, 0.05, 0.05, 0.06, 0.09, 0.07, 0.06, 0.07, 0.08, 0.12, 0.12)


_SHIFTED: Final = (
    Kind(_TCP, ATTACK, conversations.draw_syn_scan, 430, 430),
    Kind(_TCP, NORMAL, conversations.draw_syn_scan, 190, 190),
)
"""Added from September on if the shares drift: lone SYNs become far more frequent, and less often attacks."""
_SHIFTED_FROM: Final = 9
_FALSE_ALARMS_OF_DRIFT: Final = {6: 0.3}
"""Replace the rates of these months if the labels drift: equal vectors are labelled as attacks more often."""


def simulate_month(
    month: int, rows: int, seed: int, drift: Collection[str] = ()
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return scaled features and labels of one month, in order of time.

    Args:
        month: 1 to 12.
        rows: number of rows.
        seed: of all random choices.
        drift: of ``dataset.defaults.DRIFTS``, what drifts more than in the bundled sample. ``SHARES``: from September
            on, lone SYNs are far more frequent, and less often attacks. ``LABELS``: in June, the labels
            of frequent vectors change while their shares stay.

    Returns:
        (rows, 58) float32 and (rows,) int64.
    """
    random = Random(f"{seed}/{month}")
    kinds_of_month = [*KINDS, *(_SHIFTED if SHARES in drift and month >= _SHIFTED_FROM else ())]
    kinds = random.choices(kinds_of_month, [kind.compute_share(month) for kind in kinds_of_month], k=rows)
    records, truth = _simulate_records(kinds, month, random)
    # A conversation that continues in the next window gives another record, so there are more records than rows.
    kept = sorted(random.sample(range(len(records)), rows))
    false_alarms = _FALSE_ALARMS[month - 1]
    if LABELS in drift:
        false_alarms = _FALSE_ALARMS_OF_DRIFT.get(month, false_alarms)
    rates = {NORMAL: false_alarms, ATTACK: _MISSED_ATTACKS[month - 1]}
    labels = [_draw_label(int(truth[row]), rates, random) for row in kept]
    return PUBLISHED.scale(records.features[kept]).astype(np.float32), np.array(labels, dtype=np.int64)


def write_month(features: NDArray[np.float32], labels: NDArray[np.int64], path: Path) -> None:
    """Write a dataset CSV of scaled features (N, 58) and labels (N,), completely or not at all.

    Nine significant digits identify a float32, so a reader gets exactly the same numbers.

    Raises:
        InputFileError: the file cannot be written.
    """
    write_table(pd.DataFrame(features, columns=list(FEATURES)).assign(**{CLASS: labels}), path, float_format="%.9g")


def compute_repeated_share(features: NDArray[np.float32]) -> float:
    """Return the share of rows (N, 58) that repeat an earlier row."""
    return 1 - len(np.unique(features, axis=0)) / len(features)


def _simulate_records(kinds: list[Kind], month: int, random: Random) -> tuple[Records, NDArray[np.int64]]:
    """Return the records of one conversation of each kind, and the true class of each record."""
    start = int(datetime(2016, month, 1, _HOUR_OF_CAPTURE, tzinfo=UTC).timestamp()) * SECOND
    rows = []
    for number, kind in enumerate(kinds):
        begin = start + random.randrange(_CAPTURE_SECONDS * SECOND)
        a = _FIRST_A + random.randrange(_HOSTS_A)
        b = _FIRST_B + number  # unique, so that conversations never share a record
        for packet in kind.behaviour(random):
            ends = (b, a) if packet.by_b else (a, b)
            rows.append((begin + packet.at, *ends, packet.size, kind.protocol, packet.flags, kind.truth))
    rows.sort()
    *columns, truth = (np.array(column) for column in zip(*rows, strict=True))
    columns.append(np.zeros(len(rows)))  # conversations have no ports
    dtypes = (np.int64, np.uint32, np.uint32, np.int64, np.uint8, np.uint8, np.uint32)
    packets = Packets(*(column.astype(dtype) for column, dtype in zip(columns, dtypes, strict=True)))
    records = compute_records(packets)
    return records, truth[records.first_packet]


def _draw_label(truth: int, rates: Mapping[int, float], random: Random) -> int:
    """Return the label of a record, which is wrong at the rate of its true class."""
    return 1 - truth if random.random() < rates[truth] else truth
