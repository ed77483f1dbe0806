"""How a client is asked to stop: the first signal lets it finish what is under way, the second ends it at once."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether to stop.

    Args:
        drain_timeout: seconds that what is under way may still take.
    """

    def __init__(self, drain_timeout: float = 0.0) -> None:
        self._drain_timeout = drain_timeout
        self._deadline: float | None = None

    def request(self) -> None:
        """Ask to stop; safe in a signal handler. To ask again puts nothing off."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._drain_timeout

    @property
    def requested(self) -> bool:
        """Whether nothing new is to be begun."""
        return self._deadline is not None

    @property
    def is_over(self) -> bool:
        """Whether the time to finish is over too."""
        return self._deadline is not None and time.monotonic() > self._deadline

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Have SIGTERM and SIGINT ask to stop within the block, and the second of them raise KeyboardInterrupt."""

        def handle(_number: int, _frame: FrameType | None) -> None:
            if self.requested:
                raise KeyboardInterrupt
            self.request()

        former = {number: signal.signal(number, handle) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
