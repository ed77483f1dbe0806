"""Iterators that run in a background thread."""

import threading
import time
from collections.abc import Iterator

import pytest

from utils.background_iterator import iterate_in_background


def test_items_are_yielded_in_order_without_the_empty_ones() -> None:
    items = iterate_in_background(iter([[1], [], [2], [3]]), most=1, seconds=5)
    assert list(items) == [[1], [2], [3]]


def test_none_is_yielded_after_each_timeout_without_an_item() -> None:
    go = threading.Event()

    def slow() -> Iterator[int]:
        go.wait(10)
        yield 7

    items = iterate_in_background(slow(), most=1, seconds=0.01)
    assert next(items) is None
    go.set()
    assert [item for item in items if item is not None] == [7]


def test_an_exception_of_the_iterator_is_raised_after_its_items() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    items = iterate_in_background(failing(), most=5, seconds=5)
    assert next(items) == 1
    with pytest.raises(ValueError, match="no more"):
        next(items)


def test_the_thread_blocks_when_the_queue_is_full() -> None:
    taken: list[int] = []

    def counting() -> Iterator[int]:
        for number in range(1, 100):
            taken.append(number)
            yield number

    items = iterate_in_background(counting(), most=3, seconds=5)
    assert next(items) == 1
    time.sleep(0.3)
    assert len(taken) <= 5  # one is used, three wait, one is held
    items.close()


def test_closing_the_generator_ends_a_thread_that_gets_no_more_items() -> None:
    def silent() -> Iterator[list[int]]:
        yield [1]
        while True:
            time.sleep(0.01)
            yield []

    items = iterate_in_background(silent(), most=1, seconds=5)
    assert next(items) == [1]
    items.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "background"]


def test_closing_the_generator_does_not_wait_for_a_slow_item() -> None:
    go = threading.Event()

    def slow() -> Iterator[int]:
        yield 1
        go.wait(120)

    items = iterate_in_background(slow(), most=1, seconds=5)
    assert next(items) == 1
    items.close()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "background"]
    assert thread.is_alive()
    assert thread.daemon
    go.set()
    thread.join(60)
