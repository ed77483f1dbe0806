"""Render the interactive page of a Pareto front: one file, which loads nothing from elsewhere."""

from pathlib import Path
from typing import Final

import pandas as pd

from nsga2.operating_point import EVALUATED_COLUMNS, format_client_command, get_thresholds, label_point, marks
from utils.page import fill_template

_TEMPLATE: Final = Path(__file__).parent / "templates" / "front_page.html.j2"
_COLUMN_TITLES: Final = {
    "quality": "quality",
    "error": "error %",
    "time": "time",
    "acceptance": "acceptance %",
    "offloaded": "offloaded %",
    "n_1": "normal, exit 1",
    "a_1": "attack, exit 1",
    "n_2": "normal, exit 2",
    "a_2": "attack, exit 2",
}
_PERCENT: Final = ("error", *EVALUATED_COLUMNS)


def render_front_page(table: pd.DataFrame, row: int, title: str, elsewhere: pd.DataFrame | None = None) -> str:
    """Return a page that shows the thresholds of the point under the pointer, and copies its command on a click.

    Args:
        table: the result of ``build_front_table``.
        row: the chosen row.
        title: names the front.
        elsewhere: the result of ``evaluate_point``: the rates of the chosen point on other months; None: left out.
    """
    names = {marked: name for name, marked in reversed(marks(table).items())}
    points = [
        {
            **{str(name): float(value) for name, value in cells.items()},
            "label": label_point(table, at),
            "command": format_client_command(get_thresholds(table, at)),
            "name": names.get(at, ""),
        }
        for at, cells in enumerate(table.drop(columns="point").to_dict("records"))
    ]
    return fill_template(
        _TEMPLATE,
        title=title,
        front={"points": points, "chosen": row},
        points=_format_points(table, names),
        label=label_point(table, row),
        elsewhere=None if elsewhere is None else format_months(elsewhere),
    )


def _format_points(table: pd.DataFrame, names: dict[int, str]) -> pd.DataFrame:
    numbers = table["point"].astype("string").fillna("-")
    columns = {"point": [f"{number} {names.get(row, '')}".strip() for row, number in enumerate(numbers)]}
    for name, title in _COLUMN_TITLES.items():
        if name in table:
            scale, digits = (100.0, 2) if name in _PERCENT else (1.0, 4)
            columns[title] = [f"{scale * value:.{digits}f}" for value in table[name]]
    return pd.DataFrame(columns)


def format_months(elsewhere: pd.DataFrame) -> pd.DataFrame:
    """Return a table of ``evaluate_point`` as text, with units in the column titles; unknown values stay missing."""
    columns = {}
    for name, values in elsewhere.items():
        words = str(name).replace("_", " ")
        if name in {"data", "rows"}:
            columns[words] = values.astype(str)
        elif name == "cost":
            columns["cost, µs"] = values.map("{:.1f}".format, na_action="ignore")
        else:
            columns[f"{words} %"] = (100 * values).map("{:.2f}".format, na_action="ignore")
    return pd.DataFrame(columns)
