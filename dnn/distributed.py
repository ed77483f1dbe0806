"""Train with several processes: each computes a share of every batch, and all take the same steps.

torchrun starts the processes, on one machine or several, and numbers them by rank. They exchange only tensors of fixed
sizes, so this module unpickles nothing from the network. Anyone who can reach the ports can disturb the run, so use a
trusted network.
"""

import hashlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from dnn.torchrun import Place, read_place
from utils.errors import DeviceError, PeerError, ToolkitError
from utils.schema import AUTO

PATIENCE: Final = timedelta(minutes=30)
"""How long a process waits for the others, because one may have a slower disk or may be evaluating an epoch."""

_MESSAGE_BYTES: Final = 1000
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_SIGNS_OF_A_LOST_PEER: Final = ("gloo", "Connection closed", "Connection reset", "Broken pipe", "Timed out")


class Ranks:
    """The processes that train together; by default, this process only.

    All processes must call the methods that exchange data in the same order.
    """

    def __init__(self, place: Place | None = None) -> None:
        place = place or Place()
        self.rank, self.world = place.rank, place.world

    @property
    def is_first(self) -> bool:
        """Whether this process prints, evaluates epochs and writes files."""
        return self.rank == 0

    def join(self, network: nn.Module) -> nn.Module:
        """Return a module to call instead of the network; it averages the gradients over all processes.

        All processes get the weights of the first one.
        """
        if self.world == 1:
            return network
        with self.report_lost_peers():
            return DistributedDataParallel(network, forward_sync_buffers=False)

    def take_share(
        self, features: NDArray[np.float32], weights: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the rows of a batch that this process computes, and their weights in its loss.

        The weights are multiplied by the number of processes, so that the mean of the gradients is the gradient of the
        whole batch.

        Args:
            features: (U, 58) float32, the same in every process, U >= 1.
            weights: (U, 2) float32, summing to 1.

        Returns:
            (V, 58) and (V, 2), V >= 1. With fewer rows than processes, the last processes get a row of weight 0,
            because the other processes would wait for their gradients.
        """
        if self.world == 1:
            return features, weights
        mine = weights[self.rank :: self.world] * np.float32(self.world)
        if len(mine) == 0:
            return features[:1], np.zeros_like(weights[:1])
        return features[self.rank :: self.world], mine

    def average(self, value: float) -> float:
        """Return the mean of a value over all processes."""
        if self.world == 1:
            return value
        with self.report_lost_peers():
            distributed.all_reduce(total := torch.tensor([value], dtype=torch.float64))
        return float(total) / self.world

    def check_same(self, mark: bytes, what: str) -> None:
        """Check that all processes have the same data.

        Args:
            mark: a digest of the data, of which the first 7 bytes are compared.
            what: name of the data for the error message.

        Raises:
            PeerError: the data differ.
        """
        if self.world == 1:
            return
        number = int.from_bytes(mark[:7], "big")
        with self.report_lost_peers():
            distributed.all_reduce(least := torch.tensor([number, -number]), distributed.ReduceOp.MIN)
        if int(least[0]) != -int(least[1]):
            _ignore_signals()
            raise PeerError(f"the processes do not have the same {what}. Give all of them the same files and options.")

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """Wait for all processes at the end of the block; if the block fails in any process, fail in all of them.

        If it fails in several, all report the message of the lowest rank. The block must not exchange data.

        Raises:
            PeerError: the block failed in another process.
        """
        problem: Exception | None = None
        try:
            yield
        except Exception as caught:
            if self.world == 1:
                raise
            problem = caught
        failed = self._first_failure(problem)
        if failed is None:
            return
        _ignore_signals()
        rank, text = failed
        if rank == self.rank and problem is not None:
            raise problem
        raise PeerError(f"process {rank}: {text}") from problem

    def _first_failure(self, problem: Exception | None) -> tuple[int, str] | None:
        """Return the lowest rank that failed, and its message; None if no process failed."""
        if self.world == 1:
            return None
        with self.report_lost_peers():
            least = torch.tensor([self.world if problem is None else self.rank])
            distributed.all_reduce(least, distributed.ReduceOp.MIN)
            rank = int(least)
            if rank == self.world:
                return None
            text = str(problem) if isinstance(problem, ToolkitError) else repr(problem)
            message = torch.zeros(_MESSAGE_BYTES, dtype=torch.uint8)
            if rank == self.rank:
                body = " ".join(text.split()).encode()[:_MESSAGE_BYTES]
                message[: len(body)] = torch.frombuffer(bytearray(body), dtype=torch.uint8)
            distributed.broadcast(message, src=rank)
        received = message.numpy().tobytes().rstrip(b"\0").decode(errors="replace")
        return rank, "".join(letter if letter.isprintable() else "?" for letter in received)

    @contextmanager
    def report_lost_peers(self) -> Iterator[None]:
        """Replace the various errors that the libraries raise about a lost process by a PeerError.

        Raises:
            PeerError: another process ended or does not respond.
        """
        try:
            yield
        except RuntimeError as problem:
            lost = isinstance(problem, distributed.DistError) or any(
                sign in str(problem) for sign in _SIGNS_OF_A_LOST_PEER
            )
            if self.world == 1 or not lost:
                raise
            _ignore_signals()
            raise PeerError(
                "another process of this run ended or did not answer for 30 minutes: it was stopped or killed, or its "
                "machine cannot be reached. Start all again, with --resume where an epoch is saved."
            ) from problem


ALONE: Final = Ranks()


def choose_device_name(asked: str) -> str:
    """Return the name of this process's device for a value of ``--device``; on GPUs, each process gets its own.

    Raises:
        DeviceError: the value names one GPU for several processes of a machine.
    """
    here = read_place()
    if here.local_world > 1 and asked.startswith("cuda:"):
        raise DeviceError(f"--device {asked}: is one GPU for {here.local_world} processes. Use --device cuda.")
    on_gpus = asked == "cuda" or (asked == AUTO and torch.cuda.is_available())
    return f"cuda:{here.local_rank}" if here.world > 1 and on_gpus else asked


@contextmanager
def join_processes() -> Iterator[Ranks]:
    """Connect the processes that torchrun started, for the duration of the block.

    Raises:
        PeerError: a process cannot be reached.
    """
    here = read_place()
    if here.world == 1:
        yield ALONE
        return
    for number in _SIGNALS:
        signal.signal(number, _interrupt_once)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        distributed.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as problem:
        meeting = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise PeerError(
            f"the processes did not connect at {meeting}: {problem}. Check torchrun's --master-addr and --master-port, "
            "and GLOO_SOCKET_IFNAME."
        ) from problem
    yield Ranks(here)
    # Not after an error, because this would wait for exchanges that a failed process does not complete.
    distributed.destroy_process_group()


def compute_digest(*parts: bytes | NDArray[np.float32] | NDArray[np.int64]) -> bytes:
    """Return the SHA-256 of bytes and arrays, concatenated in order."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).data.cast("B"))
    return total.digest()


def _interrupt_once(_number: int, _frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt on the first signal, and ignore later ones: torchrun repeats the terminal's signal."""
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    """Ignore signals while this process reports an error, because torchrun stops all processes as soon as one ends."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
