"""Figures about thresholds: exactness and speed of the searches, and the value of operating points."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from tests.promised import Figure

ROOT = Path(__file__).resolve().parents[1]
SEARCH = ROOT / "nsga2" / "nsga2_2variables.py"
LEAST = 0.9
SEEDS = (1, 2, 3, 4, 5)
REFERENCE = (0.2, 1.05)
TIMINGS = {"network": "AlexNet", "datacenter": "ibm-sp", "input_size": "8"}


def fronts(data: Path, output: Path) -> Iterator[Figure]:
    """Yield time, memory and error of the exact front on few and many rows, and the hypervolume of NSGA-II."""
    from nsga2.exact_front import find_exact_front
    from nsga2.objectives import Objectives
    from nsga2.problem import ThresholdsProblem
    from nsga2.search import compute_hypervolume, search_front
    from utils.results import read_evaluation, read_front

    mobilenet = data / "evaluations" / "mobilenet_pc_2016_03.csv"
    seconds, _, _ = _run_search(output, "--solver", "exact", "--eval-file", mobilenet)
    least = read_front(output / "front.sav").objectives[:, 0].min()
    yield Figure("exact front of 5,000 rows, one core, start included", "≤ 10 s", f"{seconds:.2f} s", seconds <= 10)
    yield Figure(
        "its least error, mobilenet_pc_2016_03, acceptance 0.9", "5.93 %", f"{100 * least:.2f} %",
        f"{100 * least:.2f}" == "5.93",
    )  # fmt: skip
    many = _write_many_rows(data, output, 100_000)
    seconds, memory, said = _run_search(output, "--solver", "exact", "--eval-file", many)
    yield Figure(
        "exact front of 100,000 distinct rows, one core", "≤ 60 s and ≤ 4 GB",
        f"{seconds:.1f} s, {memory / 2**30:.2f} GiB; {said.splitlines()[0]}", seconds <= 60 and memory <= 4e9,
    )  # fmt: skip
    shares = {}
    for path in sorted((data / "evaluations").glob("*_2016_0[23].csv")):
        if "single" in path.name:
            continue
        problem = ThresholdsProblem(Objectives(read_evaluation([path])), LEAST)
        best = compute_hypervolume(find_exact_front(problem.objectives, LEAST).front.objectives, *REFERENCE)
        found = [search_front(problem, 100, 80, 1000, seed).objectives for seed in SEEDS]
        shares[path.stem] = min(compute_hypervolume(points, *REFERENCE) / best for points in found)
    worst = min(shares, key=lambda name: shares[name])
    yield Figure(
        f"hypervolume of NSGA-II, the worst of {len(SEEDS)} seeds on {len(shares)} evaluations ({worst})",
        "≥ 0.995 of exact", f"{shares[worst]:.5f}", len(shares) == 8 and shares[worst] >= 0.995,
    )  # fmt: skip


def search_times(data: Path, output: Path) -> Iterator[Figure]:
    """Yield the time of NSGA-II on 5,000 rows, and its ratio on a million rows, measured alternately."""
    from nsga2.objectives import Objectives
    from nsga2.problem import ThresholdsProblem
    from nsga2.search import search_front
    from utils.results import read_evaluation

    alexnet = data / "evaluations" / "alexnet_pc_2016_02.csv"
    seconds, _, _ = _run_search(output, "--eval-file", alexnet)
    yield Figure(
        "NSGA-II, 100 / 80 / 1,000 generations, 5,000 rows, one core, start included", "≤ 15 s", f"{seconds:.1f} s",
        seconds <= 15,
    )  # fmt: skip
    few = ThresholdsProblem(Objectives(read_evaluation([alexnet])), LEAST)
    evaluation = read_evaluation([_write_many_rows(data, output, 1_000_000)])
    start = time.perf_counter()
    many = ThresholdsProblem(Objectives(evaluation), LEAST)
    sorting = time.perf_counter() - start
    ratios = []
    for seed in SEEDS[:3]:
        times = []
        for problem in (few, many):
            start = time.perf_counter()
            search_front(problem, 100, 80, 1000, seed)
            times.append(time.perf_counter() - start)
        ratios.append((times[1] + sorting) / times[0])
    yield Figure(
        "NSGA-II on one million distinct rows against 5,000, after reading", "≤ 3×",
        f"{statistics.median(ratios):.2f}× (from {min(ratios):.2f} to {max(ratios):.2f}), of it sorting the rows "
        f"{sorting:.1f} s", statistics.median(ratios) <= 3,
    )  # fmt: skip


def operating_points(data: Path, _output: Path) -> Iterator[Figure]:
    """Yield the operating points of the published AlexNet at acceptance 0.9 on February and March."""
    from nsga2.defaults import LEAST_COST
    from nsga2.exact_front import find_exact_front
    from nsga2.objectives import Objectives
    from nsga2.operating_point import (
        CostModel,
        Limits,
        build_front_table,
        choose_within,
        evaluate_point,
        get_thresholds,
        marks,
    )
    from utils.classification_metrics import accuracy
    from utils.cost_models import read_cost_per_offload
    from utils.results import SingleExitEvaluation, read_evaluation, read_single_exit_evaluation

    folder, months = data / "evaluations", ("2016_02", "2016_03")
    both = read_evaluation([folder / f"alexnet_rpi_{month}.csv" for month in months])
    parts = [vars(read_single_exit_evaluation(folder / f"alexnet_single_rpi_{month}.csv")) for month in months]
    single = SingleExitEvaluation(*(np.concatenate([part[name] for part in parts]) for name in parts[0]))
    as_good = Limits(error=1 - accuracy(single.prediction, single.labels))
    one_by_one, by_ten = (
        read_cost_per_offload(folder / "rpi_offload_timings.tsv", {**TIMINGS, "batch_size": size})
        for size in ("1", "10")
    )
    models = {
        "the whole path (paper)": CostModel("paper"),
        "the edge alone, offloading one by one": CostModel("edge", one_by_one),
        "the edge alone, offloading by ten": CostModel("edge", by_ten),
    }
    for title, model in models.items():
        table = build_front_table(
            find_exact_front(Objectives(both, model.name, model.cost_per_offload), LEAST).front, both
        )
        points = {"as good as the single exit": choose_within(table, as_good), **marks(table)}
        del points[LEAST_COST]  # all at exit 1: it offloads nothing
        for name, point in points.items():
            row = evaluate_point(["Feb+Mar"], [both], [single], get_thresholds(table, point), model).iloc[0]
            yield Figure(
                f"published AlexNet, Raspberry Pi, Feb+Mar, acceptance ≥ 0.9, cost of {title}: {name}",
                "beside the paper's claim: 1 % of the cost, 10 % offloaded, equal accuracy",
                f"error {100 * row['error']:.2f} % (single exit {100 * row['single_exit_error']:.2f} %), acceptance "
                f"{100 * row['acceptance']:.1f} %, offloaded {100 * row['offloaded']:.1f} %, cost "
                f"{100 * row['of_single_exit']:.2f} % of the single exit's",
                None,
            )


def _write_many_rows(data: Path, output: Path, count: int) -> Path:
    """Write an evaluation of ``count`` rows: those of a published one with noise, so that almost all are distinct."""
    path = output / f"evaluation_{count}.csv"
    if not path.exists():
        table = pd.read_csv(data / "evaluations" / "mobilenet_pc_2016_03.csv")
        generator = np.random.default_rng(1)
        drawn = table.iloc[generator.integers(0, len(table), count)].reset_index(drop=True)
        for column in ("cnf_exit_1", "cnf_exit_2"):
            drawn[column] = np.clip(drawn[column] + generator.normal(0, 0.01, count), 0.5, 1.0)
        drawn.to_csv(path, index=False)
    return path


def _run_search(output: Path, *options: object) -> tuple[float, int, str]:
    """Run the script on one core; return its seconds, its peak memory in bytes and its output."""
    command = [sys.executable, SEARCH, "--min-acceptance", LEAST, "--savefile", output / "front.sav", *options]
    start = time.perf_counter()
    with subprocess.Popen(
        ["taskset", "--cpu-list", "0", *map(str, command)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    return time.perf_counter() - start, 1024 * usage.ru_maxrss, said
