"""Read what torchrun tells each process, and let only one process of a machine print."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LINGER: Final = 5.0
"""Seconds that a silent process waits after a usage error: torchrun ends all processes as soon as one ends, and the one
that prints must have printed the error."""


@dataclass(frozen=True)
class Place:
    """A process's number among those that train together.

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
    """Return this process's place; the default, if torchrun did not start it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Place()
    return Place(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))


@contextmanager
def silence_others() -> Iterator[None]:
    """Print nothing in the block, unless this process is the first of its machine.

    A traceback is still printed, because that happens after the block.
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
