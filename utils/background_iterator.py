"""Run an iterator in a background thread while the caller uses its items."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

_END: Final = object()
_POLL_SECONDS: Final = 0.1
_JOIN_TIMEOUT: Final = 0.2


def iterate_in_background(items: Iterator[T], most: int, seconds: float) -> Generator[T | None, None, None]:
    """Yield the items of an iterator that runs in a background thread, and None after each timeout without an item.

    An exception of the iterator is raised again here. Closing this generator ends the thread at its next item, but
    waits at most 0.2 seconds for it: an item may take minutes, and a signal may have to end the process at once.

    Args:
        items: the iterator, which runs only in the thread; falsy items, such as empty lists, are skipped.
        most: capacity of the queue; when it is full, the thread blocks.
        seconds: the timeout.
    """
    waiting: queue.Queue[object] = queue.Queue(most)
    closed = threading.Event()
    problem: list[BaseException] = []

    def put(item: object) -> None:
        is_put = False
        while not (is_put or closed.is_set()):
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=_POLL_SECONDS)
                is_put = True

    def run() -> None:
        try:
            for item in items:
                if closed.is_set():
                    return
                if item:
                    put(item)
        except BaseException as raised:  # re-raised in the caller's thread
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
        closed.set()
        thread.join(_JOIN_TIMEOUT)  # a daemon thread does not keep the process alive
    if problem:
        raise problem[0]
