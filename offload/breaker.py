"""A circuit breaker: after failures in a row, ask no more for a while, then try with one request."""

import threading
import time
from collections.abc import Callable
from typing import Final

FAILURES: Final = 3
SHORTEST_PAUSE: Final = 5.0
LONGEST_PAUSE: Final = 60.0


class Breaker:
    """Says whether it is worth asking; safe in any thread.

    Closed, it lets everything through. ``FAILURES`` failures in a row open it. Open, it lets one request
    through after each pause; its success closes the breaker, its failure doubles the pause. The failures of requests
    made before it opened change nothing more.

    Args:
        clock: seconds, rising.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._pause = SHORTEST_PAUSE
        self._next_try: float | None = None  # None while closed
        self._trying = False  # since it opened, or since the last try failed

    @property
    def is_open(self) -> bool:
        """Whether requests are being held back."""
        return self._next_try is not None

    def allows(self) -> bool:
        """Return whether a request may be made; an open breaker says so once after each pause."""
        with self._lock:
            now = self._clock()
            if self._next_try is None:
                return True
            if now < self._next_try:
                return False
            self._next_try, self._trying = now + self._pause, True
            return True

    def succeeded(self) -> None:
        """Note that a request succeeded, or that there is new hope."""
        with self._lock:
            self._failures, self._pause, self._next_try, self._trying = 0, SHORTEST_PAUSE, None, False

    def failed(self) -> None:
        """Note that a request failed."""
        with self._lock:
            self._failures += 1
            if self._trying:
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
            if self._trying or (self._next_try is None and self._failures >= FAILURES):
                self._next_try, self._trying = self._clock() + self._pause, False
