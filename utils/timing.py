"""Clocks for measuring what a computation costs."""

import time
from collections.abc import Callable
from typing import Final

import torch

CLOCKS: Final[dict[str, Callable[[], float]]] = {"cpu": time.process_time, "wall": time.perf_counter}
"""``cpu`` is this process's CPU time over all threads, the paper's proxy for energy; ``wall`` is what passes."""


class Stopwatch:
    """Times one piece of work after another, in seconds.

    Args:
        clock: a key of CLOCKS.
        device: where the work runs; a CUDA device is waited for, since its work returns before it is done.
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
        """Return the seconds since the last lap, or since the start."""
        last, self._last = self._last, self._now()
        return self._last - last
