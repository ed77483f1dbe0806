"""A circuit breaker: after several failures in a row, send no requests for a while, then try one."""

import threading
import time
from collections.abc import Callable
from typing import Final

FAILURES: Final = 3
SHORTEST_PAUSE: Final = 5.0  # seconds
LONGEST_PAUSE: Final = 60.0


class CircuitBreaker:
    """Decides whether a request is sent; safe in any thread.

    A closed breaker allows all requests; ``FAILURES`` failures in a row open it. An open breaker allows one request
    after each pause: its success closes the breaker, its failure doubles the pause. Failures of requests that were sent
    before the breaker opened are ignored.

    Args:
        clock: returns the time in seconds; it never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._pause = SHORTEST_PAUSE
        self._next_try: float | None = None  # None while closed
        self._trying = False  # whether the breaker is open and a request that it allowed has not ended yet

    @property
    def is_open(self) -> bool:
        """Whether requests are held back."""
        return self._next_try is not None

    def allow_request(self) -> bool:
        """Return whether a request may be sent; an open breaker allows one after each pause."""
        with self._lock:
            now = self._clock()
            if self._next_try is None:
                return True
            if now < self._next_try:
                return False
            self._next_try, self._trying = now + self._pause, True
            return True

    def record_success(self) -> None:
        """Record that a request succeeded, or that the cause of the failures is gone."""
        with self._lock:
            self._failures, self._pause, self._next_try, self._trying = 0, SHORTEST_PAUSE, None, False

    def record_failure(self) -> None:
        """Record that a request failed."""
        with self._lock:
            self._failures += 1
            if self._trying:
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
            if self._trying or (self._next_try is None and self._failures >= FAILURES):
                self._next_try, self._trying = self._clock() + self._pause, False
