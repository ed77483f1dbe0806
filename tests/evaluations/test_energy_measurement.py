"""Intervals of real work, the single exit's answers, and the file of intervals."""

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluations.energy_measurement import (
    IDLE,
    MeasuredInterval,
    MethodOutcome,
    Run,
    decide_at_single_exit,
    decide_plainly_at_single_exit,
    measure_idle,
    measure_in_turns,
    read_busy_seconds,
    read_run,
    summarise_outcome,
    write_run,
)
from evaluations.energy_meters import begin_without_meter
from evaluations.exit_timing import measure_parts, split_network
from models.cpu_network import open_single_exit
from tests.evaluations.small_months import rows_of
from tests.networks import new_network
from utils.errors import InputFileError


def burn() -> range:
    """Use a tenth of a second of the processor for five events."""
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    return range(5)


def test_methods_take_turns_and_work_is_repeated_until_the_interval_is_long_enough() -> None:
    methods = {"first": burn, "second": burn}
    intervals = list(measure_in_turns(methods, 2, 0.25, begin_without_meter))
    assert [interval.method for interval in intervals] == ["first", "second", "first", "second"]
    for interval in intervals:
        assert interval.events % 5 == 0
        assert interval.end - interval.start >= 0.25
        assert interval.cpu_seconds / interval.events >= 0.1 / 5
        assert np.isnan(interval.joules)
    assert all(earlier.end <= later.start for earlier, later in itertools.pairwise(intervals))


def test_work_is_done_once_if_no_time_is_given() -> None:
    assert [interval.events for interval in measure_in_turns({"once": burn}, 3, 0.0, begin_without_meter)] == [5, 5, 5]


def test_idling_takes_time_but_hardly_the_processor() -> None:
    idle = measure_idle(0.3, begin_without_meter)
    assert (idle.method, idle.events) == (IDLE, 0)
    assert idle.end - idle.start >= 0.3
    assert idle.cpu_seconds < 0.1


def test_the_machines_processor_time_is_read_if_it_is_known(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 9999 999 4 6 50 0 0\ncpu0 1 2 3\n")
    assert read_busy_seconds(stat) == pytest.approx(160 / 100)
    assert np.isnan(read_busy_seconds(tmp_path / "none"))
    before = read_busy_seconds()
    for _ in range(5):
        burn()
    assert read_busy_seconds() - before > 0.3


def test_the_single_exit_answers_as_it_does_everywhere_else() -> None:
    network, (features, labels) = new_network("MobileNetV2"), rows_of(3)
    table = measure_parts(split_network(network, torch.device("cpu")), features, labels, 100)
    found = decide_at_single_exit(open_single_exit(network), features, batch_size=50, pass_size=16)
    assert len(np.unique(features, axis=0)) < len(features)
    assert found.tolist() == table["y_pred"].tolist()
    assert decide_plainly_at_single_exit(network, features, batch_size=50).tolist() == found.tolist()


def test_an_outcome_counts_only_the_errors_of_accepted_events() -> None:
    predictions, labels = np.array([0, 1, 1, 0, 1]), np.array([0, 0, 1, 1, 0])
    asked, rejected = np.array([True, True, False, True, False]), np.array([False, True, False, False, False])
    assert summarise_outcome(predictions, asked, rejected, labels) == MethodOutcome(3 / 5, 1 / 5, 2 / 4)
    assert np.isnan(summarise_outcome(predictions, asked, rejected, None).error)


SHARES = MethodOutcome(0.25, 0.125, 0.5)
RUN = Run(
    "mobilenet",
    "far",
    {"near": SHARES, "far": SHARES},
    (
        MeasuredInterval(IDLE, 1.0, 2.0, 0.0, 0.5, 0),
        MeasuredInterval("near", 2.0, 3.5, 1.0, 1.5, 7),
        MeasuredInterval("far", 4.0, 5.0, 1, 2, 9),
    ),
)


def test_a_measurement_is_read_as_it_was_written_without_the_joules(tmp_path: Path) -> None:
    with_joules = replace(RUN, intervals=tuple(replace(interval, joules=5.0) for interval in RUN.intervals))
    write_run(with_joules, tmp_path / "run.json")
    assert repr(read_run(tmp_path / "run.json")) == repr(RUN)  # as NaN is unequal to itself
    assert RUN.methods == ("near", "far")


def of_interval(**changed: object) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["intervals"][1].update(changed)


@pytest.mark.parametrize(
    "spoil",
    [
        of_interval(end=1.0),
        of_interval(events=0),
        of_interval(start=True),
        of_interval(cpu_seconds=-1),
        of_interval(end=float("inf")),
        of_interval(start=1e308, end=1.5e308),
        of_interval(start=1.7e18, end=1.8e18),
        of_interval(start=10**400, end=10**401),
        of_interval(cpu_seconds=1e308),
        of_interval(cpu_seconds=10**401),
        of_interval(busy_seconds=1e308),
        of_interval(busy_seconds=-1),
        of_interval(events=10**401),
        of_interval(events=float("nan")),
        of_interval(joules=1e308),
        lambda content: content["outcomes"]["near"].update(error=10**401),
        of_interval(method=None),
        of_interval(more=1),
        lambda content: content.pop("intervals"),
        lambda content: content.pop("outcomes"),
        lambda content: content["outcomes"]["near"].update(error=1.5),
        lambda content: content["outcomes"].pop("near"),
        lambda content: content.update(family=3),
        lambda content: content.update(intervals=[], outcomes={}),
    ],
)
def test_a_file_without_intervals_is_refused(tmp_path: Path, spoil: Callable[[dict[str, Any]], None]) -> None:
    path = tmp_path / "run.json"
    write_run(RUN, path)
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputFileError, match=r"run\.json: holds no measured intervals"):
        read_run(path)


@pytest.mark.parametrize("text", ["[]", "{}", "no", "[" * 100_000, "\udcff"])
def test_a_file_that_is_not_a_recorded_run_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputFileError, match="holds no measured intervals"):
        read_run(tmp_path / "run.json")
