"""The interactive page, in a real browser."""

import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from nsga2.front_page import render_front_page
from nsga2.operating_point import CostModel, build_front_table, evaluate_point, format_client_command, get_thresholds
from tests.chromium import dom_after, find_chromium, screenshot
from tests.nsga2.test_objectives import random_evaluation
from tests.nsga2.test_operating_point import FRONT
from tests.scripts import CHART, call
from utils.page import write_page
from utils.results import write_front

TABLE = build_front_table(FRONT)
POINT_AT = """
function at(number) {
  const box = document.querySelectorAll("#front .point circle")[number].getBoundingClientRect();
  return {clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true};
}
"""
# Reads what was copied off the clipboard's own call, which headless Chromium grants no page.
CLIPBOARD = """
const copied = [];
Object.defineProperty(navigator, "clipboard", {value: {writeText: async (text) => { copied.push(text);
  document.body.dataset.copied = JSON.stringify(copied); }}});
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return write_page(render_front_page(TABLE, 1, "A <front> & more"), tmp_path / "front.html")


def element(dom: str, name: str) -> str:
    """Return the text within the element of an id."""
    found = re.search(rf'id="{name}"[^>]*>(.*?)</(?:div|code)>', dom, re.DOTALL)
    assert found is not None
    return re.sub(r"<[^>]+>", "", found[1].replace("</p><p>", " "))


def copied(dom: str) -> list[str]:
    found = re.search(r'data-copied="([^"]*)"', dom)
    values: list[str] = json.loads(found[1].replace("&quot;", '"')) if found else []
    return values


@pytest.mark.system
def test_the_page_opens_with_the_chosen_point_and_its_command(page: Path, tmp_path: Path) -> None:
    dom = dom_after(page, "", tmp_path)
    assert "<h1>A &lt;front&gt; &amp; more</h1>" in dom
    assert dom.count('class="point') == len(TABLE)
    thresholds = get_thresholds(TABLE, 1)
    reading = element(dom, "reading")
    assert reading.startswith("Point 1")
    assert f"error {100 * TABLE['error'][1]:.2f} %" in reading
    assert all(repr(value) in reading for value in vars(thresholds).values())
    assert element(dom, "command") == format_client_command(thresholds)


@pytest.mark.parametrize("number", range(len(TABLE)))
@pytest.mark.system
def test_hovering_reads_the_thresholds_of_the_point_under_the_pointer(page: Path, tmp_path: Path, number: int) -> None:
    act = f'{POINT_AT} front.dispatchEvent(new PointerEvent("pointermove", at({number})));'
    dom = dom_after(page, act, tmp_path)
    assert element(dom, "reading").startswith(f"Point {number}")
    assert all(repr(value) in element(dom, "reading") for value in vars(get_thresholds(TABLE, number)).values())


@pytest.mark.system
def test_far_from_every_point_nothing_changes(page: Path, tmp_path: Path) -> None:
    act = 'front.dispatchEvent(new PointerEvent("pointermove", {clientX: 1, clientY: 1, bubbles: true}));'
    assert element(dom_after(page, act, tmp_path), "reading").startswith("Point 1")


@pytest.mark.system
def test_a_click_copies_the_clients_command(page: Path, tmp_path: Path) -> None:
    dom = dom_after(page, f'{CLIPBOARD} {POINT_AT} front.dispatchEvent(new MouseEvent("click", at(2)));', tmp_path)
    assert copied(dom) == [format_client_command(get_thresholds(TABLE, 2))]
    assert element(dom, "said") == "The command of point 2 is copied."


@pytest.mark.system
def test_a_row_of_the_table_and_the_keyboard_do_the_same(page: Path, tmp_path: Path) -> None:
    act = """
    rows[3].click();
    for (const key of ["ArrowLeft", "ArrowLeft", "Enter"]) front.dispatchEvent(new KeyboardEvent("keydown", {key}));
    """
    dom = dom_after(page, CLIPBOARD + act, tmp_path)
    assert copied(dom) == [format_client_command(get_thresholds(TABLE, number)) for number in (3, 1)]


@pytest.mark.system
def test_where_the_clipboard_is_refused_the_command_is_selected(page: Path, tmp_path: Path) -> None:
    act = """
    Object.defineProperty(navigator, "clipboard", {value: {writeText: async () => { throw new Error("refused"); }}});
    copy(0).then(() => { document.body.dataset.selected = getSelection().toString(); });
    """
    dom = dom_after(page, act, tmp_path)
    assert f'data-selected="{format_client_command(get_thresholds(TABLE, 0))}"' in dom
    assert "copy it with Ctrl+C" in element(dom, "said")


def test_the_page_refers_to_no_other_address(page: Path) -> None:
    named = re.findall(r"(?:src|href)=\"([^\"]*)\"|url\(([^)]*)\)|https?://[^\s\"']+", page.read_text())
    assert {one for pair in named for one in pair} <= {"", "data:,"}
    assert re.findall(r"https?://[^\s\"']+", page.read_text()) == ["http://www.w3.org/2000/svg"]


@pytest.mark.system
def test_a_screenshot_shows_the_front(page: Path, tmp_path: Path) -> None:
    pixels = matplotlib.image.imread(screenshot(page, tmp_path))[..., :3]
    assert pixels.shape[:2] == (1000, 1200)
    blue = (np.abs(pixels - np.array([0x1F, 0x5F, 0xA8]) / 255) < 0.02).all(axis=-1)
    red = (np.abs(pixels - np.array([0xC0, 0x39, 0x2B]) / 255) < 0.02).all(axis=-1)
    assert blue.sum() > 300  # the line and the points
    assert red.sum() > 100  # the chosen one
    assert np.ptp(np.argwhere(blue)[:, 1]) > 700  # from the left of the picture to its right


def test_the_rates_of_the_point_on_other_months_are_below() -> None:
    elsewhere = evaluate_point(["m_2016_03"], [random_evaluation(50)], [], get_thresholds(TABLE, 1), CostModel())
    text = render_front_page(TABLE, 1, "t", elsewhere)
    assert "<h2>Point 1 on other months</h2>" in text
    assert "<td>m_2016_03</td><td>50</td>" in text
    assert f"<td>{100 * elsewhere['error'][0]:.2f}</td>" in text


@pytest.mark.system
def test_the_script_writes_the_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    find_chromium()
    write_front(FRONT, tmp_path / "a.sav")
    page = tmp_path / "a.html"
    ended = call(
        capsys, CHART, "--datafile", tmp_path / "a.sav", "--savefile", page, "--operation-point", "least-error"
    )
    assert (ended.code, ended.out.splitlines()[-1]) == (0, f"page -> {page}")
    assert element(dom_after(page, "", tmp_path), "reading").startswith("Point 3 (least-error)")
