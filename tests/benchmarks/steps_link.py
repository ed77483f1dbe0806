"""A month through a real RabbitMQ, half of it offloaded: the client on an exported network, against the plainest link.

The plain version computes exit 1 in eager PyTorch, sends one request and waits for its answer, and its worker makes one
eager pass for each. Every program has one thread to compute with. In each round our client is a new one, and our worker
remembers nothing, so that no round finds the answers of the one before.
"""

import contextlib
import os
from collections.abc import Iterator

import numpy as np

from models.checkpoint import compute_fingerprint
from offload.defaults import CACHE_SIZE
from offload.edge.batch import Batch
from offload.edge.edge import Edge
from offload.edge.second_exit import CloudSecondExit
from offload.link.broker import PASSWORD_VARIABLE
from offload.link.client import Client
from offload.link.private_broker import PrivateBroker
from offload.link.protocol import FEATURES, RequestTemplate
from offload.networks.cache import Cache
from offload.networks.exits import FirstExit
from offload.networks.onnx_exits import open_exported
from offload.operations.metrics import ClientMetrics
from tests.benchmarks import plain_link, plain_network
from tests.benchmarks.agreement import Answers, agreement
from tests.benchmarks.ceiling import threads
from tests.benchmarks.link import PATIENCE, Link
from tests.benchmarks.material import TITLES, Bench, FloatArray
from tests.benchmarks.rounds import compared_in_turns
from tests.benchmarks.steps_edge import BATCH, in_batches
from tests.benchmarks.table import Row, row
from utils.dataset import find_distinct_vectors
from utils.decision import is_accepted
from utils.schema import Thresholds
from utils.stopping import Stop

WINDOW = 8
"""Requests under way at once, as by default."""

GOAL = 5.0


def link(bench: Bench) -> Iterator[Row]:
    """Yield a row for each network, through a broker of its own."""
    with PrivateBroker() as node:
        yield from through(node, bench)


def through(node: PrivateBroker, bench: Bench) -> Iterator[Row]:
    """Yield a row for each network."""
    features, _ = bench.month(3)
    with _password(node.password), threads(1):
        for family in bench.budget.families:
            yield _month(bench, Link(node, bench.folder, features, bench.budget.rounds, None), family)


@contextlib.contextmanager
def _password(password: str) -> Iterator[None]:
    """Let the plain client find it, as its worker does."""
    before = os.environ.get(PASSWORD_VARIABLE)
    os.environ[PASSWORD_VARIABLE] = password
    try:
        yield
    finally:
        os.environ.pop(PASSWORD_VARIABLE)
        if before is not None:
            os.environ[PASSWORD_VARIABLE] = before


def _month(bench: Bench, at: Link, family: str) -> Row:
    features, network = at.features, bench.ours(family)
    digest = compute_fingerprint(network)
    plain_net = bench.plain(family)
    labels, certainties = in_batches(lambda batch: plain_network.at_exit_1(plain_net, batch), features)
    thresholds = half_offloaded(labels, certainties)
    offloaded = ~is_accepted(labels, certainties, thresholds.normal_exit_1, thresholds.attack_exit_1)
    with contextlib.ExitStack() as stack:
        stack.enter_context(at.plain(family, f"plain-{family}"))
        stack.enter_context(at.ours(family, f"ours-{family}"))
        client = stack.enter_context(Client(at.broker, f"ours-{family}", PATIENCE, ClientMetrics()))
        asking = stack.enter_context(
            contextlib.closing(plain_link.PlainClient(at.node.port, at.node.username, f"plain-{family}"))
        )
        exit_1 = open_exported(bench.exported(family), None, family).exit_1

        def ours() -> Answers:
            cloud = CloudSecondExit(client, RequestTemplate(digest, "bench", FEATURES), None, "wait")
            verdicts = list(
                new_edge(exit_1, thresholds, cloud).decide_all(map(Batch, _batches(features)), WINDOW, Stop())
            )
            return _joined((each.prediction, each.certainty) for each in verdicts)

        def plainly() -> Answers:
            return _joined(plain_link.decide_all(network, digest, _batches(features), thresholds, asking, FEATURES))

        equal, turns = compared_in_turns(plainly, ours, agreement, bench.budget.rounds)
    distinct = len(find_distinct_vectors(features[offloaded])[0])
    return row(
        f"8 client and worker, a month, {TITLES[family]}", "events/s", turns, events=len(features), goal=GOAL,
        note=f"one thread each; {100 * offloaded.mean():.0f} % offloaded, of them {distinct:,} distinct; {equal}",
    )  # fmt: skip


def new_edge(exit_1: FirstExit, thresholds: Thresholds, cloud: CloudSecondExit) -> Edge:
    """Return a new client's edge, made as by default, with an empty cache."""
    return Edge(exit_1, thresholds, cloud, Cache(CACHE_SIZE))


def half_offloaded(labels: np.ndarray, certainties: np.ndarray) -> Thresholds:
    """Return thresholds that leave half of the events uncertain, and about half of each class.

    Args:
        labels, certainties: (N,) of exit 1.
    """
    levels = [np.unique(np.append(certainties[labels == kind], 1.0)) for kind in (0, 1)]
    below = [np.searchsorted(np.sort(certainties[labels == kind]), levels[kind]) for kind in (0, 1)]
    # A vector that repeats goes with all its rows, so exactly half of both cannot be had.
    miss = np.abs(np.add.outer(*below) / len(labels) - 0.5)
    uneven = np.abs(np.subtract.outer(*(below[kind] / max(1, (labels == kind).sum()) for kind in (0, 1))))
    miss = np.where(miss < 0.05, uneven, 1 + miss)
    normal, attack = np.unravel_index(miss.argmin(), miss.shape)
    # Between two levels, so that rounding moves no event from one side to the other.
    return Thresholds(_under(levels[0], normal), _under(levels[1], attack), 0.0, 0.0)


def _under(levels: np.ndarray, place: np.intp) -> float:
    return float(levels[place - 1 : place + 1].mean()) if place else 0.0


def _batches(features: FloatArray) -> Iterator[FloatArray]:
    return (features[start : start + BATCH] for start in range(0, len(features), BATCH))


def _joined(parts: Iterator[Answers]) -> Answers:
    labels, certainties = (np.concatenate(part) for part in zip(*parts, strict=True))
    return labels, certainties
