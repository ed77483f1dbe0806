"""Times exit 2 for requests of a few events, on the edge and asked of a worker: a row of the table of offload timings.

Where the worker runs on the same machine, these columns are measurements of the loopback interface and of a worker
that shares its processor: ``request_local_time``, ``e2_remote_time`` and ``network_time``. ``request_process_time`` is
the client's processor alone, on whatever network. None of them says how long a real network takes.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

BATCH_SIZES: Final = (1, 5, 10)
REPEATS: Final = 30
LOOPBACK: Final = "loopback"
INPUT_SIZE: Final = 8
"""Side of the image that a network reads."""

_MILLISECONDS: Final = 1e3

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Edge:
    """What the edge can do with events.

    Attributes:
        exit_1: features (n, 58) to what exit 2 reads (n, C, H, W), exit 1 being computed too.
        exit_2: computes exit 2 of that, here.
        ask: has a worker compute exit 2 of features (n, 58); returns the worker's milliseconds.
        bytes_sent: returns how many were sent so far.
    """

    exit_1: Callable[[FloatArray], FloatArray]
    exit_2: Callable[[FloatArray], object]
    ask: Callable[[FloatArray], float]
    bytes_sent: Callable[[], int]


def timed(work: Callable[[FloatArray], object], batches: Sequence[FloatArray]) -> tuple[float, float]:
    """Return the mean milliseconds that pass for a batch, and those of this process's processor time.

    The first batch is worked on once more before, unmeasured.
    """
    work(batches[0])
    wall, processor = time.perf_counter(), time.process_time()
    for batch in batches:
        work(batch)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return _MILLISECONDS * wall / len(batches), _MILLISECONDS * processor / len(batches)


def request_batches(features: FloatArray, batch_size: int, repeats: int = REPEATS) -> list[FloatArray]:
    """Return batches of the rows of features (N, 58) in turn, from the first again after the last."""
    rows = np.arange(repeats * batch_size).reshape(repeats, batch_size) % len(features)
    return [features[chosen] for chosen in rows]


def timing_row(network: str, edge: Edge, batches: Sequence[FloatArray]) -> dict[str, object]:
    """Return a row of the table of offload timings, by ``results_folder.TIMING_COLUMNS``.

    Args:
        network: its name in the table.
        edge: does the work.
        batches: features (n, 58) of each request, all of the same n.
    """
    exit_1 = timed(edge.exit_1, batches)
    activations = [edge.exit_1(batch) for batch in batches]
    exit_2 = timed(edge.exit_2, activations)
    remote: list[float] = []
    before = edge.bytes_sent()
    request = timed(lambda batch: remote.append(edge.ask(batch)), batches)
    sent = (edge.bytes_sent() - before) / len(remote)
    seconds_there = float(np.mean(remote[1:]))  # the first is the unmeasured one
    return {
        "network": network,
        "datacenter": LOOPBACK,
        "input_size": INPUT_SIZE,
        "batch_size": len(batches[0]),
        "e1_local_time": exit_1[0],
        "e1_process_time": exit_1[1],
        "e2_local_time": exit_2[0],
        "e2_process_time": exit_2[1],
        "request_local_time": request[0],
        "request_process_time": request[1],
        "e2_remote_time": seconds_there,
        "network_time": max(request[0] - seconds_there, 0.0),
        "data_size": sent,
    }
