"""Several processes that train as one: each computes a share of every batch, and all take the same steps.

The processes are started by torchrun, on one machine or several, and are numbered by rank. They exchange tensors of
fixed sizes alone: nothing that comes from the network is ever unpickled. Who can reach their ports can disturb the run,
so they belong on a trusted network.
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

from dnn.torchrun import Place, place
from utils.errors import DeviceError, PeerError, ToolkitError
from utils.schema import AUTO

PATIENCE: Final = timedelta(minutes=30)
"""How long a process waits for the others: one may read a slower disk, or judge an epoch."""

_MESSAGE_BYTES: Final = 1000
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_SIGNS_OF_A_LOST_PEER: Final = ("gloo", "Connection closed", "Connection reset", "Broken pipe", "Timed out")


class Ranks:
    """This process among those that train together; alone, where nothing else is said.

    Every process must call the methods that exchange something in the same order.
    """

    def __init__(self, place: Place | None = None) -> None:
        place = place or Place()
        self.rank, self.world = place.rank, place.world

    @property
    def is_first(self) -> bool:
        """Whether this process prints, judges epochs and writes files."""
        return self.rank == 0

    def joined(self, network: nn.Module) -> nn.Module:
        """Return what to call in place of the network: its gradients are the mean over all processes'.

        The weights of the first process become everyone's.
        """
        if self.world == 1:
            return network
        with self.reaching_all():
            return DistributedDataParallel(network, forward_sync_buffers=False)

    def share(
        self, features: NDArray[np.float32], weights: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the rows of a batch that this process computes, and what they weigh in its own loss.

        The weights are multiplied by the number of processes, because their gradients are averaged: so the mean is the
        whole batch's gradient.

        Args:
            features: (U, 58) float32, the same in every process, U >= 1.
            weights: (U, 2) float32, summing to 1.

        Returns:
            (V, 58) and (V, 2), V >= 1. With fewer rows than processes, the last ones get one that weighs nothing: a
            process that computes nothing would leave the others waiting for its gradient.
        """
        if self.world == 1:
            return features, weights
        mine = weights[self.rank :: self.world] * np.float32(self.world)
        if len(mine) == 0:
            return features[:1], np.zeros_like(weights[:1])
        return features[self.rank :: self.world], mine

    def mean(self, value: float) -> float:
        """Return the mean of every process's value."""
        if self.world == 1:
            return value
        with self.reaching_all():
            distributed.all_reduce(total := torch.tensor([value], dtype=torch.float64))
        return float(total) / self.world

    def check_same(self, mark: bytes, what: str) -> None:
        """Check that every process holds the same.

        Args:
            mark: a digest of it, of 7 bytes or more.
            what: it is, for the message.

        Raises:
            PeerError: they do not.
        """
        if self.world == 1:
            return
        number = int.from_bytes(mark[:7], "big")
        with self.reaching_all():
            distributed.all_reduce(least := torch.tensor([number, -number]), distributed.ReduceOp.MIN)
        if int(least[0]) != -int(least[1]):
            _finish_undisturbed()
            raise PeerError(f"the processes do not have the same {what}; give all of them the same files and options")

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait for everyone at the end of the block; if the block fails in one process, all fail, with its message.

        The block must exchange nothing.

        Raises:
            PeerError: it failed in another process.
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
        _finish_undisturbed()
        rank, text = failed
        if rank == self.rank and problem is not None:
            raise problem
        raise PeerError(f"process {rank}: {text}") from problem

    def _first_failure(self, problem: Exception | None) -> tuple[int, str] | None:
        """Return the least rank in which something failed and its message; None where nothing did."""
        if self.world == 1:
            return None
        with self.reaching_all():
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
    def reaching_all(self) -> Iterator[None]:
        """Turn what the libraries raise when another process is gone into one clear message.

        Raises:
            PeerError: one is gone.
        """
        try:
            yield
        except RuntimeError as problem:
            lost = isinstance(problem, distributed.DistError) or any(
                sign in str(problem) for sign in _SIGNS_OF_A_LOST_PEER
            )
            if self.world == 1 or not lost:
                raise
            _finish_undisturbed()
            raise PeerError(
                "another process of this run left before its time or fell silent for 30 minutes: it was stopped or "
                "killed, or its machine cannot be reached; start all again, with --resume where an epoch is saved"
            ) from problem


ALONE: Final = Ranks()


def device_name(asked: str) -> str:
    """Return this process's device, where ``--device`` says ``asked``: of several GPUs, each takes its own.

    Raises:
        DeviceError: all processes of a machine are asked onto one GPU.
    """
    here = place()
    if here.local_world > 1 and asked.startswith("cuda:"):
        raise DeviceError(f"--device {asked}: is one GPU for {here.local_world} processes; use --device cuda")
    on_gpus = asked == "cuda" or (asked == AUTO and torch.cuda.is_available())
    return f"cuda:{here.local_rank}" if here.world > 1 and on_gpus else asked


@contextmanager
def joining() -> Iterator[Ranks]:
    """Meet the other processes that torchrun started; part from them at the end of the block.

    Raises:
        PeerError: they cannot be reached.
    """
    here = place()
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
            f"the processes did not meet at {meeting}: {problem}; check torchrun's --master-addr and --master-port, "
            "and GLOO_SOCKET_IFNAME"
        ) from problem
    yield Ranks(here)
    # Only after success: what is under way when a process fails would be waited for here.
    distributed.destroy_process_group()


def digest(*parts: bytes | NDArray[np.float32] | NDArray[np.int64]) -> bytes:
    """Return the SHA-256 of bytes and arrays, one after the other."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).data.cast("B"))
    return total.digest()


def _interrupt_once(_number: int, _frame: FrameType | None) -> None:
    """Interrupt at the first signal. The terminal sends one, and torchrun a second."""
    _finish_undisturbed()
    raise KeyboardInterrupt


def _finish_undisturbed() -> None:
    """Let nothing interrupt this process while it says what went wrong: torchrun stops all once one has left."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
