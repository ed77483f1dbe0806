"""Find the project's scripts, whose names are not module names, and call them in the test process."""

import functools
import importlib.util
import sys
from collections.abc import Mapping
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

TRAIN = "dnn/train-early-exit-network.py"
EXPORT = "dnn/export-edge-model.py"
RENEW = "dnn/renew-network.py"
CALIBRATE = "calibration/Calibrate2exits.py"
EVALUATE = "evaluations/generate-model-evaluation-csv.py"
YEAR = "evaluations/evaluate-year.py"
CHOOSE = "evaluations/choose-for-labels.py"
ENERGY = "evaluations/measure-energy.py"
REPRODUCE = "figs/reproduce-figures.py"
MAKE_RESULTS = "figs/make-results.py"
SEARCH = "nsga2/nsga2_2variables.py"
CERTIFY = "nsga2/certify-thresholds.py"
CHART = "nsga2/gen-op-point-chart.py"
INFER = "dnn/inference.py"
SERVER = "offload/ee-processor-server.py"
CLIENT = "offload/ee-processor-client.py"
GENERATOR = "offload/ee-client-generator.py"
DEMO = "offload/demo.py"
DEMO_LIVE = "offload/demo-live.py"
DEMO_YEAR = "offload/demo-year.py"
EXTRACT = "dataset/extract-features.py"
MAKE_SAMPLE = "dataset/make-sample-dataset.py"
FETCH_RESULTS = "evaluations/download-saved-results.py"
FETCH_DATASET = "dataset/download-dataset.py"
FETCH_MODELS = "trained_models/download-trained-models.py"


@functools.cache
def load_script(script: str) -> ModuleType:
    """Return a script as a module, given its path from the root."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@dataclass(frozen=True)
class Ended:
    """The result of a call of a script: exit code and output."""

    code: int
    out: str
    err: str


def call(capsys: pytest.CaptureFixture[str], script: str, *arguments: object) -> Ended:
    """Call the ``main`` of a script as its own process would, and return the result."""
    module = load_script(script)
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script])  # from which argparse takes the name of the program
        try:
            code = module.main([str(argument) for argument in arguments])
        except SystemExit as left:  # argparse
            code = left.code
    out, err = capsys.readouterr()
    return Ended(code, out, err)


def flat(options: Mapping[str, object]) -> list[object]:
    """Return options and their values as a list of arguments."""
    return [part for pair in options.items() for part in pair]
