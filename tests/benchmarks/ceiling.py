"""What the machine can do at most, measured: a large matrix product, and a copy; and what an event asks of it."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dnn.training import is_bfloat16_fast
from utils.schema import IMAGE_SIDE

_SIDE = 1536
_COPIED = 2**26


@dataclass(frozen=True)
class Ceiling:
    """Floating-point operations a second in a matrix product, by (threads, type), and bytes a second in a copy."""

    products: dict[tuple[int, torch.dtype], float]
    copied: float

    def share(self, operations: float, seconds: float, threads: int, kind: torch.dtype = torch.float32) -> float:
        """Return what part of the product's speed so many operations in so many seconds are."""
        return operations / seconds / self.products[threads, kind]

    def in_words(self) -> str:
        """Return both, in GFLOP/s and GB/s."""
        products = ", ".join(
            f"{speed / 1e9:.0f} {str(kind).removeprefix('torch.')} on {threads} thread{'s' * (threads > 1)}"
            for (threads, kind), speed in self.products.items()
        )
        return f"matrix product, GFLOP/s: {products}; copy, GB/s read and written: {self.copied / 1e9:.1f}"


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute on so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure_ceiling(tries: int = 8) -> Ceiling:
    """Return the best of several tries, on one thread and on two; in bfloat16 too where training uses it."""
    products = {}
    has_bfloat16 = is_bfloat16_fast(torch.device("cpu"))
    for count in (1, 2):
        with threads(count):
            for kind in (torch.float32, *([torch.bfloat16] if has_bfloat16 else [])):
                matrix, result = torch.rand(_SIDE, _SIDE).to(kind), torch.empty(_SIDE, _SIDE, dtype=kind)
                least = _least(functools.partial(torch.mm, matrix, matrix, out=result), tries)
                products[count, kind] = 2 * _SIDE**3 / least
    source, target = torch.zeros(_COPIED), torch.empty(_COPIED)
    return Ceiling(products, 2 * source.nbytes / _least(lambda: target.copy_(source), tries))


def _least(work: Callable[[], object], tries: int) -> float:
    seconds = []
    for _ in range(tries):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def operations(compute: Callable[[Tensor], object]) -> int:
    """Return the floating-point operations of products and convolutions in what is done to one image (1, 1, 8, 8)."""
    with FlopCounterMode(display=False) as counter:
        compute(torch.zeros(1, 1, IMAGE_SIDE, IMAGE_SIDE))
    return int(counter.get_total_flops())


def training_operations(network: nn.Module) -> int:
    """Return those of a forward and a backward pass of one row."""

    def step(image: Tensor) -> None:
        with torch.enable_grad():
            sum(logits.sum() for logits in network(image)).backward()

    found = operations(step)
    network.zero_grad(set_to_none=True)
    return found


def processor() -> str:
    """Return the processor's name, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown processor"
