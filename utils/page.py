"""Fill in Jinja2 templates for pages and reports, and write the results."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Final

from utils.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHARED: Final = Path(__file__).with_name("templates")


def fill_template(template: Path, **values: object) -> str:
    """Return the text of a template with values filled in; in a ``*.html.j2`` template, they are escaped.

    A template can extend ``page.html.j2`` (a page that loads nothing from the network) and import macros from
    ``parts.html.j2`` (tables, pictures), both in ``utils/templates/``.
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
    """Return a figure as a data URI that holds an SVG picture, so that the page needs no other file."""
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"


def write_page(text: str, path: Path) -> Path:
    """Write a page atomically and return the path.

    Raises:
        InputFileError: the file cannot be written.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path
