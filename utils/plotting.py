"""Create and save matplotlib figures without global state."""

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from utils.errors import InputFileError
from utils.files import replacing

FORMATS: Final = (".png", ".pdf", ".svg")

# Names of files, devices and errors may contain a $, which matplotlib would take for the start of a formula.
mpl.rcParams["text.parse_math"] = False


def new_figure(columns: int = 1, width: float = 5.2, height: float = 4.2) -> tuple[Figure, list[Axes]]:
    """Return a figure with a row of axes, each ``width`` by ``height`` inches."""
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, columns, squeeze=False)
    return figure, list(axes[0])


def use_log_scale(axis: Axis) -> None:
    """Make an axis logarithmic, with tick labels in plain text instead of formulas."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter(labelOnlyBase=True))


def check_format(path: Path, *others: str) -> Path:
    """Return ``path`` if its ending names a picture format, or is one of ``others``.

    Raises:
        InputFileError: the ending names no such format.
    """
    known = (*FORMATS, *others)
    if path.suffix.lower() not in known:
        raise InputFileError(f"{path}: the ending must say the picture's format, one of {', '.join(known)}")
    return path


def save_figure(figure: Figure, path: Path) -> Path:
    """Save a figure in the format that the ending of ``path`` names, and return the path.

    Raises:
        InputFileError: the ending names no picture format, or the file cannot be written.
    """
    with replacing(check_format(path)) as partial:
        figure.savefig(partial, dpi=150)
    return path
