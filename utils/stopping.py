"""Stop a client by signals: after the first signal it finishes pending work, after the second it ends at once."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """A request to stop, and the deadline that follows from it.

    Args:
        drain_timeout: seconds that pending work may take after the request.
    """

    def __init__(self, drain_timeout: float = 0.0) -> None:
        self._drain_timeout = drain_timeout
        self._deadline: float | None = None

    def request(self) -> None:
        """Request a stop; safe in a signal handler. A second request does not extend the deadline."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._drain_timeout

    @property
    def requested(self) -> bool:
        """Whether a stop is requested, so that no new work may begin."""
        return self._deadline is not None

    @property
    def is_over(self) -> bool:
        """Whether the deadline for pending work has passed."""
        return self._deadline is not None and time.monotonic() > self._deadline

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Request a stop on the first SIGTERM or SIGINT in the block, and raise KeyboardInterrupt on the second."""

        def handle(_number: int, _frame: FrameType | None) -> None:
            if self.requested:
                raise KeyboardInterrupt
            self.request()

        previous = {number: signal.signal(number, handle) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
