"""Work that goes on in a thread of its own while its results are used."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

_END: Final = object()
_LOOK: Final = 0.1
_LEAVE: Final = 0.2
"""Seconds that the thread may take to end where its results are not wanted any more."""


def in_background(items: Iterator[T], most: int, seconds: float) -> Generator[T | None, None, None]:
    """Yield the items of an iterator that a thread of its own runs, and None whenever there was none for so long.

    What the iterator raises, is raised here. To close this generator ends the thread with the next item. Nobody waits
    long for that: a signal that is to end the process at once may come while an item takes minutes.

    Args:
        items: runs in the thread alone; those that are false, such as empty lists, are left out.
        most: items that may wait; with more, the thread does.
        seconds: until a None.
    """
    waiting: queue.Queue[object] = queue.Queue(most)
    left = threading.Event()  # nobody takes any more
    problem: list[BaseException] = []

    def put(item: object) -> None:
        is_put = False
        while not (is_put or left.is_set()):
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=_LOOK)
                is_put = True

    def run() -> None:
        try:
            for item in items:
                if left.is_set():
                    return
                if item:
                    put(item)
        except BaseException as raised:  # the caller's thread raises it
            problem.append(raised)
        finally:
            put(_END)

    thread = threading.Thread(target=run, name="background", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = waiting.get(timeout=seconds)
            except queue.Empty:
                yield None
                continue
            if item is _END:
                break
            yield item  # type: ignore[misc]
    finally:
        left.set()
        thread.join(_LEAVE)  # a daemon, which does not keep the process from ending
    if problem:
        raise problem[0]
