#!/usr/bin/env python3
"""Measure the figures that the toolkit promises, on the published months, and print them.

Run:
    python tests/acceptance.py --output-folder acceptance-output

It needs the folder of published data that the environment variable IDS_SHARED names (default: ../shared) and takes some
ten minutes on two cores. Exit code 0: every figure is met; 1: one is not.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

from tests.benchmarks.results import write_results
from tests.capture_figures import captures
from tests.promised import FIGURE_COLUMNS, Figure
from tests.threshold_figures import fronts, operating_points, search_times
from utils import cli
from utils.errors import InputFileError, ToolkitError
from utils.files import make_folder

ROOT = Path(__file__).resolve().parents[1]
LATER_MONTHS = tuple(f"2016_{month:02d}" for month in range(2, 9))
SEEDS = (1, 2, 3)
EPOCHS = 8
GOALS = (90.0, 91.0)
SLACK = 0.5


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument("--output-folder", type=Path, default=Path("acceptance-output"), metavar="D")
    parser.add_argument(
        "--only", choices=sorted(STEPS), action="append", metavar="STEP", help="measure this alone: " + ", ".join(STEPS)
    )
    parser.add_argument(
        "--reuse", action="store_true", help="take the networks that an earlier run left in the output folder"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure as the arguments say; return the exit code."""
    from tests.captures import SHARED

    if not SHARED.is_dir():
        raise InputFileError(f"{SHARED}: no such folder; set IDS_SHARED to the folder of the published data")
    output = make_folder(args.output_folder)
    if not args.reuse:
        for stale in output.rglob("*.pth"):
            stale.unlink()
    figures: list[Figure] = []
    for step in args.only or STEPS:
        for figure in STEPS[step](SHARED / "data", output):
            figures.append(figure)
            print(f"  {figure.word}: {figure.name}: {figure.measured}", flush=True)
    path = output / "acceptance.json"
    write_results(path, FIGURE_COLUMNS, [figure.cells() for figure in figures])
    print(f"{len(figures)} figures -> {path}; tests/benchmarks/write-readme.py makes a table of them")
    return 1 if any(figure.met is False for figure in figures) else 0


def _script(script: str, *options: object) -> str:
    """Run one of the project's scripts and return what it printed."""
    print(f"$ python {script} {' '.join(map(str, options))}", flush=True)
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, options)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise ToolkitError(f"{script} ended with exit code {done.returncode}; its own message stands above")
    return done.stdout


def _trained(family: str, seed: int, data: Path, output: Path) -> Path:
    """Train on January alone, unless an earlier step of this run has, and return the best epoch's checkpoint."""
    folder = make_folder(output / f"{family}-{seed}")
    if not list(folder.glob("*.pth")):
        _script(
            "dnn/train-early-exit-network.py", "--dataset-folder", data / "dataset", "--glob", "2016_01",
            "--model", family, "--epochs", EPOCHS, "--keep", 1, "--seed", seed, "--output-folder", folder,
        )  # fmt: skip
    return next(folder.glob("*.pth"))


def _calibrated(family: str, seed: int, data: Path, output: Path) -> Path:
    path = output / f"{family}_{seed}_calibrated.pth"
    if not path.exists():
        _script(
            "calibration/Calibrate2exits.py", "--trained-model", _trained(family, seed, data, output),
            "--dataset", data / "dataset" / "2016_02.csv", "--calibrated-model-savefile", path,
        )  # fmt: skip
    return path


def accuracies(data: Path, output: Path) -> Iterator[Figure]:
    """Mean accuracy of both exits over February to August, trained on January."""
    import numpy as np

    import models
    from models.checkpoint import read_two_exits
    from models.prediction import predict
    from utils.classification_metrics import compute_accuracy
    from utils.dataset import read_labelled

    months = [read_labelled(data / "dataset" / f"{month}.csv") for month in LATER_MONTHS]
    for family in models.FAMILIES:
        means = []
        for seed in SEEDS:
            network, _ = read_two_exits(_trained(family, seed, data, output), family)
            by_month = [
                [
                    100 * compute_accuracy(logits.argmax(axis=1), labels)
                    for logits in predict(network, dataset.features, 500)
                ]
                for dataset, labels in months
            ]
            means.append(np.mean(by_month, axis=0))
        for number, goal in enumerate(GOALS):
            values = [float(mean[number]) for mean in means]
            measured = f"{statistics.mean(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})"
            yield Figure(
                f"{family}: mean accuracy 02–08 at exit {number + 1}, {EPOCHS} epochs on January, seeds {SEEDS}",
                f"≥ {goal:.1f} %, none below by > {SLACK}",
                f"{measured} %",
                statistics.mean(values) >= goal and min(values) >= goal - SLACK,
            )


def calibration(data: Path, output: Path) -> Iterator[Figure]:
    """ECE on March of networks calibrated on February."""
    import models
    from calibration.temperature import measure_quality
    from models.checkpoint import read_two_exits
    from models.prediction import predict
    from utils.classification_metrics import ECE_BINS
    from utils.dataset import read_labelled

    dataset, labels = read_labelled(data / "dataset" / "2016_03.csv")
    for family in models.FAMILIES:
        errors: list[list[float]] = [[], []]
        for seed in SEEDS:
            network, _ = read_two_exits(_calibrated(family, seed, data, output), family)
            for found, logits in zip(errors, predict(network, dataset.features, 500), strict=True):
                found.append(measure_quality(logits, labels).ece)
        for number, found in enumerate(errors, 1):
            yield Figure(
                f"{family}: ECE ({ECE_BINS} bins) on March at exit {number}, calibrated on February, seeds {SEEDS}",
                "≤ 0.03",
                ", ".join(f"{error:.4f}" for error in found),
                max(found) <= 0.03,
            )


def published(_data: Path, _output: Path) -> Iterator[Figure]:
    """Published state dicts load strictly and give the logits of the layers applied one by one."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/models/test_networks.py"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1]
    yield Figure(
        "published state dicts, all networks (pytest tests/models/test_networks.py)", "pass", last, not done.returncode
    )


def equality(data: Path, output: Path) -> Iterator[Figure]:
    """Offloaded exit 2 equals local exit 2 on every row of a month, and the two segments the whole network."""
    import numpy as np
    import pandas as pd
    import torch

    import models
    from models.calibrated import CalibratedNetwork
    from models.checkpoint import read_two_exits
    from models.prediction import iterate_batches
    from offload.link.broker import PASSWORD_VARIABLE
    from offload.link.private_broker import PrivateBroker
    from utils.classification_metrics import classify
    from utils.dataset import read_dataset

    month = data / "dataset" / "2016_03.csv"
    with PrivateBroker() as broker:
        os.environ[PASSWORD_VARIABLE] = broker.password
        for family in models.FAMILIES:
            path = _calibrated(family, SEEDS[0], data, output)
            common = (
                "--trained-network-file", path, "--network", family,
                "--mq-hostname", "127.0.0.1", "--mq-port", broker.port, "--mq-username", broker.username,
            )  # fmt: skip
            tables = {}
            with subprocess.Popen(
                [sys.executable, str(ROOT / "offload/ee-processor-server.py"), *map(str, common), "--quiet"],
                stdout=subprocess.DEVNULL,
            ) as worker:
                try:
                    for way in ("--payload=features", "--payload=activations", "--process-exit2-locally"):
                        savefile = output / f"{family}_offload.csv"
                        # A threshold of 1 at exit 1 offloads every event of the month.
                        _script(
                            "offload/ee-processor-client.py", *common, "--dataset", month, "--savefile", savefile, way,
                            "--normal-exit1-min-certainty", 1, "--attack-exit1-min-certainty", 1,
                        )  # fmt: skip
                        tables[way] = pd.read_csv(savefile)
                finally:
                    worker.terminate()
            local = tables.pop("--process-exit2-locally")
            for way, table in tables.items():
                equal = bool((table["exit_2_prediction"] == local["exit_2_prediction"]).all())
                gap = float((table["exit_2_certainty"] - local["exit_2_certainty"]).abs().max())
                yield Figure(
                    f"{family}: offloaded = local exit 2, {len(table)} rows of March, {way.partition('=')[2]}",
                    "labels equal, Δ certainty ≤ 1e-5",
                    f"labels {'equal' if equal else 'differ'}, {gap:.1e}",
                    equal and gap <= 1e-5,
                )
            network, _ = read_two_exits(path)
            assert isinstance(network, CalibratedNetwork)
            inner, gap = network.model, 0.0
            with torch.inference_mode():
                for images in iterate_batches(read_dataset(month).features, 500):
                    # The whole network layer after layer, through none of the methods that edge and cloud call.
                    layers = torch.nn.Sequential(inner.transform, *inner.backbone, inner.exits[1])
                    whole = (layers(images) / network.temperature[1]).numpy()
                    parts = network.cloud(network.edge(images)[0]).numpy()
                    gap = max(gap, float(np.abs(classify(parts)[1] - classify(whole)[1]).max()))
            yield Figure(f"{family}: edge then cloud = whole network", "Δ certainty ≤ 1e-5", f"{gap:.1e}", gap <= 1e-5)


def objectives(data: Path, _output: Path) -> Iterator[Figure]:
    """The objectives' speed per candidate against the plain version, in turns within one run."""
    import numpy as np
    import pandas as pd

    from nsga2.objectives import Objectives
    from tests.nsga2.plain_objectives import plain_scores
    from utils.results import read_evaluation

    for name in ("alexnet_pc_2016_02", "mobilenet_pc_2016_03"):
        path = data / "evaluations" / f"{name}.csv"
        judge, table = Objectives(read_evaluation([path])), pd.read_csv(path)
        population = np.random.default_rng(1).uniform(0.5, 1.0, (80, 4))
        ratios, ours = [], []
        for turn in range(15):
            start = time.perf_counter()
            judge.score(population)
            fast = (time.perf_counter() - start) / len(population)
            some = population[4 * turn : 4 * turn + 4]
            start = time.perf_counter()
            for candidate in some:
                plain_scores(table, candidate)
            ratios.append((time.perf_counter() - start) / len(some) / fast)
            ours.append(fast)
        yield Figure(
            f"objectives per candidate against the plain DataFrame version, {name}, {len(table)} rows",
            "≥ 50×",
            f"{statistics.median(ratios):.0f}× (from {min(ratios):.0f} to {max(ratios):.0f}), "
            f"{1e6 * statistics.median(ours):.0f} µs",
            statistics.median(ratios) >= 50,
        )


def help_times(_data: Path, _output: Path) -> Iterator[Figure]:
    """How long each script's --help takes: the median of five runs."""
    medians = {}
    for script in sorted(
        path for path in ROOT.glob("*/*.py") if "__main__" in path.read_text() and path.parent.name != "tests"
    ):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, str(script), "--help"], stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - start)
        medians[script.name] = statistics.median(times)
    slowest = max(medians, key=lambda name: medians[name])
    yield Figure(
        f"--help of {len(medians)} scripts, the slowest ({slowest})",
        "≤ 0.3 s",
        f"{medians[slowest]:.2f} s",
        medians[slowest] <= 0.3,
    )


def int8(data: Path, output: Path) -> Iterator[Figure]:
    """MobileNetV2 with 8-bit convolutions at the edge, and AlexNet at a worker in 8 bits, beside float32."""
    from tests.edge_figures import int8_accuracy, int8_worker

    yield from int8_accuracy(_calibrated("mobilenet", SEEDS[0], data, output), data)
    for seed in SEEDS:
        yield int8_worker(_calibrated("alexnet", seed, data, output), data)


STEPS = {
    "accuracy": accuracies,
    "calibration": calibration,
    "published": published,
    "equality": equality,
    "int8": int8,
    "objectives": objectives,
    "fronts": fronts,
    "search": search_times,
    "operating-points": operating_points,
    "captures": captures,
    "help": help_times,
}


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
