from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from utils.drift_watch import ALTERNATIVES, Alarm, DriftWatch, watch_rows
from utils.schema import FEATURE_COUNT
from utils.traffic_reference import FloatArray, Reference, make_reference

SHARES = np.array([0.4, 0.11, 0.02, 0.27, 0.2])
REFERENCE = Reference(np.eye(3, FEATURE_COUNT, dtype=np.float32), np.array([0.5]), SHARES, 5000, 0.06)


def observe(watch: DriftWatch, categories: NDArray[np.intp], batch: int) -> list[str]:
    """Watch events of the given categories in batches; return what the alarms say."""
    said = []
    for start in range(0, len(categories), batch):
        found, counts = np.unique(categories[start : start + batch], return_counts=True)
        said += [alarm.describe() for alarm in watch.observe(found, counts)]
    return said


def observe_rows(watch: DriftWatch, features: FloatArray, scores: NDArray[np.floating], batch: int) -> list[Alarm]:
    """Watch rows (N, 58) with their scores (N,) in batches; return all alarms."""
    categories = watch.reference.find_categories(features, scores)
    alarms = []
    for start in range(0, len(categories), batch):
        found, counts = np.unique(categories[start : start + batch], return_counts=True)
        alarms += watch.observe(found, counts)
    return alarms


def draw(generator: np.random.Generator, events: int, shares: NDArray[np.float64] = SHARES) -> NDArray[np.intp]:
    return generator.choice(len(shares), events, p=shares / shares.sum())


def test_the_evidence_is_the_weighted_sum_of_likelihood_ratios_over_all_beginnings_of_the_change() -> None:
    categories, watch = draw(np.random.default_rng(1), 60), DriftWatch(REFERENCE)
    observe(watch, categories, batch=1)
    limit, alternative = SHARES[1] + 0.06, SHARES[1] + 0.06 + ALTERNATIVES[2]
    ratios = np.where(categories == 1, alternative / limit, (1 - alternative) / (1 - limit))
    expected = sum(np.prod(ratios[start:]) / ((start + 1) * (start + 2)) for start in range(len(ratios)))
    assert np.exp(watch._evidence[0, 1, 2]) == pytest.approx(expected)
    limit, alternative = SHARES[0] - 0.06, SHARES[0] - 0.06 - ALTERNATIVES[1]
    ratios = np.where(categories == 0, alternative / limit, (1 - alternative) / (1 - limit))
    expected = sum(np.prod(ratios[start:]) / ((start + 1) * (start + 2)) for start in range(len(ratios)))
    assert np.exp(watch._evidence[1, 0, 1]) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 100])
def test_alarms_are_false_no_more_often_than_stated_while_shares_are_at_the_border_of_the_tolerance(batch: int) -> None:
    generator, runs = np.random.default_rng(2), 200 if batch > 1 else 40
    at_the_border = SHARES + np.array([0.06, 0.06, -0.02, -0.06, -0.04])
    alarms = sum(
        bool(observe(DriftWatch(REFERENCE, 0.1), draw(generator, 4000, at_the_border), batch)) for _ in range(runs)
    )
    assert alarms <= 0.1 * runs + 3 * np.sqrt(0.09 * runs)


@pytest.mark.parametrize("quiet", [0, 50_000])
def test_a_share_that_triples_is_found_within_a_few_hundred_events_also_after_a_long_quiet_time(quiet: int) -> None:
    generator, watch = np.random.default_rng(3), DriftWatch(REFERENCE)
    assert observe(watch, draw(generator, quiet), 100) == []
    changed = draw(generator, 2000, np.array([0.3, 0.32, 0.02, 0.2, 0.16]))
    (said, *_more) = observe(watch, changed, 50)
    assert said.startswith("drift after ") and "and 11 % in the reference" in said
    assert int(said.split()[2]) - quiet <= 800
    assert 20 <= int(said.partition("frequent vector 2 is ")[2].split()[0]) <= 40
    assert watch.risen.tolist() == [False, True, False, False, False]


def test_a_share_that_falls_is_an_alarm_as_well_but_has_not_risen() -> None:
    watch = DriftWatch(REFERENCE)
    (said, *_more) = observe(watch, draw(np.random.default_rng(4), 3000, np.array([0.4, 0.11, 0.02, 0.0, 0.2])), 100)
    assert "a range of scores of exit 1 has 0 % of the latest events, and 27 % in the reference" in said
    assert watch.fallen.tolist() == [False, False, False, True, False]
    assert not watch.risen[3]


def test_each_change_is_reported_once() -> None:
    watch, only = DriftWatch(REFERENCE), np.ones(5000, dtype=np.intp)
    said = observe(watch, only, 100)
    assert len(said) == len(set(said)) == 4  # vector 2 has risen; the third could not fall by more than the tolerance
    assert (watch.risen | watch.fallen).tolist() == [True, True, False, True, True]


def test_an_empty_batch_is_no_event() -> None:
    watch = DriftWatch(REFERENCE)
    assert watch.observe(np.empty(0, dtype=np.intp), np.empty(0, dtype=np.int64)) == []
    assert watch.events == 0


def test_rows_that_are_the_reference_give_no_alarm_and_one_vector_alone_does() -> None:
    generator = np.random.default_rng(5)
    drawn = np.concatenate((np.ones((500, FEATURE_COUNT)), generator.random((4500, FEATURE_COUNT))))
    features, scores = generator.permutation(drawn).astype(np.float32), generator.random(5000).astype(np.float32)
    reference = make_reference(features, scores, 0.06)
    assert observe_rows(DriftWatch(reference), features, scores, 100) == []
    alarms = observe_rows(DriftWatch(reference), np.ones((300, FEATURE_COUNT), dtype=np.float32), scores[:300], 100)
    assert (alarms[0].category, alarms[0].is_vector, alarms[0].share) == (0, True, 1.0)


def make_rows(categories: NDArray[np.intp]) -> tuple[FloatArray, NDArray[np.float64]]:
    """Return features (N, 58) and scores (N,) of events of the given categories of ``REFERENCE``."""
    features = np.zeros((len(categories), FEATURE_COUNT), dtype=np.float32)
    is_vector = categories < len(REFERENCE.vectors)
    features[is_vector] = REFERENCE.vectors[categories[is_vector]]
    return features, np.where(categories == 4, 0.8, 0.2)


@pytest.mark.parametrize("batch", [1, 64, 5000])
@pytest.mark.parametrize("distrusted", [(), (2,)])
def test_watched_rows_are_refused_as_by_a_watch_that_sees_them_batch_by_batch(
    batch: int, distrusted: tuple[int, ...]
) -> None:
    generator, reference = np.random.default_rng(6), replace(REFERENCE, distrusted=distrusted)
    usual, changed = draw(generator, 800), draw(generator, 700, np.array([0.3, 0.4, 0.02, 0.2, 0.08]))
    categories = np.concatenate((usual, changed))
    refused, until_alarm = watch_rows(reference, *make_rows(categories), batch)
    watch, expected, first = DriftWatch(reference), list[bool](), 0
    for start in range(0, len(categories), batch):
        part = categories[start : start + batch]
        found, counts = np.unique(part, return_counts=True)
        alarms = watch.observe(found, counts)
        first = first or (watch.events if alarms else 0)
        expected += [bool(watch.risen[one]) or int(one) in distrusted for one in part]
    assert refused.tolist() == expected
    assert until_alarm == first > 0
    assert refused[categories == 1][-1], "the share of this vector has risen"


def test_rows_like_the_reference_are_refused_only_where_it_distrusts_them() -> None:
    categories = draw(np.random.default_rng(7), 2000)
    refused, until_alarm = watch_rows(replace(REFERENCE, distrusted=(0, 2)), *make_rows(categories), 100)
    assert until_alarm == 0
    assert (refused == np.isin(categories, [0, 2])).all()
