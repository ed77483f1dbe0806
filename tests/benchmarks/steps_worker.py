"""Exit 2 at a worker, batches of 64 events on two threads: as the worker computes it, against eager PyTorch."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from models.checkpoint import fingerprint
from models.early_exit import TwoExits
from models.packing import pack_layers
from models.quantized import quantize_linear_layers
from offload.cloud import Cloud
from offload.protocol import ACTIVATIONS, FEATURES, Answer, Request, new_id
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
from utils.metrics import certainty

BATCH, THREADS = 64, 2
BATCHES = 6
GOALS = {"alexnet": 2.0, "mobilenet": 3.0}

Compare = Callable[[Answers, Answers], str]


def worker(bench: Bench) -> Iterator[Row]:
    """Yield both networks' rows, for requests that hold features, as by default, and activations; int8 for AlexNet."""
    for family in bench.budget.families:
        goal = GOALS[family]
        plain, cloud = bench.plain(family), worker_of(bench.ours(family))
        yield _row(bench, family, _measured(bench, plain, cloud, agreement, FEATURES), FEATURES, goal)
        yield _row(bench, family, _measured(bench, plain, cloud, agreement, ACTIVATIONS), ACTIVATIONS, None)
        if family == "alexnet":
            # What 8 bits do to certainties is of interest for a network that was trained.
            network = trained(bench, family)
            plain, cloud = plain_of(family, network).eval(), worker_of(copy.deepcopy(network), int8=True)
            yield _row(bench, family, _measured(bench, plain, cloud, approximately, FEATURES), FEATURES, goal, "int8 ")


def worker_of(network: TwoExits, *, int8: bool = False) -> Cloud:
    """Return what a worker computes with, made as by offload/ee-processor-server.py, but that it remembers nothing."""
    digest = fingerprint(network)
    if int8:
        quantize_linear_layers(network)
    pack_layers(network)
    return Cloud(network, torch.device("cpu"), "bench", BATCH, digest=digest)


def approximately(plain: Answers, ours: Answers) -> str:
    """Return how equal 8-bit answers are; see ``tests.benchmarks.agreement.approximation``."""
    return approximation(plain, ours, LEAST_EQUAL_INT8, MOST_DIFFERENCE_INT8)


@dataclass(frozen=True)
class _Measured:
    turns: Turns
    equal: str
    events: int
    work: int


def _measured(bench: Bench, plain: PlainNetwork, cloud: Cloud, compare: Compare, payload: str) -> _Measured:
    events = bench.distinct(3)[: BATCH * BATCHES]
    tensors = [events[start : start + BATCH] for start in range(0, len(events), BATCH)]
    work = operations(plain)
    if payload == ACTIVATIONS:
        work = operations(lambda image: plain.cloud(plain.edge(image)[0])) - operations(plain.edge)
        with torch.inference_mode():
            tensors = [plain.edge(plain_network.images_of(batch))[0].numpy() for batch in tensors]

    def plainly() -> Answers:
        return _all(lambda tensor: _plain_exit_2(plain, tensor, payload), tensors)

    def ours() -> Answers:
        return _all(lambda tensor: _ask(cloud, tensor, payload), tensors)

    with threads(THREADS):
        plainly(), ours()  # first calls choose kernels
        equal, turns = compared_in_turns(plainly, ours, compare, 3 * bench.budget.rounds)
    return _Measured(turns, equal, len(events), work)


def _row(bench: Bench, family: str, one: _Measured, payload: str, goal: float | None, how: str = "") -> Row:
    return row(
        f"5 worker, {how}exit 2 of {payload}, {TITLES[family]}", "events/s", one.turns, events=one.events, goal=goal,
        ceiling=bench.ceiling.share(one.work * one.events, one.turns.medians[1], THREADS),
        note=f"batches of {BATCH}, {THREADS} threads; {one.equal}",
    )  # fmt: skip


def _plain_exit_2(network: PlainNetwork, tensor: FloatArray, payload: str) -> Answers:
    if payload == FEATURES:
        return plain_network.at_exit_2(network, tensor)
    with torch.inference_mode():
        return plain_network.answers(network.cloud(torch.from_numpy(tensor)))


def _ask(cloud: Cloud, tensor: FloatArray, payload: str) -> Answers:
    (answer,) = cloud.answer([Request(new_id(), "bench", cloud.limits.fingerprint, payload, tensor)])
    assert isinstance(answer, Answer)
    return certainty(answer.logits)


def _all(compute: Callable[[FloatArray], Answers], tensors: list[FloatArray]) -> Answers:
    labels, certainties = (np.concatenate(part) for part in zip(*map(compute, tensors), strict=True))
    return labels, certainties
