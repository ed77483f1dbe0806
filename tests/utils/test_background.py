"""Work in a thread of its own."""

import threading
import time
from collections.abc import Iterator

import pytest

from utils.background import in_background


def test_all_items_come_in_order_but_those_that_are_empty() -> None:
    items = in_background(iter([[1], [], [2], [3]]), most=1, seconds=5)
    assert list(items) == [[1], [2], [3]]


def test_none_comes_whenever_there_is_nothing_for_a_while() -> None:
    go = threading.Event()

    def slow() -> Iterator[int]:
        go.wait(10)
        yield 7

    items = in_background(slow(), most=1, seconds=0.01)
    assert next(items) is None
    go.set()
    assert [item for item in items if item is not None] == [7]


def test_what_the_iterator_raises_is_raised_after_its_items() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    items = in_background(failing(), most=5, seconds=5)
    assert next(items) == 1
    with pytest.raises(ValueError, match="no more"):
        next(items)


def test_the_thread_runs_ahead_by_no_more_than_was_said() -> None:
    taken: list[int] = []

    def counting() -> Iterator[int]:
        for number in range(1, 100):
            taken.append(number)
            yield number

    items = in_background(counting(), most=3, seconds=5)
    assert next(items) == 1
    time.sleep(0.3)
    assert len(taken) <= 5  # one is used, three wait, one is held
    items.close()


def test_closing_it_ends_the_thread_though_nothing_comes_any_more() -> None:
    def silent() -> Iterator[list[int]]:
        yield [1]
        while True:
            time.sleep(0.01)
            yield []

    items = in_background(silent(), most=1, seconds=5)
    assert next(items) == [1]
    items.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "background"]


def test_closing_it_does_not_wait_for_an_item_that_takes_long() -> None:
    go = threading.Event()

    def slow() -> Iterator[int]:
        yield 1
        go.wait(120)

    items = in_background(slow(), most=1, seconds=5)
    assert next(items) == 1
    items.close()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "background"]
    assert thread.is_alive()
    assert thread.daemon
    go.set()
    thread.join(60)
