"""Measure the processor time or the elapsed time of computations."""

import time
from collections.abc import Callable
from typing import Final

import torch

CLOCKS: Final[dict[str, Callable[[], float]]] = {"cpu": time.process_time, "wall": time.perf_counter}
"""``cpu``: this process's CPU time over all threads, the paper's proxy for energy; ``wall``: elapsed time."""


class Stopwatch:
    """A clock that measures consecutive computations, in seconds.

    Args:
        clock: a key of ``CLOCKS``.
        device: device of the computations. A CUDA device is synchronized, because its calls return before they end.
    """

    def __init__(self, clock: str, device: torch.device) -> None:
        self._read = CLOCKS[clock]
        self._device = device
        self._last = self._now()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._read()

    def lap(self) -> float:
        """Return the seconds since the previous lap, or since the start."""
        last, self._last = self._last, self._now()
        return self._last - last
