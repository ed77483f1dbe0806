"""Figures with text that contains special characters."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from offload.link.load import COLUMNS, draw_load
from utils.plotting import FORMATS, new_figure, save_figure, use_log_scale

FORMULAS = [r"$\frac{$", r"$\undefined$", "$x^{$ and $y$", r"a\$b$c$"]


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("text", FORMULAS)
def test_a_dollar_sign_begins_no_formula(tmp_path: Path, text: str, ending: str) -> None:
    figure, (ax,) = new_figure()
    figure.suptitle(text)
    ax.set(title=text, xlabel=text, ylabel=text)
    ax.bar([text, "b"], [1, 2000], label=text)
    ax.annotate(text, (0, 1))
    ax.legend(title=text)
    use_log_scale(ax.yaxis)
    save_figure(figure, tmp_path / f"figure{ending}")
    assert not any(found.get_parse_math() for found in figure.findobj(Text))


def test_the_ticks_of_a_logarithmic_axis_are_plain_text() -> None:
    figure, (ax,) = new_figure()
    ax.plot([1, 2], [0.5, 5000])
    use_log_scale(ax.yaxis)
    figure.canvas.draw()
    labels = [label.get_text() for label in ax.get_yticklabels() if label.get_text()]
    assert {"1", "10", "100", "1000"} <= set(labels)
    assert ax.get_yscale() == "log"
    assert not any("$" in label for label in labels)


def test_an_error_code_from_the_network_is_drawn_unchanged(tmp_path: Path) -> None:
    table = pd.DataFrame({name: np.arange(1.0, 5) for name in COLUMNS}).astype({"result": object})
    table["result"] = ["answered", "answered", "answered", FORMULAS[0]]
    save_figure(draw_load(FORMULAS[1], table), tmp_path / "load.png")
