"""Read the environment variables that torchrun sets, and let only one process per machine print."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LINGER: Final = 5.0
"""Seconds that a silenced process waits after a usage error. torchrun stops all processes as soon as one ends, and the
process that prints must print the error before that."""


@dataclass(frozen=True)
class Place:
    """The numbers of a process among those that train together.

    Attributes:
        rank: number among all processes, from 0.
        world: number of processes.
        local_rank: number among the processes of its machine, from 0.
        local_world: number of processes on its machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def read_place() -> Place:
    """Return the place of this process; the default ``Place()`` if torchrun did not start it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Place()
    return Place(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))


@contextmanager
def silence_others() -> Iterator[None]:
    """Suppress output in the block, unless this process is the first on its machine.

    A traceback is still printed, because Python prints it after the block.
    """
    if read_place().local_rank == 0:
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
