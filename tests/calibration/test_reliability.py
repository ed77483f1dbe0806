from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from calibration.reliability import draw_reliability, make_reliability_figure
from utils.classification_metrics import ECE_BINS, bin_by_certainty, classify, compute_calibration_error
from utils.errors import InputFileError
from utils.plotting import new_figure, save_figure

DRAW = np.random.default_rng(0)
CERTAINTIES = DRAW.uniform(0.5, 1, 400)
CORRECT = DRAW.random(400) < CERTAINTIES


def drawn(certainties: np.ndarray, correct: np.ndarray) -> Axes:
    _, (ax,) = new_figure()
    draw_reliability(ax, certainties, correct)
    return ax


def points(ax: Axes, label: str) -> np.ndarray:
    """Return the points (K, 2) of a line by its name in the legend."""
    (line,) = (line for line in ax.get_lines() if line.get_label() == label)
    return np.asarray(line.get_xydata())


def bars(ax: Axes) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle)]


def test_each_bin_shows_accuracy_at_its_mean_certainty() -> None:
    counts, mean_certainty, mean_correct = bin_by_certainty(CERTAINTIES, CORRECT)
    expected = np.column_stack([mean_certainty, mean_correct])[counts > 0]
    np.testing.assert_allclose(points(drawn(CERTAINTIES, CORRECT), "accuracy"), expected)


def test_a_bin_without_rows_has_no_point() -> None:
    assert len(points(drawn(np.array([0.55, 0.95]), np.array([True, False])), "accuracy")) == 2


def test_bars_show_the_share_of_rows() -> None:
    ax = drawn(CERTAINTIES, CORRECT)
    heights = [bar.get_height() for bar in bars(ax)]
    assert len(heights) == ECE_BINS
    assert sum(heights) == pytest.approx(1)
    np.testing.assert_allclose(heights, bin_by_certainty(CERTAINTIES, CORRECT)[0] / 400)


def test_everything_is_drawn_within_the_axes() -> None:
    ax = drawn(np.array([0.5, 1.0]), np.array([False, True]))
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for x, y in points(ax, "accuracy"):
        assert left <= x <= right
        assert bottom <= y <= top
    assert min(bar.get_x() for bar in bars(ax) if bar.get_height()) >= left - 1e-9


def test_the_figure_shows_both_errors_and_the_temperature() -> None:
    logits = DRAW.normal(scale=5, size=(300, 2))
    labels = DRAW.integers(0, 2, 300)
    figure = make_reliability_figure("AlexNetWithExits, exit 1", logits, labels, 2.5)
    assert figure.get_suptitle() == "AlexNetWithExits, exit 1"
    assert [ax.get_title() for ax in figure.axes] == [
        "before calibration (temperature 1.000)",
        "after (temperature 2.500)",
    ]
    for ax, temperature in zip(figure.axes, (1, 2.5), strict=True):
        prediction, certain = classify(logits / temperature)
        error = compute_calibration_error(certain, prediction == labels)
        assert [text.get_text() for text in ax.texts] == [f"ECE {error:.4f}"]


@pytest.mark.parametrize(("ending", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_a_figure_is_saved_in_the_format_of_its_ending(tmp_path: Path, ending: str, start: bytes) -> None:
    figure = make_reliability_figure("one row", np.array([[1.0, 0.0]]), np.array([0]), 1.0)
    path = save_figure(figure, tmp_path / f"picture{ending}")
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


def test_another_ending_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    figure, _ = new_figure()
    with pytest.raises(InputFileError, match=r"picture\.txt: the ending must say the picture's format, one of \.png"):
        save_figure(figure, tmp_path / "picture.txt")
