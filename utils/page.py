"""Self-contained HTML pages: one file, which asks for nothing from anywhere."""

import base64
import io
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Final

import pandas as pd
from matplotlib.figure import Figure

from utils.files import replacing

# Whatever text a page shows, its browser fetches nothing and sends nothing.
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_SHARED: Final = Path(__file__).with_name("templates")
_STYLE: Final = """
:root { color-scheme: light dark; --ink: light-dark(#1b1b1b, #e6e6e6); --paper: light-dark(#fff, #181a1b);
  --line: light-dark(#ccc, #444); --weak: light-dark(#666, #999); --accent: light-dark(#1f5fa8, #7db7f2);
  --mark: light-dark(#c0392b, #ff7f6e); }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; } figure img { max-width: 100%; background: #fff; }
figcaption { color: var(--weak); }
code { font-family: ui-monospace, monospace; }
"""


def page(title: str, *parts: str) -> str:
    """Return a whole document; the parts are HTML, the title is text."""
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    )
    body = "\n".join((f"<h1>{escape(title)}</h1>", *parts))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def heading(text: str) -> str:
    """Return a heading of a section."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{escape(text)}</p>"


def table(frame: pd.DataFrame, formats: Mapping[str, Callable[[float], str]] | None = None) -> str:
    """Return a table, without its index.

    Args:
        frame: column names and cells are text or numbers.
        formats: column -> how its numbers are written; a cell without a value is left empty.
    """
    formats = formats or {}

    def written(name: str, cell: object) -> str:
        if pd.isna(cell):  # type: ignore[call-overload]
            return ""
        return escape(formats[name](cell) if name in formats else str(cell))  # type: ignore[arg-type]

    names = [str(name) for name in frame.columns]
    rows = ["".join(f"<th>{escape(name)}</th>" for name in names)]
    rows += [
        "".join(f"<td>{written(name, cell)}</td>" for name, cell in zip(names, cells, strict=True))
        for cells in frame.itertuples(index=False, name=None)
    ]
    return '<div class="wide"><table>' + "".join(f"<tr>{row}</tr>\n" for row in rows) + "</table></div>"


def picture(figure: Figure, caption: str) -> str:
    """Return a picture that is part of the page, with its caption."""
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    source = base64.b64encode(content.getvalue()).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/svg+xml;base64,{source}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def fill_template(template: Path, **values: object) -> str:
    """Return a template with its values filled in; in ``*.html.j2``, they are escaped.

    A template may extend ``page.html.j2`` (a page that fetches nothing) and import from ``parts.html.j2`` (tables,
    pictures).
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader([template.parent, _SHARED]),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = make_data_uri
    return environment.get_template(template.name).render(values)


def make_data_uri(figure: "Figure") -> str:
    """Return a figure as the address of a picture that is part of the page (SVG)."""
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"


def write_page(text: str, path: Path) -> Path:
    """Write a page, whole or not at all; return the path.

    Raises:
        InputFileError: the file cannot be written.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path
