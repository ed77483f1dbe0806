"""What torchrun tells each process that it starts, and how the processes of a machine speak with one voice."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LINGER: Final = 5.0
"""Seconds that a silent process waits after a usage error. torchrun ends all processes as soon as one has left, and the
one that speaks must have spoken."""


@dataclass(frozen=True)
class Place:
    """Where a process stands among those that train together.

    Attributes:
        rank: its number among all, from 0.
        world: how many there are.
        local_rank: its number among those of its machine, from 0.
        local_world: how many there are on its machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def place() -> Place:
    """Return this process's place; one that torchrun has not started is alone."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Place()
    return Place(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))


@contextmanager
def one_voice() -> Iterator[None]:
    """Print nothing in the block, unless this process is the first of its machine.

    A fault of ours keeps its traceback: that is printed after the block.
    """
    if place().local_rank == 0:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            yield
        except SystemExit as left:  # argparse
            if left.code:
                _linger()
            raise


def _linger() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    time.sleep(_LINGER)
