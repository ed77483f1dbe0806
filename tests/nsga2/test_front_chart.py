import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from nsga2.front_chart import draw_front
from nsga2.operating_point import (
    COLUMNS,
    build_front_table,
    compute_nearness,
    find_point,
    format_client_command,
    get_thresholds,
    marks,
)
from tests.captures import SHARED, needs_shared
from tests.nsga2.test_operating_point import FRONT, front_of
from tests.scripts import call
from utils.plotting import save_figure
from utils.results import Front, read_front, write_front

SCRIPT = "nsga2/gen-op-point-chart.py"
PUBLISHED = sorted((SHARED / "data" / "nsga2").glob("*.sav"))
SIGNATURES = {".png": b"\x89PNG\r\n\x1a\n", ".pdf": b"%PDF-", ".svg": b"<?xml"}


@pytest.fixture
def datafile(tmp_path: Path) -> Path:
    write_front(FRONT, tmp_path / "front.sav")
    return tmp_path / "front.sav"


def test_the_script_prints_the_command_of_the_point_it_names(
    capsys: pytest.CaptureFixture[str], datafile: Path, tmp_path: Path
) -> None:
    for point, source in enumerate((1, 2, 3, 0)):
        ended = call(
            capsys, SCRIPT, "--datafile", datafile, "--savefile", tmp_path / "p.svg", "--operation-point", point
        )
        assert (ended.code, ended.err) == (0, "")
        assert f"operation point {point}:" in ended.out
        assert format_client_command(FRONT.point(source)) in ended.out.splitlines()


def test_the_default_operation_point_is_5_or_the_last(
    capsys: pytest.CaptureFixture[str], datafile: Path, tmp_path: Path
) -> None:
    many = tmp_path / "many.sav"
    write_front(front_of(*((1 / (time + 2), time / 10) for time in range(9))), many)
    for path, point in ((many, 5), (datafile, 3)):
        ended = call(capsys, SCRIPT, "--datafile", path, "--savefile", tmp_path / "p.svg")
        assert f"operation point {point}:" in ended.out


def test_the_knee_is_the_point_closest_to_the_ideal(
    capsys: pytest.CaptureFixture[str], datafile: Path, tmp_path: Path
) -> None:
    arguments = ("--datafile", datafile, "--savefile", tmp_path / "p.svg", "--operation-point", "knee")
    ended = call(capsys, SCRIPT, *arguments)
    best = int(compute_nearness(build_front_table(FRONT)[["error", "time"]].to_numpy()).argmax())
    assert f"operation point {best}:" in ended.out


def test_an_operation_point_beyond_the_end_is_one_line_and_no_picture(
    capsys: pytest.CaptureFixture[str], datafile: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "p.png"
    ended = call(capsys, SCRIPT, "--datafile", datafile, "--savefile", picture, "--operation-point", 4)
    (line,) = ended.err.splitlines()
    assert ended.code == 2
    assert line.endswith(f"{datafile}: has no operation point 4; its front has the points 0 to 3")
    assert not picture.exists()


@needs_shared
@pytest.mark.parametrize("path", PUBLISHED, ids=[path.stem for path in PUBLISHED])
def test_a_published_result_file_gives_table_and_picture(
    capsys: pytest.CaptureFixture[str], path: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "front.png"
    ended = call(capsys, SCRIPT, "--datafile", path, "--savefile", picture)
    assert (ended.code, ended.err) == (0, "")
    table = build_front_table(read_front(path))
    assert ended.out.splitlines()[0].split() == list(COLUMNS)
    assert len(re.findall(r"^ +(?:\d+|-) +\d+\.\d{4} +0\.\d{4} ", ended.out, re.MULTILINE)) == len(table) > 20
    assert format_client_command(get_thresholds(table, find_point(table, 5, path))) in ended.out.splitlines()
    assert picture.read_bytes().startswith(SIGNATURES[".png"])


@needs_shared
@pytest.mark.parametrize("path", PUBLISHED, ids=[path.stem for path in PUBLISHED])
def test_a_published_result_file_has_no_point_beyond_its_end(
    capsys: pytest.CaptureFixture[str], path: Path, tmp_path: Path
) -> None:
    last = int(build_front_table(read_front(path))["point"].max())
    arguments = ("--datafile", path, "--savefile", tmp_path / "p.svg", "--operation-point")
    assert call(capsys, SCRIPT, *arguments, last).code == 0
    ended = call(capsys, SCRIPT, *arguments, last + 1)
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)


@pytest.mark.parametrize("ending", [".png", ".pdf", ".svg", ".PNG"])
def test_a_picture_has_the_format_that_its_name_says(
    capsys: pytest.CaptureFixture[str], datafile: Path, tmp_path: Path, ending: str
) -> None:
    picture = tmp_path / f"front{ending}"
    ended = call(capsys, SCRIPT, "--datafile", datafile, "--savefile", picture)
    assert (ended.code, ended.out.splitlines()[-1]) == (0, f"picture -> {picture}")
    assert picture.read_bytes().startswith(SIGNATURES[ending.lower()])


@pytest.mark.parametrize("name", ["front.jpg", "front", "png", "front.png.", "front.sav"])
def test_another_ending_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], datafile: Path, tmp_path: Path, name: str
) -> None:
    before = sorted(tmp_path.iterdir())
    ended = call(capsys, SCRIPT, "--datafile", datafile, "--savefile", tmp_path / name)
    (line,) = ended.err.splitlines()
    assert ended.code == 2
    assert f"{tmp_path / name}: the ending must say the picture's format, one of .png, .pdf, .svg, .html" in line
    assert sorted(tmp_path.iterdir()) == before


def marked(figure: Figure) -> list[tuple[float, float]]:
    """Return every drawn point that lies within the axes."""
    figure.canvas.draw()
    (axes,) = figure.axes
    points = [(float(x), float(y)) for line in axes.lines for x, y in np.asarray(line.get_xydata())]
    return [point for point in points if axes.bbox.contains(*axes.transData.transform(point))]


@pytest.mark.parametrize(
    "front",
    [
        FRONT,
        front_of((0.1, 0.4)),
        front_of((0.0, 1.0), (1.0, 0.0)),
        front_of((0.2, -3.0), (1e-9, 250.0)),
        front_of((0.2, 0.5), (0.2, 0.5 + 1e-13)),
    ],
    ids=["usual", "one point", "from end to end", "far outside", "hardly apart"],
)
def test_the_axes_hold_every_point(front: Front) -> None:
    table = build_front_table(front)
    expected = list(zip(table["time"], 100 * table["error"], strict=True))
    # The operation point, and the knee and the ends of the front, are drawn once more.
    expected += [expected[0], *(expected[point] for point in marks(table).values())]
    assert sorted(marked(draw_front(table, 0, "front"))) == sorted(expected)


def test_the_picture_names_its_axes_the_file_and_the_chosen_point() -> None:
    (axes,) = draw_front(build_front_table(FRONT), 1, "a file.sav").axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "Pareto front",
        "knee (point 1)",
        "least-error (point 3)",
        "least-cost (point 0)",
        "operation point 1: error 5.00 %, time 0.200",
    ]
    assert (axes.get_title(), axes.get_ylabel()) == ("a file.sav", "error of accepted events, %")
    assert "normalised time" in axes.get_xlabel()


@pytest.mark.parametrize("name", ["$", r"$\nothing$", "a_{$_{$", "50% $5_{"])
def test_a_file_name_that_looks_like_a_formula_is_drawn_as_text(tmp_path: Path, name: str) -> None:
    save_figure(draw_front(build_front_table(FRONT), 0, name), tmp_path / "p.png")
