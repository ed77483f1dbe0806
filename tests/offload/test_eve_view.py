"""Events as people read them."""

import re
from dataclasses import replace

import pytest

from offload.alert_limit import AlertLimit
from offload.eve import alerts, stats
from offload.eve_view import alert_line, summary_screen
from tests.offload.test_eve import NO_LIMIT, NOW, SECOND, all_decided, records_of, some_counts, verdicts_of

ESCAPES = re.compile(r"\x1b\[\d+m")


@pytest.mark.parametrize("rejected", [True, False])
def test_an_alert_is_one_line_that_says_when_who_and_who_decided(rejected: bool) -> None:
    (alert,) = alerts(records_of(1), all_decided(1, rejected=rejected), AlertLimit(NO_LIMIT, 0))
    line = alert_line(alert, colour=False)
    for part in (alert["timestamp"][11:19], alert["src_ip"], alert["dest_ip"], alert["proto"],
                 "rejected" if rejected else "attack", f"exit {alert['early_exit']['exit']}"):  # fmt: skip
        assert part in line
    assert line.isprintable()


def test_colour_changes_nothing_but_the_colour() -> None:
    records = records_of(40)
    for alert in alerts(records, verdicts_of(40), AlertLimit(NO_LIMIT, 0)):
        painted = alert_line(alert, colour=True)
        assert ESCAPES.search(painted)
        assert ESCAPES.sub("", painted) == alert_line(alert, colour=False)
    event = stats(some_counts(), NOW * SECOND, 5)
    assert ESCAPES.sub("", summary_screen(event, colour=True)) == summary_screen(event, colour=False)


def test_the_summary_has_every_figure_and_fits_a_screen() -> None:
    counts = some_counts(late=3, left_out=4)
    screen = summary_screen(stats(counts, NOW * SECOND, 5), colour=False)
    for number in (counts.packets, counts.records, counts.alerts, counts.offloaded, counts.rejected):
        assert f" {number} " in screen
    assert f" {3 + 4 + (counts.kernel_drops or 0)} " in screen
    assert len(screen.splitlines()) <= 24
    assert max(map(len, screen.splitlines())) <= 80


def test_nothing_seen_is_no_division_by_zero() -> None:
    nothing = replace(some_counts(), records=0, offloaded=0, rejected=0)
    assert "of no records" in summary_screen(stats(nothing, NOW * SECOND, 0), colour=False)
