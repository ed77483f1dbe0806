import math

import pandas as pd
import pytest

from evaluations.baselines import MATCHED, REJECT, RULE
from evaluations.comparisons import COLUMNS, build_year_table, collect_findings, compare, find_difference
from evaluations.later_months import BOUND, BY_CLASS, EXIT_1, EXIT_2, SYSTEM
from evaluations.monthly_rates import AREA, MEAN, average_months, find_rate
from evaluations.months import ALL_ROWS, SUBSETS
from tests.evaluations.guesses import DECIDED, MONTHS, SYSTEMS, later_rates


@pytest.fixture(scope="module")
def comparisons() -> pd.DataFrame:
    return compare(MONTHS, DECIDED, by_vector=True, resamples=400, seed=1)


@pytest.fixture(scope="module")
def later() -> pd.DataFrame:
    return later_rates()


def test_every_difference_is_that_of_the_rates_themselves(comparisons: pd.DataFrame, later: pd.DataFrame) -> None:
    everything = pd.concat((later, average_months(later)))
    for row in comparisons.to_dict("records"):
        place = (str(row["month"]), str(row["subset"]))
        expected = find_rate(everything, *place, SYSTEM, "error") - find_rate(
            everything, *place, row["system"], "error"
        )
        assert row["estimate"] == pytest.approx(expected)
        assert row["low"] <= row["estimate"] <= row["high"]


def test_every_other_system_is_compared_in_each_subset_and_month_and_over_all(comparisons: pd.DataFrame) -> None:
    assert tuple(comparisons.columns) == COLUMNS
    names = [*(of.name for of in MONTHS), MEAN, AREA]
    others = [system for system in SYSTEMS if system not in (SYSTEM, BOUND)]
    expected = [(name, subset, system) for subset in SUBSETS for system in others for name in names]
    assert list(comparisons[list(COLUMNS[:3])].itertuples(index=False, name=None)) == expected


def test_resampling_rows_makes_intervals_narrow(comparisons: pd.DataFrame) -> None:
    by_row = compare(MONTHS, DECIDED, by_vector=False, resamples=400, seed=1)
    of_all = comparisons["subset"] == ALL_ROWS
    assert by_row["estimate"].tolist() == pytest.approx(comparisons["estimate"].tolist())
    wide, narrow = ((table["high"] - table["low"])[of_all].mean() for table in (comparisons, by_row))
    assert narrow < 0.9 * wide


def test_one_month_alone_is_its_own_mean_and_area() -> None:
    found = compare(MONTHS[:1], DECIDED[:1], by_vector=True, resamples=100, seed=1)
    one = [find_difference(found, name, ALL_ROWS, RULE) for name in (MONTHS[0].name, MEAN, AREA)]
    assert one[0] == one[1] == one[2]


def test_the_findings_are_means_over_the_later_months_of_all_rows(
    comparisons: pd.DataFrame, later: pd.DataFrame
) -> None:
    found = collect_findings(average_months(later), comparisons, 2)
    rates = later[later["subset"] == ALL_ROWS].groupby("system")[["error", "acceptance", "offloaded"]].mean()
    two_exits = (found.two_exits.error, found.two_exits.acceptance, found.two_exits.offloaded)
    assert two_exits == pytest.approx(tuple(rates.loc[SYSTEM]))
    assert (found.exit_1[0].cost, found.exit_2.cost, found.networks) == (0.25, 1.0, 2)
    systems = (EXIT_1 + MATCHED, BY_CLASS, EXIT_1 + REJECT, EXIT_2 + MATCHED, RULE, "boosting" + MATCHED)
    for rival, system in zip((*found.exit_1, found.exit_2, *found.baselines), systems, strict=True):
        assert (rival.error, rival.acceptance) == pytest.approx(tuple(rates.loc[system, ["error", "acceptance"]]))
        assert rival.difference == find_difference(comparisons, MEAN, ALL_ROWS, system)
    assert [rival.name for rival in found.baselines] == [RULE, "boosting"]
    assert found.exit_1_elsewhere == {
        subset: find_difference(comparisons, MEAN, subset, EXIT_1 + MATCHED) for subset in SUBSETS[1:]
    }


def test_the_table_of_everything_holds_the_rates_and_the_differences(
    comparisons: pd.DataFrame, later: pd.DataFrame
) -> None:
    table = build_year_table(later, comparisons)
    assert list(table) == [
        "month", "subset", "system", "metric", "mean", "low", "high", "network_1", "network_2",
    ]  # fmt: skip
    differences = table[table["metric"] == "error_difference"]
    assert len(differences) == len(comparisons)
    assert differences["system"].str.startswith(f"{SYSTEM} - ").all()
    assert differences["low"].tolist() == comparisons["low"].tolist()
    of_rates = table[table["metric"] == "error"]
    assert len(of_rates) == 3 * len(SUBSETS) * len(SYSTEMS)
    assert all(math.isnan(low) for low in of_rates["low"])
