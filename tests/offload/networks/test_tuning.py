import time

import numpy as np

from offload.networks.exits import ActivationsAt, FloatArray, Network
from offload.networks.tuning import find_fastest


class Sleepy:
    """Opens networks, the faster the nearer to 2 threads and chunks of 16, and notes which."""

    def __init__(self) -> None:
        self.opened: list[tuple[int | None, int]] = []

    def __call__(self, threads: int | None, chunk: int) -> Network:
        self.opened.append((threads, chunk))

        def exit_1(features: FloatArray) -> tuple[FloatArray, ActivationsAt]:
            time.sleep(0.002 * (abs((threads or 1) - 2) + abs(np.log2(chunk / 16))))
            return np.zeros((len(features), 2), np.float32), lambda _rows: features

        return Network("AlexNetWithExits", "", (64, 5, 5), "cpu", exit_1, None)


def test_the_fastest_pair_of_threads_and_chunk_is_chosen() -> None:
    network, threads, chunk = find_fastest(Sleepy(), [1, 2], [8, 16, 64])
    assert (threads, chunk) == (2, 16)
    assert network.architecture == "AlexNetWithExits"


def test_nothing_is_measured_if_there_is_only_one_pair() -> None:
    opening = Sleepy()
    assert find_fastest(opening, [None], [64])[1:] == (None, 64)
    assert opening.opened == [(None, 64)]
