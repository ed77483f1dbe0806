"""Measure work in intervals: start, end, processor time and, if the meter is read immediately, energy."""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evaluations.energy_meters import LATEST, Begin
from models.prediction import iterate_batches
from utils.classification_metrics import accuracy, certainty
from utils.dataset import distinct_vectors
from utils.errors import InputFileError
from utils.files import check_readable, replacing

IDLE: Final = "idle"
"""Name of the interval in which the machine idles."""

Work = Callable[[], Sized]
"""Decides a whole dataset, and returns one value for each event."""

_MOST: Final = 1e15
"""Most seconds, joules or events of an interval in a file: more than any real interval has, and exact in float64."""

_STAT: Final = Path("/proc/stat")


@dataclass(frozen=True)
class MeasuredInterval:
    """The measurement of some work.

    Attributes:
        method: name of the method, or ``IDLE``.
        start, end: seconds since the epoch.
        cpu_seconds: processor time of this process.
        busy_seconds: processor time of all processes of this machine; NaN if unknown.
        events: number of decided events.
        joules: of the whole machine; NaN if there is no meter or it is read later.
    """

    method: str
    start: float
    end: float
    cpu_seconds: float
    busy_seconds: float
    events: int
    joules: float = float("nan")


@dataclass(frozen=True)
class MethodOutcome:
    """The results of one method on the events.

    Attributes:
        exit_2_share: share of the events that went to exit 2.
        rejected_share: share of the events that were rejected.
        error: of the accepted events; NaN without labels.
    """

    exit_2_share: float
    rejected_share: float
    error: float


@dataclass(frozen=True)
class Run:
    """A measurement of several methods.

    Attributes:
        family: of the networks.
        shared: name of the method whose worker ran on the same machine; empty if there is none.
        outcomes: method -> its results.
        intervals: in order of time.
    """

    family: str
    shared: str
    outcomes: Mapping[str, MethodOutcome]
    intervals: tuple[MeasuredInterval, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods in the order of their first intervals, without ``IDLE``."""
        return tuple(dict.fromkeys(interval.method for interval in self.intervals if interval.method != IDLE))


def measure_in_turns(
    methods: Mapping[str, Work], rounds: int, seconds: float, begin: Begin
) -> Iterator[MeasuredInterval]:
    """Yield an interval of every method in each round, so that a drift of the machine's speed affects all alike.

    Args:
        methods: name -> work, already warmed up.
        rounds: number of intervals of each method.
        seconds: least length of an interval; the work is repeated until it is reached.
        begin: starts the meter.
    """
    for _ in range(rounds):
        for name, work in methods.items():
            yield measure_work(name, work, seconds, begin)


def measure_idle(seconds: float, begin: Begin) -> MeasuredInterval:
    """Measure an interval in which this process sleeps."""

    def sleep() -> Sized:
        time.sleep(seconds)
        return ()

    return measure_work(IDLE, sleep, 0.0, begin)


def measure_work(method: str, work: Work, seconds: float, begin: Begin) -> MeasuredInterval:
    """Repeat work for at least ``seconds``, at least once; return the measurement."""
    joules, busy = begin(), read_busy_seconds()
    start, cpu, deadline = time.time(), time.process_time(), time.monotonic() + seconds
    events = len(work())
    while time.monotonic() < deadline:
        events += len(work())
    cpu, end = time.process_time() - cpu, time.time()
    return MeasuredInterval(method, start, end, cpu, read_busy_seconds() - busy, events, joules())


def read_busy_seconds(stat: Path = _STAT) -> float:
    """Return the seconds of processor time that all processes of this machine have used; NaN if unknown."""
    try:
        user, nice, system, _idle, _waiting, hard, soft = map(int, stat.read_text().splitlines()[0].split()[1:8])
    except (OSError, ValueError, IndexError):
        return float("nan")
    return (user + nice + system + hard + soft) / os.sysconf("SC_CLK_TCK")


def summarise_outcome(
    predictions: NDArray[np.int64],
    asked: NDArray[np.bool_],
    rejected: NDArray[np.bool_],
    labels: NDArray[np.int64] | None,
) -> MethodOutcome:
    """Return the results of a method.

    Args:
        predictions: (N,) final answers.
        asked: (N,) whether the event went to exit 2.
        rejected: (N,) whether the event was rejected.
        labels: (N,), or None.
    """
    error = float("nan") if labels is None else 1 - accuracy(predictions[~rejected], labels[~rejected])
    return MethodOutcome(float(asked.mean()), float(rejected.mean()), error)


def decide_at_single_exit(
    compute: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    features: NDArray[np.float32],
    batch_size: int,
    pass_size: int,
) -> NDArray[np.int64]:
    """Return the predictions (N,) of a single-exit network, which computes repeated vectors of a batch once.

    Args:
        compute: returns the network's logits (n, 2) for features (n, 58).
        features: (N, 58) float32.
        batch_size: events in a batch.
        pass_size: most events in one forward pass.
    """
    predictions = []
    for begin in range(0, len(features), batch_size):
        batch = features[begin : begin + batch_size]
        first, place = distinct_vectors(batch)
        events = batch[first]
        logits = [compute(events[start : start + pass_size]) for start in range(0, len(events), pass_size)]
        predictions.append(certainty(np.concatenate(logits))[0][place])
    return np.concatenate(predictions)


def decide_plainly_at_single_exit(
    network: nn.Module, features: NDArray[np.float32], batch_size: int
) -> NDArray[np.int64]:
    """Return the predictions (N,) of a single-exit network on features (N, 58), in one forward pass for each batch."""
    with torch.inference_mode():
        logits = torch.cat([network(images) for images in iterate_batches(features, batch_size)])
    return certainty(logits.numpy())[0]


def write_run(run: Run, path: Path) -> None:
    """Write a measurement as JSON without its joules, for a meter whose log is read later.

    Raises:
        InputFileError: the file cannot be written.
    """
    content = asdict(run)
    for interval in content["intervals"]:
        del interval["joules"]
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def read_run(path: Path) -> Run:
    """Read a measurement that ``write_run`` wrote.

    Raises:
        InputFileError: the file is missing or damaged.
    """
    try:
        content = json.loads(check_readable(path).read_bytes())
        intervals = tuple(_check_interval(**entry) for entry in content["intervals"])
        outcomes = {str(method): _check_outcome(**entry) for method, entry in content["outcomes"].items()}
        run = Run(content["family"], content["shared"], outcomes, intervals)
        if not all(isinstance(text, str) for text in (run.family, run.shared)) or set(outcomes) != set(run.methods):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as problem:
        raise InputFileError(
            f"{path}: holds no measured intervals; give the file that measure-energy.py writes beside --savefile with "
            "--meter csv"
        ) from problem
    if not outcomes:
        raise InputFileError(f"{path}: holds no measured intervals of any method; measure again")
    return run


def _check_outcome(**entry: float) -> MethodOutcome:
    """Return an outcome of valid shares, or raise ValueError or TypeError."""
    outcome = MethodOutcome(**entry)
    if not all(math.isnan(share) or 0 <= share <= 1 for share in vars(outcome).values()):
        raise ValueError
    return outcome


def _check_interval(**entry: object) -> MeasuredInterval:
    """Return an interval of valid numbers, or raise ValueError or TypeError."""
    interval = MeasuredInterval(**entry)  # type: ignore[arg-type]
    numbers = [getattr(interval, field.name) for field in fields(MeasuredInterval) if field.name != "method"]
    if not isinstance(interval.method, str) or not all(type(number) in {int, float} for number in numbers):
        raise TypeError
    least_events = 0 if interval.method == IDLE else 1
    amounts = (interval.cpu_seconds, interval.busy_seconds, interval.joules)
    if not (0 < interval.start < interval.end <= LATEST and least_events <= interval.events <= _MOST):
        raise ValueError
    if not (interval.cpu_seconds >= 0 and all(math.isnan(amount) or 0 <= amount <= _MOST for amount in amounts)):
        raise ValueError
    return interval


def select_method(intervals: Iterable[MeasuredInterval], method: str) -> list[MeasuredInterval]:
    """Return the intervals of one method."""
    return [interval for interval in intervals if interval.method == method]
