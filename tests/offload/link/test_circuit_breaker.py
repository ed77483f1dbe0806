"""The circuit breaker, with a clock that tests set."""

import threading
import time

from offload.link.circuit_breaker import FAILURES, LONGEST_PAUSE, SHORTEST_PAUSE, CircuitBreaker


class Clock:
    """A clock that shows the time to which it was set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> CircuitBreaker:
    """Return a breaker that has just opened."""
    breaker = CircuitBreaker(clock)
    for _ in range(FAILURES):
        breaker.record_failure()
    assert breaker.is_open
    return breaker


def pause_of(breaker: CircuitBreaker, clock: Clock) -> float:
    """Advance the clock until the breaker allows a request; return the seconds."""
    start = clock.now
    while not breaker.allow_request():
        clock.now += 0.25
        assert clock.now < start + 10 * LONGEST_PAUSE
    return clock.now - start


def test_a_closed_breaker_allows_all_requests() -> None:
    breaker = CircuitBreaker(Clock())
    assert all(breaker.allow_request() for _ in range(100))
    assert not breaker.is_open


def test_the_breaker_opens_after_three_failures_in_a_row() -> None:
    breaker = CircuitBreaker(Clock())
    for _ in range(FAILURES - 1):
        breaker.record_failure()
    assert breaker.allow_request() and not breaker.is_open
    breaker.record_failure()
    assert breaker.is_open and not breaker.allow_request()


def test_a_success_resets_the_count_of_failures() -> None:
    breaker = CircuitBreaker(Clock())
    for _ in range(10):
        for _ in range(FAILURES - 1):
            breaker.record_failure()
        breaker.record_success()
    assert not breaker.is_open


def test_an_open_breaker_allows_one_request_after_each_pause() -> None:
    clock = Clock()
    breaker = opened(clock)
    for _ in range(5):  # of none of these the outcome is known yet
        assert pause_of(breaker, clock) == SHORTEST_PAUSE
        assert not any(breaker.allow_request() for _ in range(10))
    assert breaker.is_open


def test_each_failed_try_doubles_the_pause_up_to_the_longest() -> None:
    clock = Clock()
    breaker = opened(clock)
    pauses = []
    for _ in range(8):
        pauses.append(pause_of(breaker, clock))
        clock.now += 1.0  # the pause begins when the try has failed
        breaker.record_failure()
    doubled = [SHORTEST_PAUSE * 2**i for i in range(8)]
    assert pauses == [min(pause, LONGEST_PAUSE) for pause in doubled]
    assert doubled[-1] > LONGEST_PAUSE


def test_failures_of_earlier_requests_do_not_change_the_pause() -> None:
    clock = Clock()
    breaker = opened(clock)
    for _ in range(20):  # a whole window of them
        clock.now += SHORTEST_PAUSE / 40
        breaker.record_failure()
    assert pause_of(breaker, clock) == SHORTEST_PAUSE / 2
    breaker.record_failure()
    breaker.record_failure()
    assert pause_of(breaker, clock) == 2 * SHORTEST_PAUSE


def test_a_success_closes_the_breaker_and_resets_the_pause() -> None:
    clock = Clock()
    breaker = opened(clock)
    for _ in range(3):
        pause_of(breaker, clock)
        breaker.record_failure()
    breaker.record_success()
    assert not breaker.is_open and breaker.allow_request() and breaker.allow_request()
    for _ in range(FAILURES):
        assert breaker.allow_request()
        breaker.record_failure()
    assert pause_of(breaker, clock) == SHORTEST_PAUSE


def test_a_success_of_an_earlier_request_closes_the_breaker() -> None:
    breaker = opened(Clock())
    breaker.record_success()
    assert breaker.allow_request() and not breaker.is_open


class Sluggish(float):
    """A time that takes long to compare, so that threads meet in the middle of a decision."""

    def __lt__(self, other: float) -> bool:
        time.sleep(0.002)
        return super().__lt__(other)


def test_exactly_one_of_many_threads_is_allowed() -> None:
    clock = Clock()
    breaker = opened(clock)
    for _ in range(10):
        clock.now = Sluggish(clock.now + SHORTEST_PAUSE)
        allowed: list[bool] = []
        together = threading.Barrier(8)

        def ask(together: threading.Barrier = together, allowed: list[bool] = allowed) -> None:
            together.wait(10)
            allowed.extend(breaker.allow_request() for _ in range(3))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert (len(allowed), sum(allowed)) == (24, 1)


def test_failures_of_many_threads_are_all_counted() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    threads = [threading.Thread(target=breaker.record_failure) for _ in range(FAILURES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert breaker.is_open


def test_the_default_clock_runs() -> None:
    breaker = CircuitBreaker()
    for _ in range(FAILURES):
        breaker.record_failure()
    assert not breaker.allow_request()
