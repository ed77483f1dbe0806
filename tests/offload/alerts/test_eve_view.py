"""Events formatted for people."""

import re

import pytest

from dataset.packets.traffic_counts import TrafficCounts
from offload.alerts.alert_limit import AlertLimit
from offload.alerts.eve import make_alerts, make_stats
from offload.alerts.eve_view import format_alert, format_summary
from tests.offload.alerts.test_eve import (
    NO_LIMIT,
    NOW,
    OWN_COUNTS,
    SECOND,
    all_decided,
    decided_of,
    records_of,
    some_stats,
)

ESCAPES = re.compile(r"\x1b\[\d+m")


@pytest.mark.parametrize("rejected", [True, False])
def test_an_alert_is_one_line_with_time_addresses_and_decider(rejected: bool) -> None:
    (alert,) = make_alerts(all_decided(records_of(1), rejected=rejected), AlertLimit(NO_LIMIT, 0))
    line = format_alert(alert, colour=False)
    for part in (alert["timestamp"][11:19], alert["src_ip"], alert["dest_ip"], alert["proto"],
                 "rejected" if rejected else "attack", f"exit {alert['early_exit']['exit']}"):  # fmt: skip
        assert part in line
    assert line.isprintable()


def test_colour_does_not_change_the_text() -> None:
    for alert in make_alerts(decided_of(records_of(40)), AlertLimit(NO_LIMIT, 0)):
        painted = format_alert(alert, colour=True)
        assert ESCAPES.search(painted)
        assert ESCAPES.sub("", painted) == format_alert(alert, colour=False)
    event = some_stats()
    assert ESCAPES.sub("", format_summary(event, colour=True)) == format_summary(event, colour=False)


def test_the_summary_has_all_figures_and_fits_the_screen() -> None:
    screen = format_summary(some_stats(late=30, left_out=4, dropped=200), colour=False)
    for number in (9, *(OWN_COUNTS[name] for name in ("records", "alerts", "offloaded", "rejected")), 234):
        assert f" {number} " in screen
    assert len(screen.splitlines()) <= 24
    assert max(map(len, screen.splitlines())) <= 80


def test_a_summary_of_no_traffic_divides_nothing_by_zero() -> None:
    nothing = make_stats(TrafficCounts(), dict.fromkeys(OWN_COUNTS, 0), NOW * SECOND, 0)
    assert "of no records" in format_summary(nothing, colour=False)
