"""Exit 1 on the edge: an exported network as the client runs it, against eager PyTorch over all rows."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from offload.defaults import CACHE_SIZE
from offload.edge.batch import Batch
from offload.edge.edge import Edge
from offload.edge.second_exit import LocalSecondExit
from offload.networks.cache import Cache
from offload.networks.exits import ActivationsAt, FirstExit
from offload.networks.onnx_exits import open_exported
from tests.benchmarks import plain_network
from tests.benchmarks.agreement import Answers, agreement, approximation
from tests.benchmarks.ceiling import operations, threads
from tests.benchmarks.material import TITLES, Bench, FloatArray
from tests.benchmarks.rounds import Costs, Turns, compared_in_turns, in_turns
from tests.benchmarks.table import Row, row
from utils.classification_metrics import classify
from utils.schema import Thresholds

BATCH = 1000
"""Events that the published client computes at once."""

SMALL_BATCH = 32
MONTH = 3
EQUAL_LABELS_INT8 = 0.95
GOALS = {"alexnet": 12.0, "mobilenet": 15.0}
GOAL_DISTINCT = 6.0
GOALS_ONE_EVENT = {"alexnet": 6.0, "mobilenet": 3.0}

Compute = Callable[[FloatArray], Answers]


@dataclass(frozen=True)
class Variant:
    """An exported network."""

    family: str
    int8: bool = False

    @property
    def title(self) -> str:
        return TITLES[self.family] + ", int8" * self.int8

    def compare(self, plain: Answers, ours: Answers) -> str:
        return approximation(plain, ours, EQUAL_LABELS_INT8) if self.int8 else agreement(plain, ours)


def _variants(bench: Bench, *, int8: bool) -> Iterator[Variant]:
    """Yield what is measured; with 8-bit integers MobileNetV2 alone is faster."""
    for family in bench.budget.families:
        yield Variant(family)
        if int8 and family == "mobilenet":
            yield Variant(family, int8=True)


class NoSecondExit(LocalSecondExit):
    """Stands for exit 2 where no event is uncertain."""

    def __init__(self) -> None:
        """Need nothing."""

    def ask(self, _features: FloatArray, _activations: ActivationsAt) -> NoReturn:
        raise AssertionError("exit 2 was asked")


def client(exit_1: FirstExit) -> Compute:
    """Return a new client's way from features to verdicts, every one accepted at exit 1."""
    edge = Edge(exit_1, Thresholds(0.0, 0.0, 0.0, 0.0), NoSecondExit(), Cache(CACHE_SIZE))

    def compute(features: FloatArray) -> Answers:
        batch = edge.decide(Batch(features))
        return batch.prediction_1, batch.certainty_1

    return compute


def in_batches(compute: Compute, features: FloatArray, size: int = BATCH) -> Answers:
    """Return the answers for all of them, a batch after the other."""
    parts = [compute(features[start : start + size]) for start in range(0, len(features), size)]
    labels, certainties = (np.concatenate(part) for part in zip(*parts, strict=True))
    return labels, certainties


def month(bench: Bench) -> Iterator[Row]:
    """Exit 1 over a month as it comes, with its repeats."""
    features, _ = bench.month(MONTH)
    computed = _computed(features)
    words = f"batches of {BATCH}; of {len(features):,} rows, ours computes {computed:,}: none twice that it remembers"
    for variant in _variants(bench, int8=False):
        equal, turns, _ = _throughput(bench, variant, features, BATCH)
        yield row(
            f"1 exit 1, a month as it comes, {variant.title}", "events/s", turns, events=len(features),
            goal=GOALS[variant.family], note=f"{equal}; {words}",
        )  # fmt: skip


def distinct(bench: Bench) -> Iterator[Row]:
    """Exit 1 over the month's distinct vectors: nothing repeats."""
    features = bench.distinct(MONTH)
    for variant in _variants(bench, int8=True):
        for size, goal in ((BATCH, GOAL_DISTINCT), (SMALL_BATCH, None)):
            equal, turns, share = _throughput(bench, variant, features, size)
            yield row(
                f"2 exit 1, distinct vectors by {size}, {variant.title}", "events/s", turns, events=len(features),
                goal=goal, ceiling=share, note=equal,
            )  # fmt: skip


def _computed(features: FloatArray) -> int:
    """Return how many vectors of a month the client computes."""
    counted = 0

    def count(events: FloatArray, /) -> tuple[FloatArray, ActivationsAt]:
        nonlocal counted
        counted += len(events)
        return np.zeros((len(events), 2), dtype=np.float32), lambda rows: features[rows]

    in_batches(client(count), features)
    return counted


def _throughput(bench: Bench, variant: Variant, features: FloatArray, size: int) -> tuple[str, Turns, float]:
    """Return how equal both versions' answers are, their seconds for all events, and our share of the ceiling."""
    network = bench.plain(variant.family)
    exit_1 = open_exported(bench.exported(variant.family, int8=variant.int8), None, variant.family).exit_1

    def plain() -> Answers:
        return in_batches(lambda batch: plain_network.at_exit_1(network, batch), features, size)

    def ours() -> Answers:
        return in_batches(client(exit_1), features, size)

    rounds = bench.budget.rounds * (5 if variant.family == "alexnet" else 1)
    with threads(1):
        plain_network.at_exit_1(network, features[:size])  # first calls choose kernels
        equal, turns = compared_in_turns(plain, ours, variant.compare, rounds)
    return equal, turns, bench.ceiling.share(operations(network.edge) * len(features), turns.medians[1], 1)


def one_event(bench: Bench) -> Iterator[Row]:
    """How long one event takes: the median, and what one in a hundred exceeds."""
    for variant in _variants(bench, int8=True):
        yield from _one_event(bench, variant)


def _one_event(bench: Bench, variant: Variant) -> Iterator[Row]:
    features, count = bench.distinct(MONTH), bench.budget.events
    network = bench.plain(variant.family)
    exit_1 = open_exported(bench.exported(variant.family, int8=variant.int8), None, variant.family).exit_1

    def plain(event: FloatArray) -> Answers:
        return plain_network.at_exit_1(network, event)

    def alone(event: FloatArray) -> Answers:
        return classify(exit_1(event)[0])

    with threads(1):
        equal = variant.compare(one_by_one(plain, features[:count]), one_by_one(alone, features[:count]))
        for name, way, goal in (
            ("exit 1", lambda: alone, GOALS_ONE_EVENT[variant.family]),
            ("client", lambda: client(exit_1), None),
        ):
            half, last, computing = in_turns(
                percentiles(lambda: plain, features, count), percentiles(way, features, count), 2 * bench.budget.rounds
            )
            note = f"{equal}; percentiles of {count:,} distinct events in each round"
            yield row(
                f"3 one event, {name}, p50, {variant.title}", "µs", half, scale=1e6, goal=goal, note=note,
                ceiling=bench.ceiling.share(operations(network.edge), half.medians[1], 1),
            )  # fmt: skip
            slow, fast = (1e6 * seconds for seconds in computing.medians)
            words = f"in processor time, without what else the machine does: {slow:.0f} and {fast:.0f} µs, "
            yield row(
                f"3 one event, {name}, p99, {variant.title}", "µs", last, scale=1e6, goal=goal,
                note=f"{words}{statistics.median(computing.ratios):.1f}×",
            )  # fmt: skip


def one_by_one(compute: Compute, features: FloatArray) -> Answers:
    """Return the answers for events that come alone."""
    labels, certainties = (np.concatenate(part) for part in zip(*map(compute, features[:, None]), strict=True))
    return labels, certainties


def percentiles(way: Callable[[], Compute], features: FloatArray, count: int) -> Callable[[], Costs]:
    """Return a function that decides ``count`` events one by one: median and p99 seconds, and p99 of processor time.

    Args:
        way: returns what decides them, anew for every round: what it remembers of the last one would not count.
    """
    events = features[np.arange(count) % len(features)][:, None]

    def run() -> Costs:
        passed, computed, compute = np.empty(count), np.empty(count), way()
        for number, event in enumerate(events):
            processor, start = time.thread_time(), time.perf_counter()
            compute(event)
            passed[number], computed[number] = time.perf_counter() - start, time.thread_time() - processor
        return float(np.percentile(passed, 50)), float(np.percentile(passed, 99)), float(np.percentile(computed, 99))

    return run
