import math

import numpy as np
import pandas as pd
import pytest

from evaluations.later_months import EXIT_1, EXIT_2, SINGLE_EXIT, SYSTEM, Costs
from evaluations.monthly_rates import (
    AREA,
    KEYS,
    MEAN,
    average_months,
    compute_costs,
    compute_precision,
    compute_rates,
    find_rate,
    list_rates,
    make_area_weights,
    to_long_form,
)
from utils.decision import Decisions

# Of six attacks and four normal events, eight are accepted, three at exit 2.
LABELS = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0, 0])
CALLED = np.array([1, 1, 1, 0, 1, 0, 1, 0, 0, 0])
AT_1 = np.array([1, 1, 1, 1, 0, 0, 1, 0, 0, 0], dtype=bool)
AT_2 = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1], dtype=bool)
DECIDED = Decisions(LABELS, AT_1, AT_2, CALLED)
BEST = Decisions(LABELS, np.ones(10, dtype=bool), np.zeros(10, dtype=bool), np.array([1, 1, 1, 1, 0, 1, 0, 1, 0, 0]))
COSTS = Costs(exit_1=1e-6, offloaded=5e-6, exit_2=3e-6, reference=4e-6)


def test_rates_are_those_counted_by_hand() -> None:
    found = compute_rates(DECIDED, BEST)
    assert found == {
        "rows": 10,
        "acceptance": 0.8,
        "accuracy": 6 / 8,
        "error": pytest.approx(2 / 8),
        "f1": 6 / 8,  # caught 3, accepted attacks 4, alarms 4
        "bound": 7 / 8,
        "share_of_bound": pytest.approx(6 / 7),
        "detection_rate": 3 / 6,  # the rejected alarm is none
        "false_alarm_rate": 1 / 4,
        "precision_at_0.1": pytest.approx(0.05 / (0.05 + 0.225)),
        "precision_at_0.01": pytest.approx(0.005 / (0.005 + 0.2475)),
        "precision_at_0.001": pytest.approx(0.0005 / (0.0005 + 0.24975)),
    }


def test_precision_at_the_events_own_prevalence_is_their_precision() -> None:
    assert compute_precision(3 / 6, 1 / 4, 0.6) == pytest.approx(3 / 4)
    assert compute_precision(0.5, 0.0, 0.001) == 1.0
    assert math.isnan(compute_precision(0.0, 0.0, 0.1))


def test_rates_of_no_events_are_unknown() -> None:
    nothing = np.zeros(0, dtype=bool)
    none = Decisions(np.zeros(0, dtype=np.int64), nothing, nothing, np.zeros(0, dtype=np.int64))
    found = compute_rates(none, none)
    assert found.pop("rows") == 0
    assert all(math.isnan(rate) for rate in found.values())


@pytest.mark.parametrize("months", [2, 3, 6, 11])
def test_the_area_under_time_is_the_trapezoidal_mean(months: int) -> None:
    values = np.random.default_rng(months).random(months)
    by_hand = sum((values[at] + values[at + 1]) / 2 for at in range(months - 1)) / (months - 1)
    assert values @ make_area_weights(months) == pytest.approx(by_hand)
    assert values @ make_area_weights(months) == pytest.approx(np.trapezoid(values) / (months - 1))


def test_the_area_of_one_month_is_its_rate() -> None:
    assert make_area_weights(1).tolist() == [1.0]


def test_an_event_costs_by_the_exit_that_decides_it_and_baselines_are_not_timed() -> None:
    assert compute_costs(SYSTEM, 0.25, COSTS) == {"cost": pytest.approx(2.0), "cost_share": pytest.approx(0.5)}
    shares = {name: compute_costs(name, 0.25, COSTS)["cost_share"] for name in (EXIT_1, f"{EXIT_1} + reject", EXIT_2)}
    assert shares == pytest.approx({EXIT_1: 0.25, f"{EXIT_1} + reject": 0.25, EXIT_2: 0.75})
    assert compute_costs(SINGLE_EXIT, 0.25, COSTS)["cost_share"] == 1
    assert compute_costs("boosting + reject", 0.25, COSTS) == {}


def test_a_record_names_its_month_subset_system_and_network() -> None:
    decided = {subset: {SYSTEM: DECIDED, "best by exact match": BEST} for subset in ("all rows", "distinct vectors")}
    records = list_rates("2016_03", 2, decided, COSTS)
    keys = [tuple(record[key] for key in KEYS) for record in records]
    assert keys == [("2016_03", subset, system, 2) for subset in decided for system in (SYSTEM, "best by exact match")]
    assert records[0]["offloaded"] == 0.5
    assert records[0]["cost"] == pytest.approx(3.0)
    assert "offloaded" not in records[1]


def table() -> pd.DataFrame:
    """Return three months of two networks."""
    rows = [
        {
            "month": month,
            "subset": "all rows",
            "system": SYSTEM,
            "network": network,
            "error": error,
            "accuracy": 1 - error,
        }
        for month, errors in (("03", (0.1, 0.2)), ("04", (0.4, 0.4)), ("05", (0.2, float("nan"))))
        for network, error in enumerate(errors, 1)
    ]
    return pd.DataFrame(rows).assign(f1=0.5, acceptance=0.9)


def test_the_mean_and_area_of_a_network_are_unknown_if_a_month_is() -> None:
    found = average_months(table()).set_index(["month", "network"])
    assert found.loc[(MEAN, 1), "error"] == pytest.approx(0.7 / 3)
    assert found.loc[(AREA, 1), "error"] == pytest.approx((0.05 + 0.4 + 0.1) / 2)
    assert found.loc[(AREA, 1), "accuracy"] == pytest.approx(1 - (0.05 + 0.4 + 0.1) / 2)
    assert found["error"].isna().tolist() == [False, False, True, True]
    assert found.loc[(MEAN, 2), "acceptance"] == pytest.approx(0.9)
    assert found["acceptance"].isna().tolist() == [False, True, False, True]


def test_the_long_form_has_a_row_for_each_metric_with_the_mean_and_each_network() -> None:
    long = to_long_form(table())
    assert list(long) == ["month", "subset", "system", "metric", "mean", "network_1", "network_2"]
    assert len(long) == 3 * 4
    first = long[(long["month"] == "03") & (long["metric"] == "error")].to_dict("records")[0]
    assert (first["mean"], first["network_1"], first["network_2"]) == (pytest.approx(0.15), 0.1, 0.2)
    third = long[(long["month"] == "05") & (long["metric"] == "error")].to_dict("records")[0]
    assert math.isnan(third["mean"]) and math.isnan(third["network_2"])


def test_the_mean_over_the_networks_is_unknown_where_nothing_is_known() -> None:
    assert find_rate(table(), "04", "all rows", SYSTEM, "error") == pytest.approx(0.4)
    assert math.isnan(find_rate(table(), "05", "all rows", SYSTEM, "error"))
    assert math.isnan(find_rate(table(), "06", "all rows", SYSTEM, "error"))
    assert math.isnan(find_rate(table(), "03", "all rows", SYSTEM, "cost_share"))
