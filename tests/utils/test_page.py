from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from typing_extensions import override

from tests.chromium import dom_after
from utils.errors import InputFileError
from utils.page import heading, page, paragraph, picture, table, write_page
from utils.plotting import new_figure

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


def test_a_page_is_a_whole_document_with_its_parts_in_order() -> None:
    text = page("Title", heading("First"), paragraph("Second"))
    assert text.startswith("<!doctype html>")
    assert text.index("<h1>Title</h1>") < text.index("<h2>First</h2>") < text.index("<p>Second</p>")
    assert text.rstrip().endswith("</html>")


def test_text_is_text_whatever_it_holds() -> None:
    frame = pd.DataFrame({HOSTILE: [HOSTILE]})
    found = Elements(page(HOSTILE, heading(HOSTILE), paragraph(HOSTILE), table(frame)))
    assert "script" not in found.names
    assert found.cells == [HOSTILE, HOSTILE]


@pytest.mark.system
def test_a_hostile_text_does_not_run_in_a_browser(tmp_path: Path) -> None:
    path = write_page(page("safe", paragraph(HOSTILE), table(pd.DataFrame({"a": [HOSTILE]}))), tmp_path / "p.html")
    assert "<title>safe</title>" in dom_after(path, "", tmp_path)


@pytest.mark.system
def test_a_page_may_fetch_nothing(tmp_path: Path) -> None:
    path = write_page(page("alone"), tmp_path / "p.html")
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


def test_numbers_are_written_as_the_table_is_told_and_what_is_unknown_is_left_empty() -> None:
    frame = pd.DataFrame({"month": ["02", "03"], "error": [0.12345, float("nan")], "rows": [10, 20]})
    found = Elements(table(frame, {"error": lambda value: f"{100 * value:.1f} %"}))
    assert found.cells == ["month", "error", "rows", "02", "12.3 %", "10", "03", "", "20"]


def test_a_picture_is_part_of_the_page_and_has_its_caption() -> None:
    figure, (axes,) = new_figure()
    axes.plot([1, 2], [3, 4])
    found = Elements(picture(figure, 'a "caption" of <it>'))
    assert found.names == ["figure", "img", "figcaption"]
    assert found.attributes["img alt"] == 'a "caption" of <it>'
    assert str(found.attributes["img src"]).startswith("data:image/svg+xml;base64,")


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="is a folder"):
        write_page(page("x"), tmp_path)
