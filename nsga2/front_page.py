"""A Pareto front as an interactive page: one file, which needs no network."""

import json
from pathlib import Path
from typing import Final

import pandas as pd

from nsga2.operating_point import EVALUATED_COLUMNS, client_command, label_point, marks, thresholds_of
from utils import page

_SCRIPT: Final = Path(__file__).with_suffix(".js")
_STYLE: Final = """
#front { width: 100%; height: auto; touch-action: manipulation; }
#front text { fill: var(--ink); font-size: 12px; } #front .axis { stroke: var(--line); }
#front polyline { fill: none; stroke: var(--accent); }
#front .point circle { fill: var(--accent); cursor: pointer; }
#front .point.shown circle { fill: var(--mark); stroke: var(--mark); stroke-width: 5; }
#front .point { outline: none; } #front .named { fill: none; stroke: var(--ink); stroke-width: 1.5; }
#front .chosen { fill: var(--mark); pointer-events: none; }
#reading { min-height: 6.5em; } #command { display: block; padding: .6rem; border: 1px solid var(--line);
  overflow-wrap: anywhere; } #command span { display: inline-block; } #said { color: var(--mark); min-height: 1.5em; }
#points tr { cursor: pointer; } #points tr.shown { color: var(--mark); font-weight: 600; }
"""
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


def front_page(table: pd.DataFrame, row: int, title: str, elsewhere: pd.DataFrame | None = None) -> str:
    """Return a page on which a point is read by hovering over it, and its client's command copied by a click.

    Args:
        table: of ``front_table``.
        row: the chosen one.
        title: names the front.
        elsewhere: of ``judged``: what the chosen point does on other months.
    """
    names = {marked: name for name, marked in reversed(marks(table).items())}
    points = [
        {
            **{str(name): float(value) for name, value in cells.items()},
            "label": label_point(table, at),
            "command": client_command(thresholds_of(table, at)),
            "name": names.get(at, ""),
        }
        for at, cells in enumerate(table.drop(columns="point").to_dict("records"))
    ]
    # In a script, "</" could end it; in JSON, "<\\/" is the same text.
    data = json.dumps({"points": points, "chosen": row}).replace("</", "<\\/")
    parts = [
        f"<style>{_STYLE}</style>",
        page.paragraph(
            "Each point is a set of thresholds: none has both less error and less time. Hover over one, or go through "
            "them with the arrow keys, to read it; a click or Enter copies the command that starts an edge client with "
            "it."
        ),
        '<svg id="front" viewBox="0 0 860 420" role="group" aria-label="error of accepted events over time"></svg>',
        '<div id="reading" aria-live="polite"></div><code id="command"></code><div id="said" role="status"></div>',
        page.heading("All points"),
        f'<div id="points">{page.table(_shown(table, names))}</div>',
    ]
    if elsewhere is not None:
        parts += [page.heading(f"Point {label_point(table, row)} on other months"), judged_table(elsewhere)]
    parts.append(f"<script>const FRONT = {data};\n{_SCRIPT.read_text(encoding='utf-8')}</script>")
    return page.page(title, *parts)


def _shown(table: pd.DataFrame, names: dict[int, str]) -> pd.DataFrame:
    columns: dict[str, list[str]] = {"point": [_titled(table, row, names) for row in range(len(table))]}
    for name, shown in _COLUMN_TITLES.items():
        if name in table:
            scale, digits = (100.0, 2) if name in _PERCENT else (1.0, 4)
            columns[shown] = [f"{scale * value:.{digits}f}" for value in table[name]]
    return pd.DataFrame(columns)


def _titled(table: pd.DataFrame, row: int, names: dict[int, str]) -> str:
    number = "-" if pd.isna(table["point"][row]) else label_point(table, row)
    return f"{number} {names.get(row, '')}".strip()


def judged_table(elsewhere: pd.DataFrame) -> str:
    """Return a table of ``judged`` as HTML."""
    titles = {
        name: name.replace("_", " ") + (" %" if name not in {"data", "rows", "cost"} else "")
        for name in map(str, elsewhere)
    }
    titles["cost"] = "cost, µs"
    shown = elsewhere.rename(columns=titles)
    percent = {title: lambda value: f"{100 * value:.2f}" for title in titles.values() if title.endswith("%")}
    return page.table(shown, {**percent, titles["cost"]: lambda value: f"{value:.1f}"})
