"""Pending requests of a client: their timeouts, retries and results."""

import random
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from offload.link.protocol import Answer, Request
from utils.errors import CloudUnavailableError, MessageError

FIRST_RETRY_PAUSE: Final = 0.25  # seconds
LONGEST_RETRY_PAUSE: Final = 2.0


@dataclass(frozen=True)
class RetryPolicy:
    """Timeouts and retries of a request.

    Attributes:
        attempt: seconds until an attempt without an answer counts as failed.
        retries: attempts after the first, all with the same request id.
        deadline: seconds after which a request without an answer fails, whatever the cause.
        persistent: retry until the deadline, also while there is no connection or no worker.
    """

    attempt: float
    retries: int
    deadline: float
    persistent: bool = False

    @classmethod
    def from_options(cls, request_timeout: float, retries: int, wait_timeout: float | None = None) -> "RetryPolicy":
        """Return a policy whose deadline is the end of the last attempt, or ``wait_timeout`` seconds if it is given."""
        if wait_timeout is not None:
            return cls(request_timeout, retries, wait_timeout, persistent=True)
        return cls(request_timeout, retries, (1 + retries) * request_timeout)


@dataclass
class PendingRequest:
    """A request without a final answer, with the state of its attempts.

    Attributes:
        request: the submitted request.
        body: body of its message.
        future: future of the answer.
        started: when it was submitted, on the monotonic clock, as all times here.
        attempts: how often it was published.
        failures: failed attempts, without those that ended with a lost connection.
        confirmed: whether the broker confirmed the last attempt.
        under_way: whether an attempt is in flight.
        failure: error of the last attempt.
        published: when the last attempt began.
        cancel_attempt, cancel_deadline: cancel the timers of the last attempt and of the request.
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

    def choose_pause(self) -> float:
        """Return the seconds to back off before the next attempt: random, and longer from attempt to attempt."""
        longest = min(FIRST_RETRY_PAUSE * 2 ** min(self.attempts - 1, 10), LONGEST_RETRY_PAUSE)
        return random.uniform(longest / 2, longest)


def name_result(outcome: Answer | BaseException) -> str:
    """Return the result of a request for its metric; see ``metrics.RESULTS``."""
    if isinstance(outcome, Answer):
        return "answered"
    if isinstance(outcome, MessageError):
        return "refused"
    return outcome.code if isinstance(outcome, CloudUnavailableError) else "closed"
