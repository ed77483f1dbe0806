"""Policies over months of the sample, with gradient boosting, which is renewed in a second."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from evaluations.defaults import FROZEN, POLICIES, RECERTIFIED, RENEWED, WATCHED
from evaluations.policies import MonthResult, PolicySettings, run_policy
from evaluations.policy_report import build_policy_table, draw_policies, list_certificates, summarise
from evaluations.renewable_boosting import RenewableBoosting
from tests.evaluations.small_months import rows_of
from utils.errors import InfeasibleError
from utils.labelled_rows import LabelledRows
from utils.results import Evaluation
from utils.schema import Thresholds

ROWS = 400
MONTHS = [LabelledRows(f"2016_{number:02}", *rows_of(number, ROWS)) for number in range(1, 6)]
PAST, LATER = MONTHS[:2], MONTHS[2:]
THRESHOLDS = Thresholds(0.7, 0.8, 1.0, 1.0)


def choose(evaluation: Evaluation) -> Thresholds:
    """Return thresholds that depend on the rows, so that other rows lead to others."""
    return replace(THRESHOLDS, normal_exit_1=float(np.quantile(evaluation.certainty_1, 0.1)))


def refuse(_evaluation: Evaluation) -> Thresholds:
    raise InfeasibleError("too few rows")


SETTINGS = PolicySettings(choose, choose, None, 0.08, 1)


def run(policy: str, later: Sequence[LabelledRows] = LATER, settings: PolicySettings = SETTINGS) -> list[MonthResult]:
    return run_policy(policy, RenewableBoosting(PAST[:1]), PAST, later, settings)


def flip(rows: LabelledRows) -> LabelledRows:
    """Return the rows with the opposite labels."""
    return replace(rows, labels=1 - rows.labels)


def repeat_most_frequent(rows: LabelledRows) -> LabelledRows:
    """Return the rows, half of which have been replaced by the most frequent one."""
    vectors, first, counts = np.unique(rows.features, axis=0, return_index=True, return_counts=True)
    features, labels = rows.features.copy(), rows.labels.copy()
    features[::2], labels[::2] = vectors[counts.argmax()], rows.labels[first[counts.argmax()]]
    return replace(rows, features=features, labels=labels)


@pytest.mark.parametrize("policy", POLICIES)
def test_no_label_of_a_month_influences_how_that_month_or_an_earlier_one_is_decided(policy: str) -> None:
    for number in range(len(LATER)):
        later = [*LATER[:number], flip(LATER[number]), *LATER[number + 1 :]]
        for result, other in zip(run(policy)[: number + 1], run(policy, later)[: number + 1], strict=True):
            assert result.counts.accepted_1 == other.counts.accepted_1
            assert result.counts.alarms == other.counts.alarms


@pytest.mark.parametrize(
    ("policy", "depends"), [(FROZEN, False), (WATCHED, False), (RECERTIFIED, True), (RENEWED, True)]
)
def test_labels_of_past_months_are_used_by_the_policies_that_may(policy: str, *, depends: bool) -> None:
    later = [flip(LATER[0]), *LATER[1:]]
    differs = [a.counts != b.counts for a, b in zip(run(policy)[1:], run(policy, later)[1:], strict=True)]
    assert any(differs) == depends
    assert [result.labels for result in run(policy)] == ([0, ROWS, ROWS] if depends else [0, 0, 0])


def test_only_so_many_labels_of_each_later_month_become_known() -> None:
    settings = replace(SETTINGS, labels_per_month=50)
    assert [result.labels for result in run(RENEWED, settings=settings)] == [0, 50, 50]


def test_the_watch_rejects_what_has_become_more_frequent_and_frozen_does_not_notice() -> None:
    later = [LATER[0], repeat_most_frequent(LATER[1])]
    frozen, watched = run(FROZEN, later), run(WATCHED, later)
    assert frozen[0].counts == watched[0].counts
    assert watched[0].until_alarm == 0 < watched[1].until_alarm <= ROWS
    assert watched[1].counts.accepted < frozen[1].counts.accepted
    assert [result.until_alarm for result in frozen] == [0, 0]


def test_without_a_certificate_the_thresholds_stay_and_it_is_said() -> None:
    results = run(RECERTIFIED, settings=replace(SETTINGS, certify=refuse))
    assert not any(result.is_certified for result in results)
    assert all(result.is_certified for result in run(RECERTIFIED))
    assert "not certified" in list_certificates(results, 0.08)[0]


def test_a_vector_whose_labels_change_is_distrusted_in_the_next_month() -> None:
    base = repeat_most_frequent(LATER[0])
    changed = flip(base)
    results = run(RENEWED, [base, changed, LATER[2]])
    assert [result.distrusted > 0 for result in results][1:] == [False, True]


def test_a_certificate_that_does_not_hold_is_explained() -> None:
    said = list_certificates(run(RECERTIFIED, [LATER[0], flip(LATER[1])]), 0.3)
    assert "the certificate holds" in said[0]
    assert "does not hold; largest change of labels: frequent vector" in said[1]


def test_the_table_has_the_columns_and_shares_that_are_promised() -> None:
    table = build_policy_table([*run(FROZEN), *run(WATCHED)])
    columns = ["network", "seed", "policy", "month", "accepted", "error", "offloaded", "labels", "alarm"]
    assert list(table) == columns
    assert table["month"].tolist() == 2 * [month.name for month in LATER]
    assert table[["accepted", "error", "offloaded"]].to_numpy().max() <= 1
    assert set(table["alarm"]) <= {0, 1}


def test_the_summary_has_means_over_months_and_an_interval_over_seeds() -> None:
    one = run(FROZEN)
    other = [
        replace(result, seed="7", counts=replace(result.counts, correct_1=result.counts.correct_1 - 8))
        for result in one
    ]
    (alone,) = summarise(one).to_dict("records")
    assert alone["error %"] == pytest.approx(100 * np.mean([result.counts.error for result in one]))
    assert alone["worst %"] == pytest.approx(100 * max(result.counts.error for result in one))
    assert np.isnan(alone["±"])
    (both,) = summarise([*one, *other]).to_dict("records")
    assert both["seeds"] == 2 and both["±"] > 0 and both["error %"] > alone["error %"]


def test_the_picture_has_a_line_for_each_policy() -> None:
    figure = draw_policies([*run(FROZEN), *run(WATCHED)])
    assert [line.get_label() for line in figure.axes[0].get_lines()] == [FROZEN, WATCHED]
