"""Measured tables get into the README with the command, the machine, the date and the commit."""

import json
import runpy
from pathlib import Path

import pytest

from tests.benchmarks.results import describe_run, write_results
from tests.scripts import ROOT, call

SCRIPT = "tests/benchmarks/write-readme.py"


def test_a_table_replaces_the_one_between_its_markers_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme, results = tmp_path / "README.md", tmp_path / "speed.json"
    readme.write_text(
        "# Measured\n<!-- speed -->\nold\n<!-- end of speed -->\nprose\n<!-- other -->\n<!-- end of other -->\n"
    )
    write_results(results, ("step", "ratio"), [("exit 1", "9×"), ("a|b", "2×")], note="kept")
    assert call(capsys, SCRIPT, results, "--readme", readme).code == 0
    before, _, rest = readme.read_text().partition("<!-- speed -->\n")
    table, _, after = rest.partition("<!-- end of speed -->")
    assert (before, after) == ("# Measured\n", "\nprose\n<!-- other -->\n<!-- end of other -->\n")
    run = describe_run()
    origin, blank, *lines = table.splitlines()
    assert origin == f"`{run['command']}` on {run['machine']}, {run['date']}, commit {run['commit']}:"
    assert (blank, lines) == ("", ["| step | ratio |", "| --- | --- |", "| exit 1 | 9× |", "| a/b | 2× |"])
    assert json.loads(results.read_text())["note"] == "kept"


def test_results_without_markers_are_refused_and_the_readme_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme, results = tmp_path / "README.md", tmp_path / "speed.json"
    readme.write_text("prose\n")
    write_results(results, ("step",), [("exit 1",)])
    done = call(capsys, SCRIPT, results, "--readme", readme)
    assert done.code == 2
    assert "has no markers <!-- speed --> and <!-- end of speed -->" in done.err
    assert readme.read_text() == "prose\n"


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_file_without_results_is_refused_in_one_line(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "speed.json"
    if content is not None:
        path.write_bytes(content)
    done = call(capsys, SCRIPT, path)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert str(path) in done.err


@pytest.mark.parametrize("script", ["tests/compare_revisions.py", "tests/benchmarks/compare-edge.py"])
def test_an_unknown_revision_is_refused_in_one_line(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, script, "--reference", "no-such-revision")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "git knows no such revision" in done.err


def test_the_readme_has_the_markers_of_all_measurements() -> None:
    replace = runpy.run_path(str(ROOT / SCRIPT))["replace_table"]
    text = (ROOT / "tests" / "benchmarks" / "README.md").read_text()
    for name in ("acceptance", "operating-points", "bench", "soak"):
        results = {**describe_run(), "columns": ["figure"], "rows": [["1"]]}
        assert "| figure |" in replace(text, name, results)
