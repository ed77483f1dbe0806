"""The commands of the README that was published with the paper run as they are printed there, in that order.

The files that they need are made in the published form and come through the download scripts, from a server of this
test. Three things differ from the printed text: epochs are cut to 1, checkpoints go to the test's folder in place of
/tmp, and the broker is a private one, whose port is added.
"""

import io
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pytest
import torch

from models import ARCHITECTURES
from models.calibrated import add_temperatures
from tests.captures import SHARED, needs_shared
from tests.controlled_broker import ControlledBroker
from tests.download_server import Answer, DownloadServer, running_server
from tests.scripts import ROOT, SCRIPTS
from trained_models.checkpoint_catalog import CATALOG
from utils.schema import EVALUATION_COLUMNS, INFERENCE_COLUMNS, OFFLOAD_COLUMNS

STAGES: Final = (
    "calibration",
    "dataset",
    "dnn",
    "evaluations",
    "models",
    "nsga2",
    "offload",
    "trained_models",
    "utils",
)
ROWS: Final = 200
SECONDS: Final = 600
TRAINING: Final = (
    "dnn/train-early-exit-network.py --dataset-folder dataset --model mobilenet --epochs 1000 --output-folder /tmp",
    "dnn/train-early-exit-network.py --dataset-folder dataset --model alexnet --epochs 1000 --output-folder /tmp",
)
CALIBRATION: Final = (
    "calibration/Calibrate2exits.py --model alexnet --trained-model trained_models/AlexNetWithExits.pth "
    "--calibrated-model-savefile AlexNetWithExits_calibrated.pth --dataset dataset/2016_02.csv",
    "calibration/Calibrate2exits.py --model mobilenet --trained-model trained_models/MobileNetV2WithExits.pth "
    "--calibrated-model-savefile MobileNetV2WithExits_calibrated.pth --dataset dataset/2016_02.csv",
)
EVALUATION: Final = (
    "evaluations/generate-model-evaluation-csv.py --trained-model trained_models/AlexNetWithExits_calibrated.pth "
    "--model alexnet --dataset dataset/2016_01.csv --savefile evaluations/alexnet/2016_01_eval.csv",
    "evaluations/generate-model-evaluation-csv.py --trained-model trained_models/MobileNetV2WithExits_calibrated.pth "
    "--model mobilenet --dataset dataset/2016_01.csv --savefile evaluations/mobilenet/2016_01_eval.csv",
)
SEARCH: Final = (
    "nsga2/nsga2_2variables.py --eval-file evaluations/mobilenet/2016_01_eval.csv "
    "--savefile evaluations/mobilenet/mobilenet_nsga_2016_01.bin",
    "nsga2/nsga2_2variables.py --eval-file evaluations/alexnet/2016_01_eval.csv "
    "--savefile evaluations/alexnet/alexnet_nsga_2016_01.bin",
)
CHART: Final = (
    "nsga2/gen-op-point-chart.py --datafile evaluations/saved/alexnet_x_f_0.9_2016_23.sav "
    "--savefile evaluations/op-point-alexnet.png --operation-point 55",
    "nsga2/gen-op-point-chart.py --datafile evaluations/saved/mobilenet_x_f_0.9_2016_23.sav "
    "--savefile evaluations/op-point-mobilenet.png --operation-point 55",
)
INFERENCE: Final = (
    "dnn/inference.py --trained-model trained_models/AlexNetWithExits_calibrated.pth --model alexnet "
    "--dataset dataset/2016_01.csv --savefile results.csv",
    "dnn/inference.py --trained-model trained_models/MobileNetV2WithExits_calibrated.pth --model mobilenet "
    "--dataset dataset/2016_01.csv --savefile results.csv",
)
SERVER: Final = (
    "offload/ee-processor-server.py --mq-username remote --mq-password remote --mq-hostname 127.0.0.1 "
    "--mq-queue ee-alexnet --trained-network-file trained_models/AlexNetWithExits_calibrated.pth --network alexnet"
)
CLIENT: Final = (
    "offload/ee-processor-client.py --mq-username remote --mq-password remote --mq-hostname 127.0.0.1 "
    "--mq-queue ee-alexnet --trained-network-file trained_models/AlexNetWithExits_calibrated.pth --network alexnet "
    "--dataset dataset/2016_01.csv --normal-exit1-min-certainty 0.913411 --attack-exit1-min-certainty 0.732164 "
    "--normal-exit2-min-certainty 0.926571 --attack-exit2-min-certainty 0.90211 --savefile results.csv"
)
FETCH_MODELS: Final = "trained_models/download-trained-models.py"
PRINTED: Final = (
    *TRAINING, FETCH_MODELS, *CALIBRATION, *EVALUATION, *SEARCH, *CHART, *INFERENCE, SERVER, CLIENT,
)  # fmt: skip
"""In the order of the published README."""


def environment() -> dict[str, str]:
    """Return the environment of a shell in which the virtual environment is active."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "NO_PROXY": "127.0.0.1",
    }


class Checkout:
    """A copy of the project's stages, in which commands are typed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("__pycache__", "*.pth", "2016_*", "network", "saved")
        for stage in STAGES:
            shutil.copytree(ROOT / stage, folder / stage, ignore=ignored)

    def type(self, command: str, **variables: str) -> str:
        """Run a command of the shell; return what it printed. It may warn, as of untrained networks, but not fail."""
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.folder,
            env=environment() | variables,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        complaints = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
        assert (done.returncode, complaints) == (0, []), f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def columns(self, name: str) -> list[str]:
        """Return the columns of a CSV, which has a row for each row of the dataset."""
        table = pd.read_csv(self.folder / name)
        assert len(table) == ROWS
        return [str(name) for name in table]


def published_checkpoint(architecture: str, *, with_temperatures: bool) -> bytes:
    """Return a checkpoint as published: a plain state dict, here of an untrained network."""
    torch.manual_seed(1)
    network = ARCHITECTURES[architecture].create()
    state = (add_temperatures(network) if with_temperatures else network).state_dict()
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def published_front() -> bytes:
    """Return an NSGA-II result file as published: a pickled list of arrays and numbers."""
    share = np.linspace(0, 1, 100)
    thresholds = np.stack([0.5 + share / 2, 0.5 + share / 3, 0.6 + share / 4, 0.7 + share / 5], axis=1)
    objectives = np.stack([0.11 - 0.05 * share, share**2], axis=1)
    return pickle.dumps([thresholds, objectives, 100.0, 1000.0, 0.88, 1.0, 0.89, 1.0])


@pytest.fixture(scope="module")
def server() -> Iterator[DownloadServer]:
    """A server that has all the files of the published repository and of Google Drive that are downloaded."""
    with running_server() as running:
        for month in ("2016_01", "2016_02"):
            lines = (ROOT / "dataset" / "sample" / f"{month}.csv").read_bytes().splitlines(keepends=True)
            running.files[f"/dataset/{month}.csv"] = [Answer(b"".join(lines[: ROWS + 1]))]
        for network in ("alexnet", "mobilenet"):
            running.files[f"/evaluations/saved/{network}_x_f_0.9_2016_23.sav"] = [Answer(published_front())]
        for entry in CATALOG:
            architecture, mark, _ = entry.name.partition("_calibrated")
            body = published_checkpoint(architecture, with_temperatures=bool(mark))
            running.drive[entry.drive_id] = body
        yield running


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_starts_by_its_name_alone(script: str) -> None:
    done = subprocess.run([script, "--help"], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {Path(script).name} ")


@needs_shared
def test_the_commands_below_are_the_printed_ones() -> None:
    text = (SHARED / "design" / "published-readme.txt").read_text().replace("\\\n", " ")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    printed = [line for line in lines if re.match(r"\w+/[\w-]+\.py( --[^h]|$)", line)]
    assert printed == list(PRINTED)


def test_the_published_commands_run_in_their_order(
    server: DownloadServer, broker: ControlledBroker, tmp_path: Path
) -> None:
    here = Checkout(tmp_path / "checkout")
    here.type(f"dataset/download-dataset.py --months 2016_01 2016_02 --base-url {server.url}")
    here.type(f"evaluations/download-saved-results.py --base-url {server.url}")
    for command in TRAINING:
        output = here.type(command.replace("--epochs 1000", "--epochs 1").replace("/tmp", str(tmp_path / "saves")))
        assert output.startswith("device: cpu")
    assert len(list((tmp_path / "saves").glob("*WithExits_*_epoch_1_*.pth"))) == 2
    here.type(FETCH_MODELS, **server.environment)
    for command in CALIBRATION:
        assert here.type(command).startswith("device: cpu")
    assert {path.name for path in here.folder.glob("*.pth")} == {
        "AlexNetWithExits_calibrated.pth",
        "MobileNetV2WithExits_calibrated.pth",
    }
    for command in EVALUATION:
        here.type(command)
    assert here.columns("evaluations/alexnet/2016_01_eval.csv") == list(EVALUATION_COLUMNS)
    for command in SEARCH:
        here.type(command)
    for command in CHART:
        assert "operation point 55:" in here.type(command)
    for command in INFERENCE:
        here.type(command)
        assert here.columns("results.csv") == [*INFERENCE_COLUMNS, "class"]
    offload(here, broker)


def offload(here: Checkout, broker: ControlledBroker) -> None:
    """Run the printed worker and client, as the printed user with the printed rights."""
    broker.control("add_user", "remote", "remote")
    broker.control("set_permissions", "-p", "/", "remote", ".*", ".*", ".*")
    port = f"--mq-port {broker.port}"
    with subprocess.Popen(
        ["sh", "-c", f"exec {SERVER} {port}"], cwd=here.folder, env=environment(), stdout=subprocess.PIPE, text=True
    ) as worker:
        try:
            assert worker.stdout is not None
            assert any(line.startswith("ready: ") for line in worker.stdout)
            printed = here.type(f"{CLIENT} {port}")
        finally:
            worker.send_signal(signal.SIGTERM)
        assert worker.wait(SECONDS) == 0
    assert re.search(r"offloaded\D+\d", printed)
    assert here.columns("results.csv") == list(OFFLOAD_COLUMNS)


def test_outside_of_the_virtual_environment_a_script_names_the_package_and_the_remedy() -> None:
    command = ["nsga2/gen-op-point-chart.py", "--datafile", "a.sav", "--savefile", "a.png"]
    isolated = [sys.executable, "-I", "-S", *command]  # without any installed package
    done = subprocess.run(isolated, cwd=ROOT, capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert re.search(r"error: the package \w+ is not installed; activate the virtual environment .*", line)
