"""Exit 2 at a worker, batches of 1, 8 and 64 events on one and two threads: ONNX Runtime against eager PyTorch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from models.early_exit import TwoExits
from offload.link.protocol import ACTIVATIONS, FEATURES, Answer, Limits, Request, make_id
from offload.link.responder import Responder
from offload.networks.torch_exits import open_network
from tests.benchmarks import plain_network
from tests.benchmarks.agreement import (
    LEAST_EQUAL_INT8,
    MOST_DIFFERENCE_INT8,
    Answers,
    agreement,
    approximation,
)
from tests.benchmarks.ceiling import operations, threads
from tests.benchmarks.material import TITLES, Bench, FloatArray
from tests.benchmarks.plain_network import PlainNetwork
from tests.benchmarks.rounds import Turns, compared_in_turns
from tests.benchmarks.steps_training import plain_of, trained
from tests.benchmarks.table import Row, row
from utils.classification_metrics import classify

BATCH, THREADS = 64, 2
BATCHES = 6
SMALLER = (1, 8)
GOALS = {"alexnet": 2.0, "mobilenet": 3.0}

Compare = Callable[[Answers, Answers], str]


def worker(bench: Bench) -> Iterator[Row]:
    """Yield both networks' rows, for requests that hold features, as by default, and activations; int8 for AlexNet."""
    usual = _Batches(FEATURES, BATCH, THREADS)
    for family in bench.budget.families:
        plain, goal = bench.plain(family), GOALS[family]
        for count in sorted({1, THREADS}):
            cloud = worker_of(bench.ours(family), count)
            for size in (*SMALLER, BATCH):
                of = _Batches(FEATURES, size, count)
                measured = _measured(bench, plain, cloud, agreement, of)
                yield _row(bench, family, of, measured, goal if of == usual else None)
        of = _Batches(ACTIVATIONS, BATCH, THREADS)
        yield _row(bench, family, of, _measured(bench, plain, cloud, agreement, of), None)
        if family == "alexnet":
            # What 8 bits do to certainties is of interest for a network that was trained.
            network = trained(bench, family)
            plain, cloud = plain_of(family, network).eval(), worker_of(network, THREADS, int8=True)
            measured = _measured(bench, plain, cloud, approximately, usual)
            yield _row(bench, family, usual, measured, goal, "int8 ")


@dataclass(frozen=True)
class _Batches:
    payload: str
    size: int
    threads: int


def worker_of(network: TwoExits, count: int, *, int8: bool = False) -> Responder:
    """Return what a worker computes with, made as by offload/ee-processor-server.py, but that it remembers nothing."""
    opened = open_network(network, torch.device("cpu"), count, int8=int8)
    assert opened.exit_2 is not None
    return Responder(opened.exit_2, Limits(opened.fingerprint, opened.activation_shape), "bench")


def approximately(plain: Answers, ours: Answers) -> str:
    """Return how equal 8-bit answers are; see ``tests.benchmarks.agreement.approximation``."""
    return approximation(plain, ours, LEAST_EQUAL_INT8, MOST_DIFFERENCE_INT8)


@dataclass(frozen=True)
class _Measured:
    turns: Turns
    equal: str
    events: int
    work: int


def _measured(bench: Bench, plain: PlainNetwork, cloud: Responder, compare: Compare, of: _Batches) -> _Measured:
    events = bench.distinct(3)[: of.size * BATCHES]
    tensors = [events[start : start + of.size] for start in range(0, len(events), of.size)]
    work = operations(plain)
    if of.payload == ACTIVATIONS:
        work = operations(lambda image: plain.cloud(plain.edge(image)[0])) - operations(plain.edge)
        with torch.inference_mode():
            tensors = [plain.edge(plain_network.images_of(batch))[0].numpy() for batch in tensors]

    def plainly() -> Answers:
        return _all(lambda tensor: _plain_exit_2(plain, tensor, of.payload), tensors)

    def ours() -> Answers:
        return _all(lambda tensor: _ask(cloud, tensor, of.payload), tensors)

    with threads(of.threads):
        plainly(), ours()  # first calls choose kernels
        equal, turns = compared_in_turns(plainly, ours, compare, 3 * bench.budget.rounds)
    return _Measured(turns, equal, len(events), work)


def _row(bench: Bench, family: str, of: _Batches, one: _Measured, goal: float | None, how: str = "") -> Row:
    step = f"5 worker, {how}exit 2 of {of.payload}, {TITLES[family]}, {of.size} at once, threads: {of.threads}"
    return row(
        step, "events/s", one.turns, events=one.events,
        goal=goal, ceiling=bench.ceiling.share(one.work * one.events, one.turns.medians[1], of.threads),
        note=one.equal,
    )  # fmt: skip


def _plain_exit_2(network: PlainNetwork, tensor: FloatArray, payload: str) -> Answers:
    if payload == FEATURES:
        return plain_network.at_exit_2(network, tensor)
    with torch.inference_mode():
        return plain_network.answers(network.cloud(torch.from_numpy(tensor)))


def _ask(cloud: Responder, tensor: FloatArray, payload: str) -> Answers:
    (answer,) = cloud.answer([Request(make_id(), "bench", cloud.limits.fingerprint, payload, tensor)])
    assert isinstance(answer, Answer)
    return classify(answer.logits)


def _all(compute: Callable[[FloatArray], Answers], tensors: list[FloatArray]) -> Answers:
    labels, certainties = (np.concatenate(part) for part in zip(*map(compute, tensors), strict=True))
    return labels, certainties
