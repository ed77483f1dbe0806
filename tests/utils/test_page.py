from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from jinja2 import UndefinedError
from typing_extensions import override

from tests.chromium import dom_after
from utils.errors import InputFileError
from utils.page import fill_template, write_page
from utils.plotting import new_figure

PARTS = '{% from "parts.html.j2" import picture, table %}'
HOSTILE = "<script>document.title = 'run'</script> & \"quotes\""


class Elements(HTMLParser):
    """Collects the names of a document's elements, their attributes, and the text of its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.cells: list[str] = []
        self._in_cell = False
        self.feed(text)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes.update({f"{tag} {name}": value for name, value in attrs})
        if tag in {"td", "th"}:
            self._in_cell = True
            self.cells.append("")

    @override
    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1] += data

    @override
    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in {"td", "th"}


def fill(folder: Path, body: str, **values: object) -> str:
    """Return a page with that body."""
    template = folder / "t.html.j2"
    template.write_text(f'{{% extends "page.html.j2" %}}{PARTS}{{% block body %}}{body}{{% endblock %}}')
    return fill_template(template, **values)


def fill_part(folder: Path, part: str, **values: object) -> Elements:
    template = folder / "t.html.j2"
    template.write_text(PARTS + part)
    return Elements(fill_template(template, **values))


def test_a_page_is_a_whole_document_with_its_body(tmp_path: Path) -> None:
    text = fill(tmp_path, "<h2>First</h2>", title="Title")
    assert text.startswith("<!doctype html>")
    assert text.index("<h1>Title</h1>") < text.index("<h2>First</h2>")
    assert text.rstrip().endswith("</html>")


def test_text_is_text_whatever_it_holds(tmp_path: Path) -> None:
    frame = pd.DataFrame({HOSTILE: [HOSTILE]})
    found = Elements(fill(tmp_path, "<p>{{ text }}</p>{{ table(frame) }}", title=HOSTILE, text=HOSTILE, frame=frame))
    assert "script" not in found.names
    assert found.cells == [HOSTILE, HOSTILE]


def test_plain_text_is_not_escaped(tmp_path: Path) -> None:
    template = tmp_path / "t.txt.j2"
    template.write_text("{{ text }}")
    assert fill_template(template, text=HOSTILE) == HOSTILE


def test_a_value_that_a_template_lacks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        fill(tmp_path, "")


@pytest.mark.system
def test_a_hostile_text_does_not_run_in_a_browser(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [HOSTILE]})
    text = fill(tmp_path, "<p>{{ text }}</p>{{ table(frame) }}", title="safe", text=HOSTILE, frame=frame)
    assert "<title>safe</title>" in dom_after(write_page(text, tmp_path / "p.html"), "", tmp_path)


@pytest.mark.system
def test_a_page_may_fetch_nothing(tmp_path: Path) -> None:
    path = write_page(fill(tmp_path, "", title="alone"), tmp_path / "p.html")
    act = """
    const refused = [];
    document.addEventListener("securitypolicyviolation", (event) => {
      refused.push(event.effectiveDirective);
      document.body.dataset.refused = refused.sort().join(" ");
    });
    new Image().src = "other.png";
    fetch("other.json").catch(() => {});
    """
    assert 'data-refused="connect-src img-src"' in dom_after(path, act, tmp_path)


def test_what_is_unknown_is_left_empty(tmp_path: Path) -> None:
    frame = pd.DataFrame({"month": ["02", None], "error": ["12.3 %", float("nan")], "rows": [10, 20]})
    found = fill_part(tmp_path, "{{ table(frame) }}", frame=frame)
    assert found.cells == ["month", "error", "rows", "02", "12.3 %", "10", "", "", "20"]


def test_a_picture_is_part_of_the_page_and_has_its_caption(tmp_path: Path) -> None:
    figure, (axes,) = new_figure()
    axes.plot([1, 2], [3, 4])
    caption = 'a "caption" of <it>'
    found = fill_part(tmp_path, "{{ picture(figure, caption) }}", figure=figure, caption=caption)
    assert found.names == ["figure", "img", "figcaption"]
    assert found.attributes["img alt"] == caption
    assert str(found.attributes["img src"]).startswith("data:image/svg+xml;base64,")


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="is a folder"):
        write_page("x", tmp_path)
