import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from figs.provenance import write_provenance
from figs.recipes import RECIPES, draw_figure, format_caption
from tests.captures import SHARED, needs_shared
from tests.figs.folders import fill, make_inputs
from tests.figs.test_provenance import ABOUT

every_figure = pytest.mark.parametrize("name", RECIPES)


def drawn(name: str, folder: Path, point: int = 1) -> tuple[Figure, str]:
    """Return a figure and its caption."""
    made_from = make_inputs(folder, point)
    numbers = RECIPES[name].collect(made_from)
    return draw_figure(RECIPES[name], numbers, made_from.results), format_caption(numbers, made_from.results)


def heights(figure: Figure) -> list[float]:
    """Return the sorted values of a figure's lines and bars."""
    values = [float(y) for ax in figure.axes for line in ax.lines for y in np.asarray(line.get_ydata())]
    values += [patch.get_height() for ax in figure.axes for patch in ax.patches]  # type: ignore[attr-defined]
    return sorted(values)


@pytest.mark.parametrize(
    ("name", "columns", "scale"),
    [
        ("single-exit-by-month", ["true_positive_rate", "true_negative_rate", "error"], 100),
        ("inference-rate", ["events_per_second"], 1),
        ("operating-point-by-month", ["accuracy", "f1"], 100),
        ("rejection-by-month", ["rejected_share", "offloaded_share"], 100),
        ("offload-time", ["wall_milliseconds", "processor_milliseconds"], 1),
        ("energy", ["value"], 1),
    ],
)
def test_a_figure_shows_exactly_the_numbers_of_its_table(
    tmp_path: Path, name: str, columns: list[str], scale: float
) -> None:
    table = RECIPES[name].collect(make_inputs(fill(tmp_path))).table
    figure, _ = drawn(name, tmp_path)
    assert heights(figure) == pytest.approx(sorted(scale * table[columns].to_numpy().ravel()))


def test_the_front_is_drawn_with_the_operating_point_marked(tmp_path: Path) -> None:
    figure, _ = drawn("pareto-front", fill(tmp_path), point=1)
    assert heights(figure) == pytest.approx([10, 10, 30])


def test_reliability_shows_accuracy_share_and_the_diagonal(tmp_path: Path) -> None:
    table = RECIPES["reliability"].collect(make_inputs(fill(tmp_path))).table
    calibrated = table[table["certainties"] == "calibrated"]
    shares = calibrated["events"] / 5
    figure, _ = drawn("reliability", tmp_path)
    assert heights(figure) == pytest.approx(sorted([*table["accuracy"], *shares, *([0, 1] * 2)]))


def is_cut_off(figure: Figure) -> bool:
    """Return whether anything drawn reaches beyond the figure's edge."""
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return bool(box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height)


@every_figure
def test_nothing_is_clipped_with_one_network(tmp_path: Path, name: str) -> None:
    figure, _ = drawn(name, fill(tmp_path))
    assert not is_cut_off(figure)
    assert len(figure.legends) == 1


@needs_shared
@every_figure
def test_nothing_is_clipped_with_the_published_data(name: str) -> None:
    figure, _ = drawn(name, SHARED / "data", point=5)
    assert not is_cut_off(figure)


def test_a_gap_between_months_is_visible(tmp_path: Path) -> None:
    evaluations = fill(tmp_path) / "evaluations"
    (evaluations / "alexnet_single_pi_2016_03.csv").rename(evaluations / "alexnet_single_pi_2016_06.csv")
    (ax,) = drawn("single-exit-by-month", tmp_path)[0].axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["02", "03", "04", "05", "06"]
    first, last = np.asarray(ax.lines[0].get_xdata())
    assert last - first == 4


def test_months_of_two_years_are_named_with_their_year(tmp_path: Path) -> None:
    evaluations = fill(tmp_path) / "evaluations"
    (evaluations / "alexnet_single_pi_2016_02.csv").rename(evaluations / "alexnet_single_pi_2015_12.csv")
    (ax,) = drawn("single-exit-by-month", tmp_path)[0].axes
    assert [label.get_text() for label in ax.get_xticklabels()][:2] == ["2015-12", "2016-01"]


@every_figure
def test_synthetic_data_are_called_synthetic_in_picture_and_caption(tmp_path: Path, name: str) -> None:
    figure, text = drawn(name, fill(tmp_path))
    assert "synthetic" not in f"{figure.get_suptitle()}{text}"
    assert "does not say on what data" in text
    write_provenance(ABOUT, tmp_path)
    figure, text = drawn(name, tmp_path)
    assert figure.get_suptitle().endswith("\nsynthetic data")
    assert "synthetic data, which say nothing of real traffic (dataset sample, trained on 2016_01 for 8 epochs" in text
    write_provenance(dataclasses.replace(ABOUT, synthetic=False), tmp_path)
    figure, text = drawn(name, tmp_path)
    assert "synthetic" not in figure.get_suptitle()
    assert "not marked as synthetic" in text


@every_figure
def test_a_caption_is_one_sentence_that_names_its_files(tmp_path: Path, name: str) -> None:
    _, text = drawn(name, fill(tmp_path))
    assert text.endswith(".") and "\n" not in text
    assert ". " not in text
    assert "; drawn from " in text
    assert "alexnet" in text.partition("; drawn from ")[2] or "pi_offload_timings.tsv" in text
