"""Requests that a client waits for, and how long and how often it tries."""

import random
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from offload.protocol import Answer, Request
from utils.errors import CloudUnavailableError, MessageError

FIRST_RETRY_PAUSE: Final = 0.25
LONGEST_RETRY_PAUSE: Final = 2.0


@dataclass(frozen=True)
class Patience:
    """How long and how often a request is tried.

    Attributes:
        attempt: seconds until an attempt without an answer counts as failed.
        retries: attempts after the first, all under the same request id.
        deadline: seconds after which a request that was not answered has failed, however that came about.
        persistent: go on trying until the deadline, be there a connection, a worker, or not.
    """

    attempt: float
    retries: int
    deadline: float
    persistent: bool = False

    @classmethod
    def of(cls, request_timeout: float, retries: int, wait_timeout: float | None = None) -> "Patience":
        """Return the patience that ends with the last attempt, or, persistent, after ``wait_timeout``."""
        if wait_timeout is not None:
            return cls(request_timeout, retries, wait_timeout, persistent=True)
        return cls(request_timeout, retries, (1 + retries) * request_timeout)


@dataclass
class PendingRequest:
    """A request without a final answer, and what was tried for it.

    Attributes:
        request: as it was submitted.
        body: its message.
        future: of the answer.
        started: when it was submitted, on the monotonic clock, as all times here.
        attempts: how often it was published.
        failures: of attempts, without those that a lost connection ended.
        confirmed: whether the broker has said that it has the last attempt.
        under_way: whether an attempt is being waited for.
        failure: of the last attempt.
        published: when the last attempt began.
        cancel_attempt, cancel_deadline: end the timers of the last attempt and of all.
    """

    request: Request
    body: bytes
    future: Future[Answer]
    started: float
    attempts: int = 0
    failures: int = 0
    confirmed: bool = False
    under_way: bool = False
    failure: CloudUnavailableError | MessageError | None = None
    published: float = 0.0
    cancel_attempt: Callable[[], None] = field(default=lambda: None)
    cancel_deadline: Callable[[], None] = field(default=lambda: None)

    def retry_pause(self) -> float:
        """Return the seconds to wait before the next attempt: random, and longer from attempt to attempt."""
        longest = min(FIRST_RETRY_PAUSE * 2 ** min(self.attempts - 1, 10), LONGEST_RETRY_PAUSE)
        return random.uniform(longest / 2, longest)
