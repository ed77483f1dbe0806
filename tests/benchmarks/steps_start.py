"""Whole processes: from the start of an edge client to its first verdict, and the memory it takes."""

import functools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from offload.link.private_broker import find_free_port
from tests.benchmarks.agreement import Answers, agreement
from tests.benchmarks.material import ROOT, TITLES, Bench, month_path
from tests.benchmarks.plain_network import at_exit_1
from tests.benchmarks.rounds import Costs, in_turns
from tests.benchmarks.table import Row, row

GOAL_SECONDS, GOAL_MEMORY = 4.0, 3.0


def start(bench: Bench) -> Iterator[Row]:
    """One row decided at exit 1: the client on an exported network, which finds no broker and needs none."""
    savefile = bench.folder / "verdicts.csv"
    for family in bench.budget.families:
        rows = _one_row(bench, family)
        plain = [ROOT / "tests" / "benchmarks" / "plain_client.py", bench.checkpoint(family), family, rows]
        ours = [
            ROOT / "offload" / "ee-processor-client.py", "--trained-network-file", bench.exported(family), "--network",
            family, "--dataset", rows, "--savefile", savefile, "--on-cloud-failure", "reject", "--mq-hostname",
            "127.0.0.1", "--mq-port", find_free_port(), "--normal-exit1-min-certainty", 0,
            "--attack-exit1-min-certainty", 0,
        ]  # fmt: skip
        equal = agreement(_plain_answer(plain), _our_answer(ours, savefile))
        seconds, memory = in_turns(
            functools.partial(_costs, plain, "verdict"),
            functools.partial(_costs, ours, "batch 1", bench.budget.edge_python),
            bench.budget.rounds,
            warm_up=False,
        )
        title = TITLES[family]
        yield row(
            f"4 edge process, first verdict, {title}", "s", seconds, goal=GOAL_SECONDS,
            note=f"from the start of python to the first verdict; {equal}",
        )  # fmt: skip
        yield row(
            f"4 edge process, memory, {title}", "MB", memory, scale=1e-6, goal=GOAL_MEMORY,
            note=f"peak resident memory of the whole process{_environment(bench)}",
        )  # fmt: skip


def _environment(bench: Bench) -> str:
    return (
        "" if bench.budget.edge_python == sys.executable else "; ours with the packages of requirements-edge.txt alone"
    )


def _one_row(bench: Bench, family: str) -> Path:
    """Return a CSV that holds that one of March's first rows of which exit 1 is the most certain."""
    path = bench.folder / f"{family}_one.csv"
    _, certainties = at_exit_1(bench.plain(family), bench.month(3)[0][:100])
    pd.read_csv(month_path(3), nrows=100).iloc[[int(certainties.argmax())]].to_csv(path, index=False)
    return path


@dataclass(frozen=True)
class Ended:
    """What became of a program; see child.py."""

    code: int
    seconds: float | None
    line: str
    bytes: int
    complaint: str


def first_verdict(program: Sequence[object], sign: str, python: str = sys.executable) -> Ended:
    """Run a python program until it ends.

    Args:
        program: its path and arguments.
        sign: how the line begins that holds the verdict.
        python: that runs it.

    Raises:
        RuntimeError: it failed, or printed no such line.
    """
    command = [sys.executable, "-S", str(ROOT / "tests" / "benchmarks" / "child.py"), sign, python, *map(str, program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ended = Ended(**json.loads(done.stdout))
    if ended.code or ended.seconds is None:
        raise RuntimeError(f"{Path(str(program[0])).name}: exit code {ended.code}: {ended.complaint}")
    return ended


def _costs(program: Sequence[object], sign: str, python: str = sys.executable) -> Costs:
    ended = first_verdict(program, sign, python)
    assert ended.seconds is not None
    return ended.seconds, float(ended.bytes)


def _plain_answer(program: Sequence[object]) -> Answers:
    _, label, certainty = first_verdict(program, "verdict").line.split()
    return np.array([int(label)]), np.array([float(certainty)])


def _our_answer(program: Sequence[object], savefile: Path) -> Answers:
    first_verdict(program, "batch 1")
    table = pd.read_csv(savefile)
    return table["exit_1_prediction"].to_numpy(), table["exit_1_certainty"].to_numpy()
