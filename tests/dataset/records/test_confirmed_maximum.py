"""A maximum is confirmed by consecutive values."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.records.confirmed_maximum import IN_A_ROW, NEVER, ConfirmedMaximum


@settings(deadline=None)
@given(st.lists(st.integers(-5, 5), max_size=40), st.lists(st.integers(0, 40), max_size=5))
def test_it_is_the_maximum_of_the_minimums_of_consecutive_values(values: list[int], cuts: list[int]) -> None:
    found = ConfirmedMaximum()
    for start, end in pairwise([0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]):
        found.add(np.array(values[start:end], np.int64))
    least = [min(values[at : at + IN_A_ROW]) for at in range(len(values) - IN_A_ROW + 1)]
    assert found.value == max(least, default=NEVER)
    if len(values) < IN_A_ROW:
        assert found.unconfirmed == min(values, default=NEVER)


def test_one_outlier_changes_nothing_but_enough_consecutive_ones_do() -> None:
    found = ConfirmedMaximum()
    found.add(np.arange(100))
    found.add(np.array([7200]))
    found.add(np.arange(100, 110))
    assert found.value == 109 - IN_A_ROW + 1
    found.add(np.full(IN_A_ROW, 7200))
    assert found.value == 7200
