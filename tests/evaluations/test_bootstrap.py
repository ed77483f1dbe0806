import math

import numpy as np
import pytest

from evaluations.bootstrap import Counts, compute_errors, count, find_interval, resample_errors
from utils.decision import Decisions


def counts_of(wrong: list[list[list[int]]], accepted: list[list[list[int]]] | None = None) -> Counts:
    """Return counts by system, network and unit; each unit has one accepted row unless said otherwise."""
    of = np.array(wrong, dtype=np.float64)
    return Counts(np.ones_like(of) if accepted is None else np.array(accepted, dtype=np.float64), of)


def test_rows_are_counted_by_their_unit() -> None:
    labels, units = np.array([0, 0, 1, 1, 1]), np.array([2, 0, 2, 2, 0])
    at_1 = np.array([True, True, False, False, False])
    at_2 = np.array([False, False, True, True, False])
    one = Decisions(labels, at_1, at_2, np.array([1, 0, 1, 0, 0]))
    all_right = Decisions(labels, ~at_2, at_2, labels)
    found = count([[one], [all_right]], units, 4)
    assert found.accepted.tolist() == [[[1, 0, 3, 0]], [[2, 0, 3, 0]]]
    assert found.wrong.tolist() == [[[0, 0, 2, 0]], [[0, 0, 0, 0]]]


def test_the_error_is_the_mean_over_the_networks_of_wrong_by_accepted() -> None:
    found = compute_errors(counts_of([[[1, 0], [2, 2]]], [[[2, 2], [4, 1]]]))
    assert found.tolist() == [pytest.approx((1 / 4 + 4 / 5) / 2)]
    assert math.isnan(compute_errors(counts_of([[[0, 0]]], [[[0, 0]]]))[0])


def test_resamples_equal_those_of_plain_loops_with_the_same_draws() -> None:
    generator = np.random.default_rng(5)
    accepted = generator.integers(1, 9, size=(3, 2, 7)).astype(float)
    counts = Counts(accepted, np.floor(accepted * generator.random((3, 2, 7))))
    found = resample_errors([counts], 40, seed=3)
    again = np.random.default_rng(3)
    networks = again.multinomial(2, [0.5, 0.5], size=40)
    units = again.integers(7, size=(40, 7))
    for resample in range(40):
        for system in range(3):
            drawn = [network for network in range(2) for _ in range(networks[resample, network])]
            shares = [
                sum(counts.wrong[system, network, unit] for unit in units[resample])
                / sum(counts.accepted[system, network, unit] for unit in units[resample])
                for network in drawn
            ]
            assert found[resample, 0, system] == pytest.approx(np.mean(shares))


def test_two_systems_that_decide_alike_never_differ_in_a_resample() -> None:
    wrong = np.random.default_rng(0).integers(2, size=(1, 3, 50)).repeat(2, axis=0).tolist()
    found = resample_errors([counts_of(wrong)] * 2, 200, seed=1)
    assert found.shape == (200, 2, 2)
    assert (found[:, :, 0] == found[:, :, 1]).all()
    assert found[:, :, 0].std() > 0


def test_the_spread_over_rows_is_that_of_a_share() -> None:
    wrong = [[[1] * 60 + [0] * 240]]
    found = resample_errors([counts_of(wrong)], 4000, seed=1)[:, 0, 0]
    assert found.mean() == pytest.approx(0.2, abs=0.002)
    assert found.std() == pytest.approx(math.sqrt(0.2 * 0.8 / 300), rel=0.05)


def test_repeated_rows_spread_as_their_vectors_do() -> None:
    together = counts_of([[[9] * 6 + [0] * 24]], [[[9] * 30]])
    apart = counts_of([[[1] * 54 + [0] * 216]])
    wide, narrow = (resample_errors([of], 4000, seed=1).std() for of in (together, apart))
    assert wide == pytest.approx(3 * narrow, rel=0.05)


def test_networks_are_drawn_the_same_in_all_months_and_for_all_systems() -> None:
    # Rows add no spread: a network errs on all units or on none.
    months = [counts_of([[[0] * 5, [1] * 5, [1] * 5], [[0] * 5, [1] * 5, [1] * 5]])] * 2
    found = resample_errors(months, 3000, seed=1)
    assert (found == found[:, :1, :1]).all()
    assert found.mean() == pytest.approx(2 / 3, abs=0.02)
    assert found[:, 0, 0].std() == pytest.approx(math.sqrt(2 / 9 / 3), rel=0.05)


def test_one_network_adds_no_spread() -> None:
    assert resample_errors([counts_of([[[1] * 5]])], 100, seed=1).tolist() == [[[1.0]]] * 100


def test_a_seed_repeats_the_resamples_and_progress_counts_all_of_them() -> None:
    months, told = [counts_of([[[1, 0, 0, 1, 0]]])] * 3, list[int]()
    one = resample_errors(months, 150, 7, told.append)
    assert one.tolist() == resample_errors(months, 150, 7).tolist() != resample_errors(months, 150, 8).tolist()
    assert sum(told) == 3 * 150


def test_many_units_are_drawn_in_parts() -> None:
    units, told = 200_000, list[int]()
    counts = Counts(np.ones((1, 1, units)), np.ones((1, 1, units)))
    assert resample_errors([counts], 5, 1, told.append).tolist() == [[[1.0]]] * 5
    assert told == [2, 2, 1]


def test_an_interval_holds_the_middle_95_percent_and_is_unknown_if_a_resample_is() -> None:
    found = find_interval(0.5, np.arange(1001) / 1000)
    assert [found.estimate, found.low, found.high] == pytest.approx([0.5, 0.025, 0.975])
    unknown = find_interval(0.5, np.array([0.1, float("nan"), 0.2]))
    assert (unknown.estimate, math.isnan(unknown.low), math.isnan(unknown.high)) == (0.5, True, True)


def test_a_resample_in_which_a_drawn_network_accepts_nothing_is_unknown() -> None:
    counts = counts_of([[[0, 0]]], [[[1, 0]]])
    found = resample_errors([counts], 200, seed=1)
    assert 0 < np.isnan(found).sum() < 200
