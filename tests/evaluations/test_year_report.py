from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from evaluations.baselines import MAJORITY, RULE
from evaluations.comparisons import compare, find_difference
from evaluations.later_months import BOUND, SYSTEM, Choice, Costs
from evaluations.monthly_rates import AREA, MEAN, average_months, find_rate
from evaluations.months import ALL_ROWS, DISTINCT, SUBSETS, make_month
from evaluations.networks import Origin
from evaluations.year_evaluation import Months, YearEvaluation
from evaluations.year_pictures import COLOURS, draw_differences, draw_errors, draw_offloaded, draw_pictures
from evaluations.year_report import (
    Method,
    Report,
    find_largest_share,
    find_repeated_share,
    make_title,
    tabulate_months,
    tabulate_networks,
    tabulate_precisions,
    tabulate_systems,
)
from tests.evaluations.guesses import DECIDED, MONTHS, SYSTEMS, TRAINING, later_rates
from tests.evaluations.small_months import month
from utils.schema import Thresholds

LATER = later_rates()
OVERALL = average_months(LATER)
COMPARISONS = compare(MONTHS, DECIDED, by_vector=True, resamples=100, seed=1)
NAMES = [of.name for of in MONTHS]
MONTHS_OF_ALL = Months(TRAINING, month(2), tuple(MONTHS))
CHOSEN = Choice(Thresholds(0.5, 0.6, 0.7, 0.8), Thresholds(0.5, 0.5, 0.5, 0.5), {})
EVALUATION = YearEvaluation(
    [CHOSEN] * 2,
    [Costs(2e-6, 9e-6, 9e-6, 9e-6)] * 2,
    LATER[LATER["month"] == NAMES[0]].assign(month="2016_02"),
    LATER,
    DECIDED,
)
ORIGINS = [Origin(Path(f"saves/{seed}.pth"), "<N>", seed, ("2016_01",), ("2016_02",)) for seed in ("4", "5")]


def make_report(by_vector: bool = True, months: Months = MONTHS_OF_ALL) -> Report:
    return Report(ORIGINS, months, EVALUATION, COMPARISONS, Method(0.9, "knee", 2000, by_vector, "the path's"))


def lines_of(figure: Figure) -> dict[str, np.ndarray]:
    return {str(line.get_label()): np.asarray(line.get_ydata()) for line in figure.axes[0].get_lines()}


def test_the_page_begins_with_one_sentence_and_a_table_then_shows_pictures_and_more_tables() -> None:
    page = make_report().render_page()
    order = ["<strong>", "exit 1 alone", "<td>two exits", "exit 2 alone", "best baseline:", "<figure>", "1: 4.pth"]
    assert [page.index(part) for part in order] == sorted(page.index(part) for part in order)
    assert "<title>&lt;N&gt;, evaluated on 2016_03 to 2016_05</title>" in page
    assert page.count("<figure>") == 3 and page.count("<table>") == 1 + 1 + len(SUBSETS) + 3 + 1


def test_the_shell_and_the_page_begin_with_the_same_sentence() -> None:
    report = make_report()
    sentence, _, title, _, *systems = report.render_text().splitlines()
    assert f"<strong>{sentence}</strong>" in report.render_page()
    assert title == "<N>, evaluated on 2016_03 to 2016_05: means over the later months, all rows, %"
    assert [line.split("  ")[0].strip() for line in systems[1:3]] != []
    assert max(map(len, systems[:4])) <= 120


def test_a_summary_has_a_row_for_each_system_with_its_means_and_the_interval() -> None:
    table = tabulate_systems(OVERALL, COMPARISONS, DISTINCT).set_index("system")
    assert list(table.index) == list(SYSTEMS)
    error = find_rate(OVERALL, MEAN, DISTINCT, RULE, "error")
    assert table["error"][RULE] == f"{100 * error:.2f}"
    assert table["AUT error"][RULE] == f"{100 * find_rate(OVERALL, AREA, DISTINCT, RULE, 'error'):.2f}"
    found = find_difference(COMPARISONS, MEAN, DISTINCT, RULE)
    shown = f"{100 * found.estimate:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"
    assert table["difference"][RULE] == shown
    assert (table["difference"][SYSTEM], table["difference"][BOUND]) == ("", "")
    assert (table["offloaded"][RULE], table["cost"][RULE]) == ("", "")


def test_an_unknown_interval_is_called_unknown() -> None:
    table = tabulate_systems(OVERALL, COMPARISONS.assign(low=np.nan, high=np.nan), ALL_ROWS)
    assert table["difference"][3].endswith(" (unknown)")


def test_the_table_by_month_holds_all_months_their_mean_and_the_area() -> None:
    table = tabulate_months(pd.concat((LATER, OVERALL)), NAMES, "f1")
    assert list(table) == ["system", *NAMES, MEAN, AREA]
    row = table[table["system"] == SYSTEM].iloc[0]
    assert row[NAMES[1]] == f"{100 * find_rate(LATER, NAMES[1], ALL_ROWS, SYSTEM, 'f1'):.2f}"


def test_precisions_have_a_column_for_each_prevalence() -> None:
    table = tabulate_precisions(OVERALL)
    assert list(table) == ["system", "detected", "false alarms", "attacks 10 %", "attacks 1 %", "attacks 0.1 %"]
    assert table["attacks 1 %"][0] == f"{100 * find_rate(OVERALL, MEAN, ALL_ROWS, SYSTEM, 'precision_at_0.01'):.2f}"


def test_errors_are_drawn_in_percent_by_month_for_the_systems_with_a_colour() -> None:
    drawn = lines_of(draw_errors(LATER, NAMES))
    assert set(drawn) == set(COLOURS) & set(SYSTEMS)
    expected = [100 * find_rate(LATER, name, ALL_ROWS, RULE, "error") for name in NAMES]
    assert drawn[RULE].tolist() == pytest.approx(expected)


def test_a_difference_is_drawn_with_its_interval_in_each_subset() -> None:
    figure = draw_differences(pd.concat((COMPARISONS, COMPARISONS.assign(system=MAJORITY))))
    assert [ax.get_title() for ax in figure.axes] == list(SUBSETS)
    names = [label.get_text().strip() for label in figure.axes[0].get_yticklabels()]
    assert names == [name for name in SYSTEMS if name not in (SYSTEM, BOUND)][::-1]
    place = names.index(RULE)
    points = [line for line in figure.axes[2].get_lines() if np.asarray(line.get_ydata()).tolist() == [place]]
    drawn = sorted(float(np.asarray(line.get_xdata())[0]) for line in points)
    found = find_difference(COMPARISONS, MEAN, DISTINCT, RULE)
    assert drawn == pytest.approx([100 * found.low, 100 * found.estimate, 100 * found.high])


def test_offloaded_events_are_drawn_as_accepted_or_rejected() -> None:
    (ax,) = draw_offloaded(LATER, NAMES).axes
    tops = [bar.get_y() + bar.get_height() for bar in ax.patches[3:]]  # type: ignore[attr-defined]
    assert tops == pytest.approx([100 * find_rate(LATER, name, ALL_ROWS, SYSTEM, "offloaded") for name in NAMES])
    rejected = [bar.get_height() for bar in ax.patches[3:]]  # type: ignore[attr-defined]
    assert rejected == pytest.approx(
        [100 - 100 * find_rate(LATER, name, ALL_ROWS, SYSTEM, "acceptance") for name in NAMES]
    )


def test_a_picture_can_be_drawn_of_one_month_and_of_unknown_differences() -> None:
    one = LATER[LATER["month"] == NAMES[0]]
    for figure, caption in draw_pictures(one, COMPARISONS.assign(estimate=np.nan, low=np.nan, high=np.nan), NAMES[:1]):
        figure.canvas.draw()
        assert caption.endswith(".")


def test_the_table_of_networks_holds_thresholds_and_rates_on_the_month_of_the_choice() -> None:
    table = tabulate_networks(ORIGINS, EVALUATION)
    first = table.to_dict("records")[0]
    assert [first[name] for name in ("network", "seed", "n 1", "a 1", "n 2", "a 2")] == [
        "1: 4.pth", "4", "0.5000", "0.6000", "0.7000", "0.8000",
    ]  # fmt: skip
    assert (first["µs exit 1"], first["µs offloaded"]) == ("2.0", "9.0")
    assert table["error"].nunique() == 2
    assert make_title(ORIGINS, replace(MONTHS_OF_ALL, later=(MONTHS[0],))) == "<N>, evaluated on 2016_03"


def test_the_method_says_what_was_resampled_and_that_repeated_rows_make_intervals_narrow() -> None:
    by_vector, by_row = (" ".join(make_report(choice).render_page().split()) for choice in (True, False))
    assert "2000 paired bootstrap resamples. Within each month, distinct vectors, each with all its rows," in by_vector
    assert "Within each month, single rows are drawn" in by_row
    assert all("they make intervals too narrow" in words for words in (by_vector, by_row))
    assert "the knee point of the exact Pareto front at an acceptance of at least 90 % there" in by_vector


def test_shares_of_repeated_rows_are_means_over_the_months() -> None:
    row = TRAINING.features[TRAINING.first[:2]]
    months = [make_month("m", row[[0, 0, 0, 1]], np.zeros(4, dtype=np.int64)), make_month("m", row, np.zeros(2, int))]
    assert find_repeated_share(months) == pytest.approx((0.5 + 0) / 2)
    assert find_largest_share(months) == pytest.approx((0.75 + 0.5) / 2)


def test_constant_and_equal_columns_are_in_the_report() -> None:
    def render(features: np.ndarray) -> str:
        training = make_month("m", features, np.zeros(9, dtype=np.int64))
        return make_report(months=replace(MONTHS_OF_ALL, training=training)).render_page()

    features = np.random.default_rng(0).random((9, 58)).astype(np.float32)
    plain = render(features)
    assert "No column is constant." in plain and "No two other columns are equal in every row." in plain
    features[:, 57] = 1
    features[:, 1] = features[:, 2]
    page = render(features)
    assert "learnt from them: MOORE_throughput_b_a." in page
    assert "as the other: MOORE_quartileFirstInterArrivalTime = MOORE_medianInterArrivalTime." in page
