from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from evaluations import year_words
from evaluations.baselines import MAJORITY, RULE
from evaluations.comparisons import compare, find
from evaluations.judgement import Judgement, Months
from evaluations.later_months import BOUND, SYSTEM, Choice, Costs
from evaluations.months import ALL_ROWS, DISTINCT, SUBSETS, make_month
from evaluations.networks import Origin
from evaluations.rates import AREA, MEAN, mean_rate, over_time
from evaluations.year_pictures import COLOURS, difference_figure, error_figure, offloaded_figure, pictures
from evaluations.year_report import Report, by_month, precisions, printed, render, summary
from tests.evaluations.guesses import DECIDED, MONTHS, SYSTEMS, TRAINING, later_rates
from tests.evaluations.small_months import month
from utils.schema import Thresholds

LATER = later_rates()
OVERALL = over_time(LATER)
COMPARISONS = compare(MONTHS, DECIDED, by_vector=True, resamples=100, seed=1)
NAMES = [of.name for of in MONTHS]
REPORT = Report(
    "<Network> & months", ["It does.", "As <said>."], pd.DataFrame({"network": ["one"]}), LATER, OVERALL, COMPARISONS,
    ["No column is constant."], ["By chance."],
)  # fmt: skip


def lines_of(figure: Figure) -> dict[str, np.ndarray]:
    return {str(line.get_label()): np.asarray(line.get_ydata()) for line in figure.axes[0].get_lines()}


def test_the_page_says_the_verdict_first_then_shows_pictures_then_tables() -> None:
    page = render(REPORT)
    order = ["<strong>It does.</strong>", "<p>As &lt;said&gt;.</p>", "<figure>", "<table>", "<p>By chance.</p>"]
    assert [page.index(part) for part in order] == sorted(page.index(part) for part in order)
    assert page.startswith("<!doctype html>") and "<title>&lt;Network&gt; &amp; months</title>" in page
    assert page.count("<figure>") == 3 and page.count("<table>") == 1 + len(SUBSETS) + 3 + 1


def test_a_summary_has_a_row_for_each_system_with_its_means_and_the_interval() -> None:
    table = summary(OVERALL, COMPARISONS, DISTINCT).set_index("system")
    assert list(table.index) == list(SYSTEMS)
    error = mean_rate(OVERALL, MEAN, DISTINCT, RULE, "error")
    assert table["error"][RULE] == f"{100 * error:.2f}"
    assert table["AUT error"][RULE] == f"{100 * mean_rate(OVERALL, AREA, DISTINCT, RULE, 'error'):.2f}"
    found = find(COMPARISONS, MEAN, DISTINCT, RULE)
    shown = f"{100 * found.estimate:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"
    assert table["two exits less it"][RULE] == shown
    assert (table["two exits less it"][SYSTEM], table["two exits less it"][BOUND]) == ("", "")
    assert (table["offloaded"][RULE], table["cost"][RULE]) == ("", "")


def test_an_interval_that_is_unknown_is_called_so() -> None:
    table = summary(OVERALL, COMPARISONS.assign(low=np.nan, high=np.nan), ALL_ROWS)
    assert table["two exits less it"][3].endswith(" (unknown)")


def test_by_month_stand_all_months_their_mean_and_the_area() -> None:
    table = by_month(pd.concat((LATER, OVERALL)), NAMES, "f1")
    assert list(table) == ["system", *NAMES, MEAN, AREA]
    row = table[table["system"] == SYSTEM].iloc[0]
    assert row[NAMES[1]] == f"{100 * mean_rate(LATER, NAMES[1], ALL_ROWS, SYSTEM, 'f1'):.2f}"


def test_precisions_stand_by_prevalence() -> None:
    table = precisions(OVERALL)
    assert list(table) == ["system", "detected", "false alarms", "attacks 10 %", "attacks 1 %", "attacks 0.1 %"]
    assert table["attacks 1 %"][0] == f"{100 * mean_rate(OVERALL, MEAN, ALL_ROWS, SYSTEM, 'precision_at_0.01'):.2f}"


def test_the_shell_shows_every_system_once() -> None:
    lines = printed(OVERALL, COMPARISONS).splitlines()
    assert len(lines) == 1 + len(SYSTEMS)
    assert max(map(len, lines)) <= 120


def test_errors_are_drawn_in_percent_by_month_for_the_systems_with_a_colour() -> None:
    drawn = lines_of(error_figure(LATER, NAMES))
    assert set(drawn) == set(COLOURS) & set(SYSTEMS)
    expected = [100 * mean_rate(LATER, name, ALL_ROWS, RULE, "error") for name in NAMES]
    assert drawn[RULE].tolist() == pytest.approx(expected)


def test_a_difference_is_drawn_with_its_interval_in_each_subset() -> None:
    figure = difference_figure(pd.concat((COMPARISONS, COMPARISONS.assign(system=MAJORITY))))
    assert [ax.get_title() for ax in figure.axes] == list(SUBSETS)
    names = [label.get_text().strip() for label in figure.axes[0].get_yticklabels()]
    assert names == [name for name in SYSTEMS if name not in (SYSTEM, BOUND)][::-1]
    place = names.index(RULE)
    points = [line for line in figure.axes[2].get_lines() if np.asarray(line.get_ydata()).tolist() == [place]]
    drawn = sorted(float(np.asarray(line.get_xdata())[0]) for line in points)
    found = find(COMPARISONS, MEAN, DISTINCT, RULE)
    assert drawn == pytest.approx([100 * found.low, 100 * found.estimate, 100 * found.high])


def test_offloaded_events_are_drawn_by_what_becomes_of_them() -> None:
    (ax,) = offloaded_figure(LATER, NAMES).axes
    tops = [bar.get_y() + bar.get_height() for bar in ax.patches[3:]]  # type: ignore[attr-defined]
    assert tops == pytest.approx([100 * mean_rate(LATER, name, ALL_ROWS, SYSTEM, "offloaded") for name in NAMES])
    rejected = [bar.get_height() for bar in ax.patches[3:]]  # type: ignore[attr-defined]
    assert rejected == pytest.approx(
        [100 - 100 * mean_rate(LATER, name, ALL_ROWS, SYSTEM, "acceptance") for name in NAMES]
    )


def test_a_picture_can_be_drawn_of_one_month_and_of_unknown_differences() -> None:
    one = LATER[LATER["month"] == NAMES[0]]
    for figure, caption in pictures(one, COMPARISONS.assign(estimate=np.nan, low=np.nan, high=np.nan), NAMES[:1]):
        figure.canvas.draw()
        assert caption.endswith(".")


MONTHS_OF_ALL = Months(TRAINING, month(2), tuple(MONTHS))


def test_a_network_stands_with_its_thresholds_and_what_they_do_on_the_month_of_the_choice() -> None:
    on_choice = LATER[(LATER["month"] == NAMES[0])].assign(month="2016_02")
    chosen = Choice(Thresholds(0.5, 0.6, 0.7, 0.8), Thresholds(0.5, 0.5, 0.5, 0.5), {})
    judgement = Judgement([chosen] * 2, [Costs(2e-6, 9e-6, 9e-6, 9e-6)] * 2, on_choice, LATER, DECIDED)
    origins = [Origin(Path(f"saves/{seed}.pth"), "N", seed, ("2016_01",), ("2016_02",)) for seed in ("4", "5")]
    table = year_words.network_table(origins, judgement)
    first = table.to_dict("records")[0]
    assert [first[name] for name in ("network", "seed", "n 1", "a 1", "n 2", "a 2")] == [
        "1: 4.pth", "4", "0.5000", "0.6000", "0.7000", "0.8000",
    ]  # fmt: skip
    assert (first["µs exit 1"], first["µs offloaded"]) == ("2.0", "9.0")
    assert table["error"].nunique() == 2
    assert year_words.title(origins, MONTHS_OF_ALL) == "N, judged on 2016_03 to 2016_05"
    assert year_words.title(origins, replace(MONTHS_OF_ALL, later=(MONTHS[0],))) == "N, judged on 2016_03"


def test_the_method_says_what_was_resampled_and_that_repeated_rows_make_intervals_narrow() -> None:
    told = [
        " ".join(year_words.method(MONTHS_OF_ALL, year_words.How(0.9, "knee", 2000, by_vector, "the path")))
        for by_vector in (True, False)
    ]
    assert "2000 paired bootstrap resamples: within each month distinct vectors, each with all its rows" in told[0]
    assert "within each month rows, each for itself" in told[1]
    assert all("they make intervals narrow" in words for words in told)
    assert "the knee point of the exact Pareto front at an acceptance of at least 90.0 % there" in told[0]


def test_shares_of_repeated_rows_are_means_over_the_months() -> None:
    row = TRAINING.features[TRAINING.first[:2]]
    months = [make_month("m", row[[0, 0, 0, 1]], np.zeros(4, dtype=np.int64)), make_month("m", row, np.zeros(2, int))]
    assert year_words.repeated_share(months) == pytest.approx((0.5 + 0) / 2)
    assert year_words.largest_share(months) == pytest.approx((0.75 + 0.5) / 2)


def test_columns_that_say_nothing_are_named() -> None:
    features = np.random.default_rng(0).random((9, 58)).astype(np.float32)
    plain = year_words.about_columns(make_month("m", features, np.zeros(9, dtype=np.int64)))
    assert plain == ["No column is constant.", "No others are equal in every row."]
    features[:, 57] = 1
    features[:, 1] = features[:, 2]
    told = year_words.about_columns(make_month("m", features, np.zeros(9, dtype=np.int64)))
    assert told[0].endswith("learnt from them: MOORE_throughput_b_a.")
    assert told[1].endswith("MOORE_quartileFirstInterArrivalTime = MOORE_medianInterArrivalTime.")
