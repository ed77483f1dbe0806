"""Finds the project's scripts, whose names are no module names, and calls them inside the test process."""

import functools
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUARD = 'if __name__ == "__main__":'
SCRIPTS = tuple(
    str(path.relative_to(ROOT))
    for path in sorted(ROOT.glob("*/*.py"))
    if GUARD in path.read_text() and path.parent.name != "tests"
)


@functools.cache
def load_script(script: str) -> ModuleType:
    """Return a script, given by its path from the root, as a module."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@dataclass(frozen=True)
class Ended:
    """How a call of a script ended."""

    code: int
    out: str
    err: str


def call(capsys: pytest.CaptureFixture[str], script: str, *arguments: object) -> Ended:
    """Call a script's ``main`` as its own process would, and return how it ended."""
    module = load_script(script)
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script])  # argparse takes the program's name from it
        try:
            code = module.main([str(argument) for argument in arguments])
        except SystemExit as left:  # argparse
            code = left.code
    out, err = capsys.readouterr()
    return Ended(code, out, err)
