"""Work measured in intervals: when it began and ended, its processor time, and the energy if that is read at once."""

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
from models.prediction import batches
from utils.dataset import distinct_vectors
from utils.errors import InputFileError
from utils.files import check_readable, replacing
from utils.metrics import accuracy, certainty

IDLE: Final = "idle"
"""The interval in which nothing is done."""

Work = Callable[[], Sized]
"""Decides a whole dataset; what it returns is as long as that."""

_MOST: Final = 1e15
"""Seconds, joules or events of an interval: beyond any, and sums of them are exact enough."""

_STAT: Final = Path("/proc/stat")


@dataclass(frozen=True)
class Interval:
    """Some work, and what it took.

    Attributes:
        method: its name.
        start, end: seconds since the epoch.
        cpu_seconds: processor time of this process.
        busy_seconds: of all processes of this machine; NaN where it does not say.
        events: how many were decided.
        joules: of the whole machine, or NaN where the meter is read afterwards or there is none.
    """

    method: str
    start: float
    end: float
    cpu_seconds: float
    busy_seconds: float
    events: int
    joules: float = float("nan")


@dataclass(frozen=True)
class Outcome:
    """What became of the events by one method.

    Attributes:
        exit_2_share: share of the events that exit 2 was asked about.
        rejected_share: of those rejected.
        error: of those accepted; NaN where they have no labels.
    """

    exit_2_share: float
    rejected_share: float
    error: float


@dataclass(frozen=True)
class Run:
    """A whole measurement.

    Attributes:
        family: of the networks.
        shared: method that had its worker on the same machine, or the empty text.
        outcomes: method -> what became of the events.
        intervals: in order of time.
    """

    family: str
    shared: str
    outcomes: Mapping[str, Outcome]
    intervals: tuple[Interval, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """What was measured, in order, without idling."""
        return tuple(dict.fromkeys(interval.method for interval in self.intervals if interval.method != IDLE))


def measure(methods: Mapping[str, Work], rounds: int, seconds: float, begin: Begin) -> Iterator[Interval]:
    """Yield intervals, of one method after the other in each round, so that a drift of the machine meets all alike.

    Args:
        methods: name -> work, which was warmed up.
        rounds: how often each is measured.
        seconds: work is repeated within an interval until so many have passed; at least once.
        begin: of the meter.
    """
    for _ in range(rounds):
        for name, work in methods.items():
            yield measure_work(name, work, seconds, begin)


def measure_idle(seconds: float, begin: Begin) -> Interval:
    """Return an interval in which this process sleeps."""

    def sleep() -> Sized:
        time.sleep(seconds)
        return ()

    return measure_work(IDLE, sleep, 0.0, begin)


def measure_work(method: str, work: Work, seconds: float, begin: Begin) -> Interval:
    """Do work until so many seconds have passed, at least once, and return what it took."""
    joules, busy = begin(), read_busy_seconds()
    start, cpu, deadline = time.time(), time.process_time(), time.monotonic() + seconds
    events = len(work())
    while time.monotonic() < deadline:
        events += len(work())
    cpu, end = time.process_time() - cpu, time.time()
    return Interval(method, start, end, cpu, read_busy_seconds() - busy, events, joules())


def read_busy_seconds(stat: Path = _STAT) -> float:
    """Return the processor time that all processes of this machine have used so far, or NaN where it does not say."""
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
) -> Outcome:
    """Return what became of events.

    Args:
        predictions: (N,) final answers.
        asked: (N,) whether exit 2 was asked.
        rejected: (N,) whether no answer was accepted.
        labels: (N,), or None where they are unknown.
    """
    error = float("nan") if labels is None else 1 - accuracy(predictions[~rejected], labels[~rejected])
    return Outcome(float(asked.mean()), float(rejected.mean()), error)


def decide_at_single_exit(
    compute: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    features: NDArray[np.float32],
    batch_size: int,
    chunk: int,
) -> NDArray[np.int64]:
    """Return the predictions (N,) of a single-exit network, computed as thriftily as the edge computes exit 1.

    Args:
        compute: returns the network's logits (n, 2) for features (n, 58), in one pass.
        features: (N, 58) float32.
        batch_size: events of which those that repeat are computed once.
        chunk: events of one forward pass.
    """
    predictions = []
    for begin in range(0, len(features), batch_size):
        batch = features[begin : begin + batch_size]
        first, place = distinct_vectors(batch)
        events = batch[first]
        logits = [compute(events[start : start + chunk]) for start in range(0, len(events), chunk)]
        predictions.append(certainty(np.concatenate(logits))[0][place])
    return np.concatenate(predictions)


def decide_plainly_at_single_exit(
    network: nn.Module, features: NDArray[np.float32], batch_size: int
) -> NDArray[np.int64]:
    """Return the predictions (N,) of a single-exit network on features (N, 58), every event of a batch in one pass."""
    with torch.inference_mode():
        logits = torch.cat([network(images) for images in batches(features, batch_size)])
    return certainty(logits.numpy())[0]


def write_run(run: Run, path: Path) -> None:
    """Write a measurement as JSON, without the joules, for a meter whose log comes later.

    Raises:
        InputFileError: the file cannot be written.
    """
    content = asdict(run)
    for interval in content["intervals"]:
        del interval["joules"]
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def read_run(path: Path) -> Run:
    """Read what ``write_run`` wrote.

    Raises:
        InputFileError: the file is missing, or no such file.
    """
    try:
        content = json.loads(check_readable(path).read_bytes())
        intervals = tuple(_interval(**entry) for entry in content["intervals"])
        outcomes = {str(method): _outcome(**entry) for method, entry in content["outcomes"].items()}
        run = Run(content["family"], content["shared"], outcomes, intervals)
        if not all(isinstance(text, str) for text in (run.family, run.shared)) or set(outcomes) != set(run.methods):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as problem:
        raise InputFileError(
            f"{path}: holds no measured intervals; measure-energy.py writes such a file beside --savefile with "
            "--meter csv"
        ) from problem
    if not outcomes:
        raise InputFileError(f"{path}: holds no measured intervals of any method; measure again")
    return run


def _outcome(**entry: float) -> Outcome:
    """Return an outcome whose parts are shares, or raise ValueError or TypeError."""
    outcome = Outcome(**entry)
    if not all(math.isnan(share) or 0 <= share <= 1 for share in vars(outcome).values()):
        raise ValueError
    return outcome


def _interval(**entry: object) -> Interval:
    """Return an interval whose parts are what they should be, or raise ValueError or TypeError."""
    interval = Interval(**entry)  # type: ignore[arg-type]
    numbers = [getattr(interval, field.name) for field in fields(Interval) if field.name != "method"]
    if not isinstance(interval.method, str) or not all(type(number) in {int, float} for number in numbers):
        raise TypeError
    least_events = 0 if interval.method == IDLE else 1
    amounts = (interval.cpu_seconds, interval.busy_seconds, interval.joules)
    if not (0 < interval.start < interval.end <= LATEST and least_events <= interval.events <= _MOST):
        raise ValueError
    if not (interval.cpu_seconds >= 0 and all(math.isnan(amount) or 0 <= amount <= _MOST for amount in amounts)):
        raise ValueError
    return interval


def select_method(intervals: Iterable[Interval], method: str) -> list[Interval]:
    """Return the intervals of one method."""
    return [interval for interval in intervals if interval.method == method]
