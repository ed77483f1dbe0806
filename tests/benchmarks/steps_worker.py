"""Exit 2 at a worker, batches of 64 events on two threads: as the worker computes it, against eager PyTorch."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from models.packing import pack_layers
from offload.cloud import Cloud
from offload.protocol import ACTIVATIONS, FEATURES, Answer, Request, new_id
from tests.benchmarks import plain_network
from tests.benchmarks.agreement import Answers, agreement
from tests.benchmarks.ceiling import operations, threads
from tests.benchmarks.material import TITLES, Bench, FloatArray
from tests.benchmarks.plain_network import PlainNetwork
from tests.benchmarks.rounds import compared_in_turns
from tests.benchmarks.table import Row, row
from utils.metrics import certainty

BATCH, THREADS = 64, 2
BATCHES = 6
GOALS = {"alexnet": 2.0, "mobilenet": 3.0}


def worker(bench: Bench) -> Iterator[Row]:
    """Yield both networks' rows, for requests that hold features, as by default, and activations."""
    for family in bench.budget.families:
        plain = bench.plain(family)
        events = bench.distinct(3)[: BATCH * BATCHES]
        batches = [events[start : start + BATCH] for start in range(0, len(events), BATCH)]
        with threads(THREADS):
            cloud = worker_of(bench, family)
            for payload, goal in ((FEATURES, GOALS[family]), (ACTIVATIONS, None)):
                yield _compare(bench, family, plain, cloud, batches, payload, goal)


def worker_of(bench: Bench, family: str) -> Cloud:
    """Return what a worker computes with, made as by offload/ee-processor-server.py, but that it remembers nothing."""
    network = bench.ours(family)
    pack_layers(network)
    return Cloud(network, torch.device("cpu"), "bench", BATCH)


def _compare(
    bench: Bench, family: str, plain: PlainNetwork, cloud: Cloud, batches: list[FloatArray], payload: str,
    goal: float | None,
) -> Row:  # fmt: skip
    with torch.inference_mode():
        tensors = [plain.edge(plain_network.images_of(batch))[0].numpy() for batch in batches]
    tensors = batches if payload == FEATURES else tensors

    def plainly() -> Answers:
        return _all(lambda tensor: _plain_exit_2(plain, tensor, payload), tensors)

    def ours() -> Answers:
        return _all(lambda tensor: _ask(cloud, tensor, payload), tensors)

    count = sum(map(len, batches))
    plainly(), ours()  # first calls choose kernels
    equal, turns = compared_in_turns(plainly, ours, agreement, 3 * bench.budget.rounds)
    work = operations(plain if payload == FEATURES else lambda image: plain.cloud(plain.edge(image)[0]))
    work -= 0 if payload == FEATURES else operations(plain.edge)
    return row(
        f"5 worker, exit 2 of {payload}, {TITLES[family]}", "events/s", turns, events=count, goal=goal,
        ceiling=bench.ceiling.share(work * count, turns.medians[1], THREADS),
        note=f"batches of {BATCH}, {THREADS} threads; {equal}",
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
