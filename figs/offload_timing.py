"""Measure how long exit 2 takes for requests of a few events, on the edge and at a worker.

If the worker runs on the same machine, the columns ``request_local_time``, ``e2_remote_time`` and ``network_time``
measure the loopback interface and a worker that shares the processor, so they do not say how long a real network takes.
``request_process_time`` is the processor time of the client alone, over any network.
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
"""Side of the image that a network reads, in pixels."""

_MILLISECONDS: Final = 1e3

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class EdgeFunctions:
    """The functions of an edge client that are measured.

    Attributes:
        exit_1: computes exit 1 of features (n, 58); returns the activations that exit 2 reads (n, C, H, W).
        exit_2: computes exit 2 of these activations on the edge.
        ask: requests exit 2 of features (n, 58) from a worker; returns the worker's milliseconds.
        bytes_sent: returns the number of bytes that the client has sent so far.
    """

    exit_1: Callable[[FloatArray], FloatArray]
    exit_2: Callable[[FloatArray], object]
    ask: Callable[[FloatArray], float]
    bytes_sent: Callable[[], int]


def measure_time(work: Callable[[FloatArray], object], batches: Sequence[FloatArray]) -> tuple[float, float]:
    """Return the mean milliseconds per batch: elapsed, and of this process's processor time.

    The first batch is computed once before the measurement, to warm up.
    """
    work(batches[0])
    wall, processor = time.perf_counter(), time.process_time()
    for batch in batches:
        work(batch)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return _MILLISECONDS * wall / len(batches), _MILLISECONDS * processor / len(batches)


def make_request_batches(features: FloatArray, batch_size: int, repeats: int = REPEATS) -> list[FloatArray]:
    """Return batches of the rows of features (N, 58) in order, starting again at the first row after the last."""
    rows = np.arange(repeats * batch_size).reshape(repeats, batch_size) % len(features)
    return [features[chosen] for chosen in rows]


def measure_requests(network: str, edge: EdgeFunctions, batches: Sequence[FloatArray]) -> dict[str, object]:
    """Measure requests, and return a row of the table of offload timings: column -> value.

    Args:
        network: name of the network in the table.
        edge: the functions to measure.
        batches: features (n, 58) of each request, all with the same n.

    Returns:
        columns ``results_folder.TIMING_COLUMNS``.
    """
    exit_1 = measure_time(edge.exit_1, batches)
    activations = [edge.exit_1(batch) for batch in batches]
    exit_2 = measure_time(edge.exit_2, activations)
    remote: list[float] = []
    before = edge.bytes_sent()
    request = measure_time(lambda batch: remote.append(edge.ask(batch)), batches)
    sent = (edge.bytes_sent() - before) / len(remote)
    worker_milliseconds = float(np.mean(remote[1:]))  # the first one was the warm-up
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
        "e2_remote_time": worker_milliseconds,
        "network_time": max(request[0] - worker_milliseconds, 0.0),
        "data_size": sent,
    }
