"""Pages and reports from Jinja2 templates, which stand beside the modules that fill them in."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Final

from utils.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHARED: Final = Path(__file__).with_name("templates")


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
